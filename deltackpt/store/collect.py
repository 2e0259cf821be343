"""Collect garbage: objects that no manifest lists, and generations that were replaced.

A run marks what it finds and deletes what was marked for long enough and cannot be needed by a save in progress: its
own marks if it waits, else those of an earlier run. Any run can finish the mark of any other, so none is ever lost. Why
this is safe is said in ``docs/invariants.md``, Deletion.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

from deltackpt.format.keys import StepKey, index_key, mark_key, pack_key, parity_key, parse_index_key, parse_pack_key
from deltackpt.format.pending import Mark
from deltackpt.format.times import format_time, parse_time
from deltackpt.store.leftovers import remove_leftovers
from deltackpt.store.marks import PlacedMark, put_mark, read_marks
from deltackpt.store.opened import OpenStore
from deltackpt.store.pending import live_pendings, named_bases
from deltackpt.store.remove import delete_manifest
from deltackpt.store.usage import all_objects, read_listed
from deltackpt.store.visible import all_manifests

__all__ = ["GRACE", "Garbage", "GcReport", "collect", "find_garbage", "mark_garbage", "settle"]

GRACE = timedelta(seconds=60)
"""How long objects stay after they were marked. Safety does not depend on it: it is for readers that began before."""

_POLL_SECONDS = 1.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Garbage:
    """What may go.

    Attributes:
        replaced: generations of steps that have a higher one.
        objects: key to size of the packs and index objects that only these list, or nothing.
    """

    replaced: tuple[StepKey, ...]
    objects: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.objects.values())


@dataclass(frozen=True, slots=True)
class GcReport:
    """What a run of gc did, or would do.

    Attributes:
        deleted_objects, deleted_bytes: packs and index objects that are gone (with ``dry_run``, that would be).
        replaced: how many replaced generations are gone, or would be.
        waiting_objects, waiting_bytes: what is marked, and goes with a later run: it has not been marked for long
            enough, or a save in progress may need it.
        saves: how many saves are in progress.
        leftovers: how many small objects without a purpose, and temporary files, are gone.
        dry_run: whether nothing was done.
        compacted: steps that got a new generation to free packs that were little used, as ``"BRANCH:STEP"``.
    """

    deleted_objects: int
    deleted_bytes: int
    replaced: int
    waiting_objects: int
    waiting_bytes: int
    saves: int
    leftovers: int
    dry_run: bool
    compacted: tuple[str, ...] = ()


@dataclass(slots=True)
class _Deleted:
    objects: int = 0
    bytes: int = 0
    replaced: int = 0


def find_garbage(store: OpenStore, progress: Progress | None = None) -> Garbage:
    """What no manifest lists but those that were replaced.

    Args:
        progress: called with the manifests read and the manifests in all.

    Raises:
        CorruptObjectError, UnknownVersionError: a manifest cannot be read: nobody knows what it needs.
    """
    # Objects first: what is put and committed after that is not among them.
    sizes = all_objects(store)
    listed = read_listed(store, progress=progress)
    newest = {(key.branch, key.step): key for key in sorted(listed.by_step)}
    replaced = tuple(key for key in sorted(listed.by_step) if newest[key.branch, key.step] != key)
    needed = listed.without(replaced).objects()
    return Garbage(replaced, {key: size for key, size in sizes.items() if key not in needed})


def mark_garbage(store: OpenStore, garbage: Garbage) -> PlacedMark | None:
    """Mark what nobody has marked yet, and note the saves in progress; None where there is nothing."""
    marks = [found.mark for found in read_marks(store)]
    known = {key for mark in marks for key in _object_keys(mark)}
    fresh = [key for key in garbage.objects if key not in known]
    # Not those of a removal: one that was killed would keep them for as long as a mark lives.
    named = {key for placed in _marks_of_gc(store) for key in placed.mark.manifests}
    mark = Mark(
        created=format_time(store.clock()),
        manifests=tuple(key for key in garbage.replaced if key not in named),
        packs=tuple(name for key in fresh if (name := parse_pack_key(key)) is not None),
        indexes=tuple(name for key in fresh if (name := parse_index_key(key)) is not None),
    )
    if not (mark.manifests or mark.packs or mark.indexes):
        return None
    return _note_saves(store, put_mark(store, mark))


def _note_saves(store: OpenStore, placed: PlacedMark) -> PlacedMark:
    """Look up the saves in progress, after the mark was put: later ones see it."""
    waits = tuple(pending_id for pending_id, _ in live_pendings(store))
    return put_mark(store, replace(placed.mark, waits=waits), placed.id)


def settle(store: OpenStore, placed: PlacedMark, grace: timedelta) -> tuple[int, int, int] | None:
    """Delete what a mark names and nothing needs, then the mark; None where it is too early.

    Returns:
        How many objects, bytes and replaced generations are gone.
    """
    if placed.mark.waits is None:
        placed = _note_saves(store, placed)
    pendings = list(live_pendings(store))
    if {pending_id for pending_id, _ in pendings} & set(placed.mark.waits or ()):
        return None
    if store.clock() < parse_time(placed.mark.created) + grace:
        return None
    done = _Deleted()
    named = named_bases(pendings)
    newest = {(s.key.branch, s.key.step): s.key for s in all_manifests(store)}
    for key in sorted(placed.mark.manifests):
        above = newest.get((key.branch, key.step))
        if above is not None and above > key and key not in named:
            delete_manifest(store, key)
            done.replaced += 1
    # All saves that were in progress have ended, so what they committed is listed now.
    needed = read_listed(store).objects()
    sizes = all_objects(store)
    for name in _object_keys(placed.mark):
        if name not in needed and name in sizes:
            store.backend.delete(name)
            store.backend.delete(parity_key(name))
            done.objects += 1
            done.bytes += sizes[name]
    store.backend.delete(mark_key(placed.id))
    return done.objects, done.bytes, done.replaced


def collect(
    store: OpenStore,
    *,
    grace: timedelta = GRACE,
    wait: bool = True,
    dry_run: bool = False,
    progress: Progress | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> GcReport:
    """Mark garbage, and delete what has been marked for ``grace`` and no save in progress can need.

    Args:
        wait: wait for ``grace`` to pass. Without, this run deletes what earlier ones marked.
        progress: called with the manifests read and the manifests in all.
        pause: waits for so many seconds.
    """
    if dry_run:
        garbage = find_garbage(store, progress)
        saves = len(list(live_pendings(store)))
        return GcReport(len(garbage.objects), garbage.bytes, len(garbage.replaced), 0, 0, saves, 0, True)
    done = _Deleted()

    def finish() -> None:
        for placed in list(_marks_of_gc(store)):
            settled = settle(store, placed, grace)
            if settled is not None:
                done.objects += settled[0]
                done.bytes += settled[1]
                done.replaced += settled[2]

    # Earlier marks first: what they leave because it was listed for a while can be found again.
    finish()
    mark_garbage(store, find_garbage(store, progress))
    until = [parse_time(placed.mark.created) + grace for placed in _marks_of_gc(store)]
    while wait and (left := max(until, default=store.clock()) - store.clock()) > timedelta(0):
        pause(min(_POLL_SECONDS, left.total_seconds()))
    finish()
    waiting = {key for placed in _marks_of_gc(store) for key in _object_keys(placed.mark)}
    sizes = all_objects(store) if waiting else {}
    return GcReport(
        deleted_objects=done.objects,
        deleted_bytes=done.bytes,
        replaced=done.replaced,
        waiting_objects=len(waiting & sizes.keys()),
        waiting_bytes=sum(sizes.get(key, 0) for key in waiting),
        saves=len(list(live_pendings(store))),
        leftovers=remove_leftovers(store),
        dry_run=False,
    )


def _marks_of_gc(store: OpenStore) -> Iterator[PlacedMark]:
    """Marks that any run of gc may finish: not those of a prune, which delete manifests that are no garbage."""
    for placed in read_marks(store):
        if placed.mark.packs or placed.mark.indexes or placed.mark.waits is not None:
            yield placed


def _object_keys(mark: Mark) -> list[str]:
    return [*map(index_key, mark.indexes), *map(pack_key, mark.packs)]
