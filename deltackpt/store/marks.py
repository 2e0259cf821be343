"""Marks: what somebody is about to delete (``docs/invariants.md``, Deletion)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from deltackpt.errors import MissingObjectError
from deltackpt.format.keys import MARKS, mark_key, parse_id_key
from deltackpt.format.pending import Mark, decode_mark, encode_mark
from deltackpt.store.opened import OpenStore

__all__ = ["PlacedMark", "put_mark", "read_marks"]


@dataclass(frozen=True, slots=True)
class PlacedMark:
    """A mark in a store.

    Attributes:
        id: its name there.
    """

    id: str
    mark: Mark


def read_marks(store: OpenStore) -> list[PlacedMark]:
    """All marks, in order of their ids.

    Raises:
        CorruptObjectError, UnknownVersionError: one cannot be read.
    """
    marks = []
    for found in store.backend.list(MARKS):
        mark_id = parse_id_key(found.key, MARKS)
        if mark_id is None:
            continue
        try:
            data = store.backend.get(found.key)
        except MissingObjectError:  # all that it named is gone
            continue
        marks.append(PlacedMark(mark_id, decode_mark(data, source=found.key)))
    return marks


def put_mark(store: OpenStore, mark: Mark, mark_id: str | None = None) -> PlacedMark:
    """Put a new mark; with an id, put it in the place of that one, of which it is a newer version."""
    placed = PlacedMark(uuid.uuid4().hex if mark_id is None else mark_id, mark)
    store.backend.put(mark_key(placed.id), encode_mark(mark))
    return placed
