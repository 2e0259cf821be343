"""Write a step once more, in other records: the same content as a new generation, beside the old one.

A kill at any moment leaves the step at its old generation, or at the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import StepNotFoundError
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import Entry, Manifest, ManifestHeader
from deltackpt.format.times import format_time
from deltackpt.pipeline.bases import Start
from deltackpt.pipeline.decode import BlockDecoder
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.memo import BlockMemo
from deltackpt.pipeline.save import SaveSettings, StartChoice, write_items
from deltackpt.pipeline.slots import element_view
from deltackpt.store.base import RecordRef, index_lookup
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.commit import PlannedEntry, StepDraft, commit_step
from deltackpt.store.opened import OpenStore
from deltackpt.store.pending import Announcement
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_code
from deltackpt.tensor.grid import cut

__all__ = ["claim_source", "rewrite_step", "step_items"]

Bytes = NDArray[np.uint8]
Decode = Callable[[RecordRef], Bytes]

# Enough that neighbouring blocks share the decoded chains of their partners; chains are decoded anew above it.
_MEMO_BYTES = 256 << 20


def rewrite_step(
    store: OpenStore,
    manifest: Manifest,
    *,
    settings: SaveSettings,
    choose: StartChoice | None = None,
    cache: BaseCache | None = None,
    items: Sequence[SaveItem] | None = None,
) -> ManifestHeader:
    """Encode every block of a step anew and commit that as the generation after ``manifest``'s.

    Metrics, parent, time and the grid of blocks stay as they were.

    Args:
        choose: what to build on; by default nothing: the step becomes a key step.
        cache: where to look for, and keep, the bytes of bases.
        items: the content, where it is in memory already.

    Raises:
        StepNotFoundError: the step is gone or about to be deleted.
        CommitConflictError: somebody else wrote this generation first.
        CorruptObjectError, MissingObjectError: a block cannot be read; the step stays as it is.
    """
    header = manifest.header
    key = StepKey(header.key.branch, header.key.step, header.key.generation + 1)

    def choose_claimed(announcement: Announcement) -> Start:
        claim_source(announcement, manifest)
        return Start.alone(store.options) if choose is None else choose(announcement)

    receipt = write_items(
        store,
        step_items(store, manifest) if items is None else items,
        branch=key.branch,
        step=key.step,
        writer=0,
        settings=settings,
        cache=BaseCache(0) if cache is None else cache,
        choose=choose_claimed,
    )
    draft = StepDraft(
        key=key,
        entries=[
            PlannedEntry(entry, tuple(manifest.shard_boxes(number))) for number, entry in enumerate(manifest.entries)
        ],
        metrics=header.metrics,
        writer={**header.writer, "rewritten": format_time(store.clock())},
        replaces=header,
    )
    return commit_step(store, draft, [receipt])


def claim_source(announcement: Announcement, manifest: Manifest) -> None:
    """Announce a rewrite of a step.

    Raises:
        StepNotFoundError: it is gone or about to be deleted.
    """
    if not announcement.claim([manifest]):
        key = manifest.header.key
        raise StepNotFoundError(
            f"step {key.branch}:{key.step} is about to be deleted, or was replaced", hint="nothing was changed"
        )


def step_items(store: OpenStore, manifest: Manifest, decode: Decode | None = None) -> list[SaveItem]:
    """Everything in a step, as one writer saves it; blocks are decoded when they are read.

    Args:
        decode: gives the block of a record, not to be changed; by default from the store.
    """
    if decode is None:
        decode = BlockDecoder(store, index_lookup(store, manifest), BlockMemo(_MEMO_BYTES)).decode
    return [
        _item(manifest, decode, number, entry, shard, box)
        for number, entry in enumerate(manifest.entries)
        for shard, box in enumerate(manifest.shard_boxes(number))
    ]


def _item(manifest: Manifest, decode: Decode, number: int, entry: Entry, shard: int, box: Box) -> SaveItem:
    places = dict(zip(cut(box, entry.block_elements), manifest.block_range(number, shard), strict=True))
    dtype = by_code(entry.dtype, where=entry.fqn)

    def block_at(place: int) -> Bytes:
        identity = manifest.indexes[int(manifest.block_index[place])].identity
        return decode(RecordRef(identity, int(manifest.block_row[place])))

    def read(wanted: Box) -> Bytes:
        if wanted in places:
            return block_at(places[wanted]).copy()
        # The samples by which a chain policy is chosen are parts of blocks.
        data = np.empty(wanted.numel * dtype.itemsize, np.uint8)
        elements = element_view(data, dtype, wanted.sizes)
        for block, place in places.items():
            if (common := block.intersect(wanted)) is not None:
                source = element_view(block_at(place), dtype, block.sizes)
                elements[common.relative_to(wanted).slices()] = source[common.relative_to(block).slices()]
        return data

    return SaveItem(
        fqn=entry.fqn,
        kind=entry.kind,
        dtype=dtype,
        box=box,
        artifact=entry.artifact,
        role=entry.role,
        place=(entry.fqn,) if entry.path is None else entry.path,
        read=read,
        block_elements=entry.block_elements,
    )
