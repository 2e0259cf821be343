"""Delete manifests: steps that are pruned, generations that were replaced (``docs/invariants.md``, Deletion)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from deltackpt.errors import BackendError
from deltackpt.format.keys import (
    MANIFESTS,
    StepKey,
    manifest_key,
    mark_key,
    note_prefix,
    parity_key,
    step_prefix,
    tag_key,
)
from deltackpt.format.pending import Mark
from deltackpt.format.signature import SIGNATURES
from deltackpt.format.times import format_time
from deltackpt.store.marks import put_mark
from deltackpt.store.names import read_tags
from deltackpt.store.opened import OpenStore
from deltackpt.store.pending import live_pendings, named_bases
from deltackpt.store.visible import all_manifests, find_place

__all__ = ["MARK_LIFE", "Removed", "delete_manifest", "remove_manifests", "remove_steps"]

MARK_LIFE = timedelta(hours=1)
"""Whoever marked manifests deletes them within this time or not at all; after it, others may remove the mark."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal did.

    Attributes:
        manifests: those that are gone.
        spared: those that stay because a save in progress may build on them or on a lower generation of theirs.
    """

    manifests: tuple[StepKey, ...]
    spared: tuple[StepKey, ...]


def remove_steps(store: OpenStore, places: Iterable[tuple[str, int]]) -> Removed:
    """Delete steps, given as (branch, step), with all their generations, tags and notes.

    What they alone list becomes garbage. Steps that build on them stay whole.
    """
    wanted = sorted(set(places))
    keys = [
        found.key
        for branch, step in wanted
        for found in all_manifests(store, step_prefix(branch, step))
        if found.key.step == step
    ]
    removed = remove_manifests(store, keys)
    gone = {place for place in wanted if find_place(store, *place) is None}
    for name, tag in read_tags(store).items():
        if (tag.branch, tag.step) in gone:
            store.backend.delete(tag_key(name))
    for place in sorted(gone):
        for found in list(store.backend.list(note_prefix(*place))):
            store.backend.delete(found.key)
    return removed


def remove_manifests(store: OpenStore, keys: Sequence[StepKey]) -> Removed:
    """Delete manifests, of each step the lowest generation first; those that a save in progress names stay.

    Raises:
        BackendError: this took so long that others may no longer respect the mark; what is left stays.
    """
    if not keys:
        return Removed((), ())
    marked = store.clock()
    mark = put_mark(store, Mark(format_time(marked), manifests=tuple(sorted(keys))))
    named = named_bases(live_pendings(store))
    removed: list[StepKey] = []
    spared: list[StepKey] = []
    kept: set[tuple[str, int]] = set()
    for key in sorted(keys):
        # A step that keeps a generation keeps the higher ones: an older content must never show again.
        if key in named or (key.branch, key.step) in kept:
            kept.add((key.branch, key.step))
            spared.append(key)
            continue
        if store.clock() - marked > MARK_LIFE:
            raise BackendError("deleting steps took too long", where=store.url, hint="run the command again")
        delete_manifest(store, key)
        removed.append(key)
    store.backend.delete(mark_key(mark.id))
    return Removed(tuple(removed), tuple(spared))


def delete_manifest(store: OpenStore, key: StepKey) -> None:
    """Delete a manifest, and then what protects or vouches for it."""
    name = manifest_key(key)
    store.backend.delete(name)
    store.backend.delete(parity_key(name))
    for found in list(store.backend.list(f"{SIGNATURES}{name.removeprefix(MANIFESTS)}/")):
        store.backend.delete(found.key)
