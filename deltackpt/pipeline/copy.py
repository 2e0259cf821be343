"""Steps from one store to another: their objects as they are where all that they need goes along, else encoded anew.

Either way a step is the same in both: its entries, and the address of every block, are compared before and after. What
is there already is left alone, so that a copy which was interrupted can be run again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deltackpt._version import __version__
from deltackpt.errors import CorruptObjectError, StepExistsError, TensorNotFoundError
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.index import Index
from deltackpt.format.keys import StepKey, index_key, pack_key
from deltackpt.format.manifest import Entry, Manifest
from deltackpt.pipeline.copy_extras import copy_notes, copy_parity, copy_start, copy_tags, signed_steps
from deltackpt.pipeline.ordered import ordered_map
from deltackpt.pipeline.rewrite import step_items
from deltackpt.pipeline.save import SaveSettings, write_items
from deltackpt.store.base import index_lookup
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.commit import PlannedEntry, StepDraft, commit_manifest, commit_step
from deltackpt.store.opened import OpenStore
from deltackpt.store.pending import Announcement
from deltackpt.store.visible import find_place

__all__ = ["CopiedStep", "CopyReport", "copy_steps"]

Choose = Callable[[Manifest], "Collection[str] | None"]
"""The names of the entries of a step that are wanted; None for all of it."""


@dataclass(frozen=True, slots=True)
class CopiedStep:
    """A step that is in both stores now.

    Attributes:
        how: ``objects``: packs and index objects as they were; ``encoded``: its blocks, encoded anew; ``there``: it was
            there before.
        stored_bytes: what that added to the store, without manifests.
    """

    branch: str
    step: int
    how: Literal["objects", "encoded", "there"]
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What a copy did.

    Attributes:
        steps: in the order in which they were copied.
        tags: names given to them.
        parity: objects whose parity was copied.
        unprotected: objects of the steps that have no parity in the target, where the source keeps parity.
        signed: steps that were signed in the source; signatures name the store, so that none was copied.
    """

    steps: tuple[CopiedStep, ...]
    tags: tuple[str, ...]
    parity: int = 0
    unprotected: int = 0
    signed: int = 0


def copy_steps(
    source: OpenStore,
    target: OpenStore,
    keys: Sequence[StepKey],
    *,
    choose: Choose,
    settings: SaveSettings,
    progress: Callable[[int, int], None] | None = None,
) -> CopyReport:
    """Copy steps with their metrics, times, notes, tags, parity and the starts of their branches.

    Each is visible once it is whole.

    Args:
        keys: which; each at the generation that it has now.
        choose: what of a step is wanted.
        progress: called with the steps done and the steps in all.

    Raises:
        StepExistsError: the target has another step of that branch and number; nothing was copied.
        CorruptObjectError, MissingObjectError: something of a step is damaged or gone; the steps before it are copied.
    """
    headers = (source.manifest(key).header for key in keys)
    order = [header.key for header in sorted(headers, key=lambda header: (header.created, header.key))]
    there = {key: _is_there(source, target, _wanted(source.manifest(key), choose)) for key in order}
    complete = [key for key in order if choose(source.manifest(key)) is None]
    whole = _whole_chains(source, complete)
    cache, done = BaseCache(0), list[CopiedStep]()
    for number, key in enumerate(order):
        if progress is not None:
            progress(number, len(order))
        copy_start(source, target, key.branch)
        if there[key]:
            copy_notes(source, target, key)
            done.append(CopiedStep(key.branch, key.step, "there", 0))
            continue
        manifest = _wanted(source.manifest(key), choose)
        if key in whole:
            done.append(CopiedStep(key.branch, key.step, "objects", _copy_objects(source, target, manifest, settings)))
        else:
            stored = _encode(source, target, manifest, settings, cache)
            done.append(CopiedStep(key.branch, key.step, "encoded", stored))
        if not _is_there(source, target, manifest):
            raise CorruptObjectError(f"the copy of step {key.branch}:{key.step} is not the same", where=target.url)
        copy_notes(source, target, key)
    if progress is not None:
        progress(len(order), len(order))
    tags = copy_tags(source, target, order)
    parity, unprotected = copy_parity(source, target, order)
    return CopyReport(tuple(done), tags, parity, unprotected, signed_steps(source, order))


def _wanted(manifest: Manifest, choose: Choose) -> Manifest:
    """The manifest with the wanted entries alone; itself where nothing was chosen.

    Raises:
        TensorNotFoundError: none is wanted.
    """
    names = choose(manifest)
    if names is None:
        return manifest
    kept = [number for number, entry in enumerate(manifest.entries) if entry.fqn in names]
    if not kept:
        raise TensorNotFoundError("the step has nothing of what is to be copied", where=str(manifest.header.key))
    shards = [(number, shard) for number in kept for shard in range(manifest.entries[number].shards)]
    blocks = [np.array(manifest.block_range(number, shard), dtype=np.int64) for number, shard in shards]
    places = np.concatenate([np.zeros(0, np.int64), *blocks])
    boxes = [box for number in kept for box in manifest.shard_boxes(number)]
    return replace(
        manifest,
        entries=tuple(manifest.entries[number] for number in kept),
        shards=replace(
            manifest.shards,
            offsets=np.array([n for box in boxes for n in box.offsets], dtype=np.int64),
            sizes=np.array([n for box in boxes for n in box.sizes], dtype=np.int64),
            blocks=np.array([len(part) for part in blocks], dtype=np.int64),
        ),
        block_index=manifest.block_index[places],
        block_row=manifest.block_row[places],
    )


def _is_there(source: OpenStore, target: OpenStore, manifest: Manifest) -> bool:
    """Whether the target has the step, with these entries and no others.

    Raises:
        StepExistsError: it has another one in its place.
    """
    key = manifest.header.key
    found = find_place(target, key.branch, key.step)
    if found is None:
        return False
    other = target.manifest(found.key)
    if _facts(other.entries) == _facts(manifest.entries) and np.array_equal(
        _addresses(target, other), _addresses(source, manifest)
    ):
        return True
    raise StepExistsError(
        f"there is another step {key.branch}:{key.step}",
        where=target.url,
        hint="copy other steps, or into another store; a step is never replaced by a copy",
    )


def _facts(entries: Sequence[Entry]) -> dict[str, Entry]:
    return {entry.fqn: entry for entry in entries}


def _addresses(store: OpenStore, manifest: Manifest) -> NDArray[np.uint8]:
    """The address of every block: shape (blocks, 16), in order of the names of entries."""
    lookup = index_lookup(store, manifest)
    found = np.zeros((len(manifest.block_index), 16), dtype=np.uint8)
    for number in np.unique(manifest.block_index).tolist():
        mask = manifest.block_index == number
        found[mask] = lookup(manifest.indexes[number].identity).identity.address[manifest.block_row[mask]]
    order = sorted(range(len(manifest.entries)), key=lambda number: manifest.entries[number].fqn)
    places = [p for n in order for shard in range(manifest.entries[n].shards) for p in manifest.block_range(n, shard)]
    return found[np.array(places, dtype=np.int64)]


def _whole_chains(source: OpenStore, keys: Sequence[StepKey]) -> frozenset[StepKey]:
    """Those steps whose closure was written by such steps alone: to copy it brings no step along that nobody asked for.

    In the order in which they were written, so that what a step builds on is known before it.
    """
    whole: dict[tuple[str, int], StepKey] = {}
    for key in keys:
        lookup = index_lookup(source, source.manifest(key))
        origins = {_origin(lookup(entry.identity)) for entry in source.manifest(key).indexes}
        if origins <= {*whole, (key.branch, key.step)}:
            whole[key.branch, key.step] = key
    return frozenset(whole.values())


def _origin(index: Index) -> tuple[str, int]:
    return index.header.branch, index.header.step


def _copy_objects(source: OpenStore, target: OpenStore, manifest: Manifest, settings: SaveSettings) -> int:
    """Packs, then index objects, then the manifest; each compared with the hash that is its name.

    Returns:
        The bytes put, without the manifest.
    """
    packs = [(pack_key(pack.name), pack.name) for pack in manifest.packs]
    indexes = [(index_key(index.object), index.object) for index in manifest.indexes]
    put = 0
    with Announcement(target, manifest.header.key.branch, manifest.header.key.step) as announcement:
        announcement.claim_names(name for _, name in [*packs, *indexes])
        with ThreadPoolExecutor(settings.threads, thread_name_prefix="deltackpt-copy") as executor:
            for group in (packs, indexes):
                sizes = ordered_map(
                    executor, lambda o: _copy_object(source, target, *o), group, window=settings.threads
                )
                for size in sizes:
                    put += size
                    announcement.renew()
        commit_manifest(target, manifest, announcement.extend())
    return put


def _copy_object(source: OpenStore, target: OpenStore, key: str, name: bytes) -> int:
    if any(found.key == key for found in target.backend.list(key)):
        return 0
    data = source.backend.get(key)
    if blake3_digest(data) != name:
        raise CorruptObjectError(
            "the object does not have the hash in its name", where=key, hint="run `deltackpt verify --deep --repair`"
        )
    target.backend.put(key, data)
    return len(data)


def _encode(source: OpenStore, target: OpenStore, manifest: Manifest, settings: SaveSettings, cache: BaseCache) -> int:
    """Write a step's blocks as a save would, on the same grid."""
    header = manifest.header
    items = [
        replace(item, moves=item.role == "file" and item.kind == "tensor") for item in step_items(source, manifest)
    ]
    receipt = write_items(
        target, items, branch=header.key.branch, step=header.key.step, writer=0, settings=settings, cache=cache
    )
    draft = StepDraft(
        key=StepKey(header.key.branch, header.key.step, 1),
        entries=[
            PlannedEntry(entry, tuple(manifest.shard_boxes(number))) for number, entry in enumerate(manifest.entries)
        ],
        metrics=header.metrics,
        writer={**header.writer, "copied_by": f"deltackpt {__version__}"},
        replaces=header,
    )
    return commit_step(target, draft, [receipt]).stored_bytes
