"""A step without some of its artifacts: a new generation that lists less. No bytes move."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from deltackpt.errors import InvalidArgumentError, StepNotFoundError
from deltackpt.format.keys import StepKey
from deltackpt.format.layout import ShardColumns
from deltackpt.format.manifest import ClosurePack, Entry, Manifest, ManifestHeader
from deltackpt.format.times import format_time
from deltackpt.store.base import index_lookup
from deltackpt.store.closure import find_closure, key_rows
from deltackpt.store.commit import commit_manifest
from deltackpt.store.opened import OpenStore
from deltackpt.store.pending import Announcement
from deltackpt.tensor.box import Box

__all__ = ["thin_manifest", "thin_step"]


def thin_step(store: OpenStore, manifest: Manifest, artifacts: Collection[str]) -> ManifestHeader:
    """Commit the step without these artifacts as its next generation.

    Raises:
        InvalidArgumentError: nothing would be left.
        StepNotFoundError: the step is gone or about to be deleted.
        CommitConflictError: somebody else wrote the next generation first.
    """
    key = manifest.header.key
    with Announcement(store, key.branch, key.step) as announcement:
        if not announcement.claim([manifest]):
            raise StepNotFoundError(f"step {key.branch}:{key.step} is about to be deleted, or was replaced")
        thinned = thin_manifest(store, manifest, artifacts)
        commit_manifest(store, thinned, announcement.ticket)
    return thinned.header


def thin_manifest(store: OpenStore, manifest: Manifest, artifacts: Collection[str]) -> Manifest:
    """The manifest of the next generation of a step, without these artifacts."""
    entries: list[Entry] = []
    shards: list[tuple[Box, int]] = []
    blocks: list[int] = []
    for number, entry in enumerate(manifest.entries):
        if entry.artifact in artifacts:
            continue
        entries.append(entry)
        for shard, box in enumerate(manifest.shard_boxes(number)):
            found = manifest.block_range(number, shard)
            shards.append((box, len(found)))
            blocks.extend(found)
    header = manifest.header
    if not entries:
        raise InvalidArgumentError(
            f"nothing would be left of step {header.key.branch}:{header.key.step}", hint="prune the whole step instead"
        )
    lookup = index_lookup(store, manifest)
    chosen = np.array(blocks, dtype=np.int64)
    old_index, rows = manifest.block_index[chosen], manifest.block_row[chosen]
    wanted = [
        (manifest.indexes[number].identity, rows[old_index == number]) for number in np.unique(old_index).tolist()
    ]
    closure = find_closure(wanted, lookup)
    indexes = tuple(entry for entry in manifest.indexes if entry.identity in closure.rows)
    position = {entry.identity: number for number, entry in enumerate(indexes)}
    remap = np.array([position.get(entry.identity, -1) for entry in manifest.indexes], dtype=np.int64)
    is_key = all(bool(key_rows(lookup(identity).identity)[own].all()) for identity, own in wanted)
    totals = {name: total for name, total in header.artifacts.items() if name not in artifacts}
    dropped = sum(total.stored_bytes for name, total in header.artifacts.items() if name in artifacts)
    return Manifest(
        header=replace(
            header,
            key=StepKey(header.key.branch, header.key.step, header.key.generation + 1),
            chain_key=(header.key.branch, header.key.step) if is_key else header.chain_key,
            distance=0 if is_key else max(1, header.distance),
            depth=max((int(lookup(identity).identity.depth[own].max()) for identity, own in wanted), default=1),
            raw_bytes=sum(total.raw_bytes for total in totals.values()),
            stored_bytes=max(0, header.stored_bytes - dropped),
            restore_bytes=closure.stored_bytes(lookup),
            artifacts=totals,
            writer={**header.writer, "rewritten": format_time(store.clock())},
        ),
        entries=tuple(entries),
        shards=ShardColumns(
            offsets=np.array([n for box, _ in shards for n in box.offsets], dtype=np.int64),
            sizes=np.array([n for box, _ in shards for n in box.sizes], dtype=np.int64),
            blocks=np.array([count for _, count in shards], dtype=np.int64),
        ),
        block_index=remap[old_index],
        block_row=rows,
        indexes=indexes,
        packs=tuple(ClosurePack(name, size) for name, size in sorted(closure.packs(lookup).items())),
    )
