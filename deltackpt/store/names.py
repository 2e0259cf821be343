"""Tags, notes and starts of branches: small objects beside the steps they are about."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping

from deltackpt.errors import InvalidArgumentError, MissingObjectError, ObjectExistsError, StepNotFoundError
from deltackpt.format.keys import (
    BRANCHES,
    NOTES,
    TAGS,
    StepKey,
    branch_key,
    note_key,
    note_prefix,
    parse_branch_key,
    parse_note_key,
    parse_tag_key,
    tag_key,
)
from deltackpt.format.manifest import Metric
from deltackpt.format.names import (
    BranchStart,
    Note,
    Tag,
    decode_branch_start,
    decode_note,
    decode_tag,
    encode_branch_start,
    encode_note,
    encode_tag,
)
from deltackpt.format.times import format_time
from deltackpt.store.opened import OpenStore

__all__ = [
    "RESERVED_BRANCHES",
    "add_note",
    "find_branch_start",
    "put_branch_start",
    "put_tag",
    "read_branch_starts",
    "read_notes",
    "read_tags",
    "remove_tag",
]

RESERVED_BRANCHES = ("best", "tag")
"""``tag:x`` and ``best:x`` are ways to write a step."""


def read_tags(store: OpenStore) -> dict[str, Tag]:
    """All tags by name."""
    tags: dict[str, Tag] = {}
    for found in store.backend.list(TAGS):
        name = parse_tag_key(found.key)
        data = None if name is None else _get(store, found.key)
        if name is not None and data is not None:
            tags[name] = decode_tag(data, source=found.key)
    return tags


def put_tag(store: OpenStore, name: str, key: StepKey, *, move: bool = False) -> Tag:
    """Name a step.

    Args:
        move: whether a tag of this name may be taken from another step.

    Raises:
        InvalidArgumentError: another step has the tag, and not ``move``.
    """
    tag = Tag(key.branch, key.step, format_time(store.clock()))
    if move:
        store.backend.put(tag_key(name), encode_tag(tag))
        return tag
    try:
        store.backend.put_if_absent(tag_key(name), encode_tag(tag))
    except ObjectExistsError:
        held = read_tags(store).get(name)
        if held is None or (held.branch, held.step) != (key.branch, key.step):
            there = "gone already" if held is None else f"step {held.branch}:{held.step}"
            raise InvalidArgumentError(
                f"the tag {name!r} is on {there}", where=store.url, hint="move it with --move, or remove it first"
            ) from None
        return held
    return tag


def remove_tag(store: OpenStore, name: str) -> Tag:
    """Take a name away.

    Raises:
        StepNotFoundError: there is no such tag.
    """
    tags = read_tags(store)
    if name not in tags:
        raise StepNotFoundError(
            f"there is no tag {name!r}",
            where=store.url,
            hint=f"tags: {', '.join(sorted(tags))}" if tags else "there are none",
        )
    store.backend.delete(tag_key(name))
    return tags[name]


def add_note(store: OpenStore, key: StepKey, saved: str, metrics: Mapping[str, Metric]) -> Note:
    """Note metrics that came after a step was saved.

    Args:
        saved: ``created`` of the step's manifest.

    Raises:
        InvalidArgumentError: a value that cannot be recorded, or none at all.
    """
    if not metrics:
        raise InvalidArgumentError("nothing to note", hint="give at least one NAME=VALUE")
    note = Note(saved, format_time(store.clock()), dict(metrics))
    store.backend.put(note_key(key.branch, key.step, uuid.uuid4().hex), encode_note(note))
    return note


def read_notes(store: OpenStore, places: Collection[tuple[str, int]]) -> dict[tuple[str, int], list[Note]]:
    """The notes on steps, given as (branch, step); those on each in the order in which they were made."""
    prefix = NOTES
    if len(places) == 1:
        [(branch, step)] = places
        prefix = note_prefix(branch, step)
    notes: dict[tuple[str, int], list[tuple[str, str, Note]]] = {}
    for found in store.backend.list(prefix):
        place = parse_note_key(found.key)
        if place is None or place not in places:
            continue
        data = _get(store, found.key)
        if data is not None:
            note = decode_note(data, source=found.key)
            notes.setdefault(place, []).append((note.created, found.key, note))
    return {place: [note for *_, note in sorted(made, key=lambda m: m[:2])] for place, made in notes.items()}


def put_branch_start(store: OpenStore, name: str, start: StepKey) -> BranchStart:
    """Make a branch that begins at a step of another one.

    Raises:
        InvalidArgumentError: the name is reserved, or the branch begins elsewhere.
    """
    if name in RESERVED_BRANCHES:
        raise InvalidArgumentError(f"a branch cannot be called {name!r}", hint=f"{name}:… is a way to write a step")
    made = BranchStart(start, format_time(store.clock()))
    try:
        store.backend.put_if_absent(branch_key(name), encode_branch_start(made))
    except ObjectExistsError:
        held = find_branch_start(store, name)
        if held is None or (held.start.branch, held.start.step) != (start.branch, start.step):
            where = "elsewhere" if held is None else f"at {held.start.branch}:{held.start.step}"
            raise InvalidArgumentError(
                f"branch {name} begins {where}", where=store.url, hint="choose another name"
            ) from None
        return held
    return made


def find_branch_start(store: OpenStore, name: str) -> BranchStart | None:
    """Where a branch begins, or None for one that begins anew."""
    key = branch_key(name)
    data = _get(store, key)
    return None if data is None else decode_branch_start(data, source=key)


def read_branch_starts(store: OpenStore) -> dict[str, BranchStart]:
    """Where each branch begins that does not begin anew."""
    starts: dict[str, BranchStart] = {}
    for found in store.backend.list(BRANCHES):
        name = parse_branch_key(found.key)
        start = None if name is None else find_branch_start(store, name)
        if name is not None and start is not None:
            starts[name] = start
    return starts


def _get(store: OpenStore, key: str) -> bytes | None:
    try:
        return store.backend.get(key)
    except MissingObjectError:  # removed since it was listed
        return None
