"""Copy live records out of packs that are little used, so that the rest of those comes free.

Nothing that a manifest names is changed: the records go into new packs, their indexes get new objects with the same
identity, and each step that lists them gets a new generation. Rows that nothing needs any more keep their old place, in
a pack that no manifest lists then. A kill leaves every step at its old generation or at its new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import Workspace
from deltackpt.errors import CommitConflictError, CorruptObjectError, MissingObjectError
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.index import Index, Location, encode_index, relocate
from deltackpt.format.keys import StepKey, index_key, pack_key
from deltackpt.format.manifest import ClosureIndex, ClosurePack, Manifest
from deltackpt.format.record import decode_record
from deltackpt.format.signature import SIGNATURES
from deltackpt.format.times import format_time
from deltackpt.pipeline.pack_sink import PackSink
from deltackpt.store.base import index_lookup
from deltackpt.store.closure import Closure, find_closure
from deltackpt.store.commit import commit_manifest
from deltackpt.store.opened import OpenStore
from deltackpt.store.pending import Announcement
from deltackpt.store.visible import visible_steps

__all__ = ["LIVE_SHARE", "compact_store"]

LIVE_SHARE = 0.7
"""A pack of which less than this share is needed is copied. At this share, a copy of 0.7 bytes frees 1 byte."""

Flags = NDArray[np.bool_]


@dataclass(slots=True)
class _Use:
    """What the steps of a store need.

    Attributes:
        rows: for each index object by name, which of its rows some step needs.
        steps: for each index object, the steps that list it.
    """

    rows: dict[bytes, Flags] = field(default_factory=dict)
    steps: dict[bytes, list[StepKey]] = field(default_factory=dict)


def compact_store(store: OpenStore, *, share: float = LIVE_SHARE) -> tuple[str, ...]:
    """Copy what is live out of packs of which less than ``share`` is; which steps got a new generation for it.

    Packs of signed steps stay: a new generation would not be signed.

    Raises:
        CorruptObjectError, MissingObjectError: a manifest, index or record cannot be read. Steps done before stay done.
            A manifest that was deleted meanwhile is no error.
    """
    use = _survey(store)
    packs = _little_used(store, use, share)
    moving = [name for name, rows in use.rows.items() if _rows_in(store.index(name), packs)[rows].any()]
    if not moving:
        return ()
    keys = sorted({key for name in moving for key in use.steps[name]})
    with Announcement(store, keys[0].branch, keys[0].step) as announcement:
        manifests = announcement.claim(list(_read(store, keys)))
        usable = {manifest.header.key for manifest in manifests}
        moved: dict[bytes, tuple[bytes, Index, int]] = {}
        for name in moving:
            if usable.issuperset(use.steps[name]):
                moved[name] = _move(store, name, use.rows[name], packs, announcement)
        done = [m.header.key for m in manifests if _swap(store, m, moved, announcement)]
    return tuple(f"{key.branch}:{key.step}" for key in done)


def _survey(store: OpenStore) -> _Use:
    """What every step needs of every index object; without steps that are signed."""
    use = _Use()
    signed = {found.key.removeprefix(SIGNATURES).rpartition("/")[0] for found in store.backend.list(SIGNATURES)}
    fixed: set[bytes] = set()
    for manifest in _read(store, [step.key for step in visible_steps(store)]):
        key = manifest.header.key
        objects = {entry.identity: entry.object for entry in manifest.indexes}
        for identity, rows in _closure(store, manifest).rows.items():
            name = objects[identity]
            flags = use.rows.setdefault(name, np.zeros(store.index(name).rows, np.bool_))
            flags[rows] = True
            use.steps.setdefault(name, []).append(key)
        if f"{key.branch}/{key.step:012d}/{key.generation:06d}" in signed:
            fixed.update(objects.values())
    for name in fixed:
        use.rows.pop(name, None)
    return use


def _read(store: OpenStore, keys: Iterable[StepKey]) -> Iterator[Manifest]:
    """Manifests that were listed, without those that somebody deleted since."""
    for key in keys:
        with suppress(MissingObjectError):
            yield store.manifest(key)


def _closure(store: OpenStore, manifest: Manifest, lookup: Callable[[bytes], Index] | None = None) -> Closure:
    blocks = [
        (entry.identity, manifest.block_row[manifest.block_index == number])
        for number, entry in enumerate(manifest.indexes)
    ]
    return find_closure(blocks, lookup or index_lookup(store, manifest))


def _little_used(store: OpenStore, use: _Use, share: float) -> frozenset[bytes]:
    """The packs of which less than ``share`` is needed."""
    sizes: dict[bytes, int] = {}
    live: dict[bytes, int] = {}
    for name, rows in use.rows.items():
        location = store.index(name).location
        for number, pack in enumerate(location.packs):
            needed = rows & (location.pack == number)
            if needed.any():
                sizes[pack.name] = pack.size
                live[pack.name] = live.get(pack.name, 0) + int(location.length[needed].sum())
    return frozenset(name for name, size in sizes.items() if live[name] < share * size)


def _rows_in(index: Index, packs: frozenset[bytes]) -> Flags:
    """Which rows lie in one of the packs."""
    inside = np.array([pack.name in packs for pack in index.location.packs], np.bool_)
    return inside[index.location.pack] if len(inside) else np.zeros(index.rows, np.bool_)


def _move(
    store: OpenStore, name: bytes, live: Flags, packs: frozenset[bytes], announcement: Announcement
) -> tuple[bytes, Index, int]:
    """Copy the live rows of an index that lie in packs to be emptied; the new index object, and its size."""
    index = store.index(name)
    old = index.location
    rows = np.flatnonzero(live & _rows_in(index, packs))
    pack, offset = old.pack.copy(), old.offset.copy()
    with PackSink(store.backend, store.options.pack_bytes, Workspace()) as sink:
        for row in rows.tolist():
            source = old.packs[int(old.pack[row])]
            announcement.renew()
            number, offset[row] = sink.add(source.artifact, _read_record(store, index, row, pack_key(source.name)))
            pack[row] = len(old.packs) + number
        fresh = sink.finish()
    relocated = relocate(index, _renumber(Location((*old.packs, *fresh), pack, offset, old.length)))
    relocated = replace(relocated, header=replace(index.header, pending=announcement.ticket.id))
    data = encode_index(relocated)
    new = blake3_digest(data)
    store.backend.put(index_key(new), data)
    return new, relocated, len(data)


def _read_record(store: OpenStore, index: Index, row: int, key: str) -> bytes:
    """The bytes of a record, checked."""
    start, length = int(index.location.offset[row]), int(index.location.length[row])
    data = store.backend.get(key, start, length)
    if decode_record(data, source=key, offset=start).address != index.identity.address[row].tobytes():
        raise CorruptObjectError("another record than the index says", where=key, offset=start)
    return data


def _renumber(location: Location) -> Location:
    """The same without packs that hold no row."""
    used = np.unique(location.pack)
    number = np.zeros(len(location.packs), np.int64)
    number[used] = np.arange(len(used))
    return replace(
        location, packs=tuple(location.packs[n] for n in used.tolist()), pack=number[location.pack].astype(np.int64)
    )


def _swap(
    store: OpenStore, manifest: Manifest, moved: Mapping[bytes, tuple[bytes, Index, int]], announcement: Announcement
) -> bool:
    """Commit the next generation of a step with moved indexes in the places of the old ones, if it lists any."""
    if not any(entry.object in moved for entry in manifest.indexes):
        return False
    indexes = tuple(
        ClosureIndex(entry.identity, *_named(moved[entry.object])) if entry.object in moved else entry
        for entry in manifest.indexes
    )
    known = {entry.identity: moved[entry.object][1] for entry in manifest.indexes if entry.object in moved}
    others = index_lookup(store, manifest)

    def lookup(identity: bytes) -> Index:
        return known[identity] if identity in known else others(identity)

    packs = _closure(store, manifest, lookup).packs(lookup)
    header = manifest.header
    swapped = replace(
        manifest,
        header=replace(
            header,
            key=StepKey(header.key.branch, header.key.step, header.key.generation + 1),
            writer={**header.writer, "rewritten": format_time(store.clock())},
        ),
        indexes=indexes,
        packs=tuple(ClosurePack(name, size) for name, size in sorted(packs.items())),
    )
    try:
        commit_manifest(store, swapped, announcement.extend())
    except CommitConflictError:  # somebody saved it anew: that is as well
        return False
    return True


def _named(moved: tuple[bytes, Index, int]) -> tuple[bytes, int]:
    return moved[0], moved[2]
