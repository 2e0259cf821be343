"""A sample written as steps of a store in memory, by the code that saves use, and read back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import CorruptObjectError
from deltackpt.estimate.state import Kind, kind_of
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import Entry, ManifestHeader
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.load import load_wanted
from deltackpt.pipeline.plan_load import Wanted
from deltackpt.pipeline.save import SaveSettings, write_items
from deltackpt.pipeline.slots import element_view
from deltackpt.store.base import index_lookup
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.commit import PlannedEntry, StepDraft, commit_step
from deltackpt.store.opened import OpenStore, create_store
from deltackpt.store.options import StoreOptions
from deltackpt.store.stats.blocks import SeenRecords, blocks_of
from deltackpt.tensor.box import Box

__all__ = ["TrialStep", "run_trial"]

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TrialStep:
    """What one step of a trial took.

    Attributes:
        raw_bytes: of the sample.
        stored: bytes of new records, by kind.
        metadata_bytes: of its index and manifest.
        save_seconds, load_seconds: of writing it into memory, and of reading it with all it builds on: the processor's
            time divided by the threads, which what else runs on the machine hardly changes.
    """

    raw_bytes: int
    stored: Mapping[Kind, int]
    metadata_bytes: int
    save_seconds: float
    load_seconds: float


def run_trial(
    items: Sequence[SaveItem], contents: Sequence[Sequence[Bytes]], *, threads: int, block_elements: int
) -> list[TrialStep]:
    """Write the contents as one step after another, the first as a key step, each other as a delta to the one before.

    Args:
        items: whole tensors.
        contents: for each step the bytes of all items.

    Raises:
        CorruptObjectError: a step did not come back as it was.
    """
    options = StoreOptions(chain="previous", key_every=1 << 20, max_depth=1 << 20, block_elements=block_elements)
    store = create_store(MemoryBackend("estimate"), options)
    budget = 2 * sum(data.size for data in contents[0]) + (1 << 20)
    cache, seen = BaseCache(budget), SeenRecords()
    settings = SaveSettings(threads, budget)
    return [
        _step(store, StepKey("main", number, 1), items, data, settings, cache, seen)
        for number, data in enumerate(contents)
    ]


def _step(
    store: OpenStore,
    key: StepKey,
    items: Sequence[SaveItem],
    data: Sequence[Bytes],
    settings: SaveSettings,
    cache: BaseCache,
    seen: SeenRecords,
) -> TrialStep:
    given = [_reading(item, whole) for item, whole in zip(items, data, strict=True)]
    begun = time.process_time()
    receipt = write_items(store, given, branch=key.branch, step=key.step, writer=0, settings=settings, cache=cache)
    entries = [PlannedEntry(_entry(item, store.options.block_elements), (item.box,)) for item in items]
    header = commit_step(store, StepDraft(key, entries, {}, {}), [receipt])
    saved = time.process_time()
    _compare(store, key, items, data, settings.threads)
    loaded = time.process_time()
    return _counted(store, header, items, seen, (saved - begun) / settings.threads, (loaded - saved) / settings.threads)


def _reading(item: SaveItem, data: Bytes) -> SaveItem:
    elements = element_view(data, item.dtype, item.box.sizes)

    def read(box: Box) -> Bytes:
        return np.ascontiguousarray(elements[box.slices()]).reshape(-1).view(np.uint8).copy()

    return replace(item, read=read)


def _entry(item: SaveItem, block_elements: int) -> Entry:
    return Entry(
        fqn=item.fqn,
        kind="tensor",
        artifact=item.artifact,
        role=item.role,
        dtype=item.dtype.code,
        block_elements=block_elements,
        requires_grad=False,
        pinned=False,
        shape=item.box.sizes,
        shards=1,
        path=item.place,
        encoding="",
    )


def _compare(store: OpenStore, key: StepKey, items: Sequence[SaveItem], data: Sequence[Bytes], threads: int) -> None:
    """Load everything and look whether it is what was saved."""
    expected = {
        item.fqn: element_view(whole, item.dtype, item.box.sizes) for item, whole in zip(items, data, strict=True)
    }
    checked: list[int] = []

    def wanted(item: SaveItem) -> Wanted:
        def check(box: Box, elements: NDArray[np.generic]) -> None:
            if elements.tobytes() != expected[item.fqn][box.slices()].tobytes():
                raise CorruptObjectError("a sampled block did not come back as it was", where=item.fqn)
            checked.append(box.numel)

        return Wanted(item.fqn, item.box, check)

    load_wanted(store, store.manifest(key), [wanted(item) for item in items], threads=threads)
    if sum(checked) != sum(item.box.numel for item in items):
        raise CorruptObjectError("not all sampled blocks came back", where=store.url)


def _counted(
    store: OpenStore,
    header: ManifestHeader,
    items: Sequence[SaveItem],
    seen: SeenRecords,
    save_seconds: float,
    load_seconds: float,
) -> TrialStep:
    manifest = store.manifest(header.key)
    blocks = blocks_of(manifest, index_lookup(store, manifest), seen)
    kinds = {item.fqn: kind_of(item) for item in items}
    stored: Counter[Kind] = Counter(dict.fromkeys(kinds.values(), 0))
    for number, entry in enumerate(manifest.entries):
        stored[kinds[entry.fqn]] += int(blocks.stored[blocks.new & (blocks.entry == number)].sum())
    raw = sum(item.box.numel * item.dtype.itemsize for item in items)
    return TrialStep(raw, stored, header.stored_bytes - sum(stored.values()), save_seconds, load_seconds)
