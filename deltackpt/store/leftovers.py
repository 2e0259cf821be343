"""Small objects whose purpose is gone, and files of writers that were killed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from deltackpt.format.keys import (
    NOTES,
    PARITY,
    mark_key,
    parse_manifest_key,
    parse_note_key,
    parse_parity_key,
    pending_key,
    tag_key,
)
from deltackpt.format.signature import SIGNATURES
from deltackpt.format.times import parse_time
from deltackpt.store.marks import read_marks
from deltackpt.store.names import read_tags
from deltackpt.store.opened import OpenStore
from deltackpt.store.pending import MARGIN, has_ended, read_pendings
from deltackpt.store.remove import MARK_LIFE
from deltackpt.store.visible import all_manifests

__all__ = ["remove_leftovers"]

_TEMPORARY_AGE = 86400.0
"""Seconds after which a temporary file is taken for that of a writer that was killed."""


@runtime_checkable
class HoldsTemporaries(Protocol):
    """A backend in which killed writers may leave files that are no objects."""

    def remove_temporaries(self, min_age: float) -> int:
        """Remove those not written to for so many seconds, and return how many."""
        ...


def remove_leftovers(store: OpenStore) -> int:
    """Remove what nothing refers to any more, and return how much.

    Announcements of saves that have ended; marks of removals that were killed; tags, notes, signatures and parity of
    what is gone; temporary files.
    """
    gone = list(_find_leftovers(store))
    for key in gone:
        store.backend.delete(key)
    backend = store.backend
    temporaries = backend.remove_temporaries(_TEMPORARY_AGE) if isinstance(backend, HoldsTemporaries) else 0
    return len(gone) + temporaries


def _find_leftovers(store: OpenStore) -> Iterator[str]:
    now = store.clock()
    for pending_id, pending in read_pendings(store):
        if has_ended(pending, now):
            yield pending_key(pending_id)
    for placed in read_marks(store):
        unfinished = placed.mark.waits is None and not (placed.mark.packs or placed.mark.indexes)
        if unfinished and parse_time(placed.mark.created) + MARK_LIFE + MARGIN < now:
            yield mark_key(placed.id)
    # What is about a step or object is listed before these are: it is never older than what it is about.
    tags = read_tags(store)
    notes = [found.key for found in store.backend.list(NOTES)]
    signatures = [found.key for found in store.backend.list(SIGNATURES)]
    parity = [found.key for found in store.backend.list(PARITY)]
    steps = {(found.key.branch, found.key.step) for found in all_manifests(store)}
    for name, tag in tags.items():
        if (tag.branch, tag.step) not in steps:
            yield tag_key(name)
    for key in notes:
        place = parse_note_key(key)
        if place is not None and place not in steps:
            yield key
    if not (signatures or parity):
        return
    objects = {found.key for found in store.backend.list()}
    for key in signatures:
        signed = f"manifests/{key.removeprefix(SIGNATURES).rpartition('/')[0]}"
        if parse_manifest_key(signed) is not None and signed not in objects:
            yield key
    for key in parity:
        protected = parse_parity_key(key)
        if protected is not None and protected not in objects:
            yield key
