"""Saving, top to bottom: copy -> hash -> seen before? -> predict, encode -> record -> pack and index.

One call writes what one rank holds. Nothing of it is visible until a manifest names it (``store/commit.py``). Each
arrow is a bounded map over threads that keeps order, so what is written does not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from deltackpt.codec import CodecOptions
from deltackpt.errors import IncompleteSaveError, InvalidArgumentError
from deltackpt.format import hashing
from deltackpt.format.index import IndexHeader, encode_index
from deltackpt.format.keys import index_key
from deltackpt.pipeline.bases import Bases, choose_base
from deltackpt.pipeline.encode import EncodedBlock, Repeat, StoredBlock, TakenBlock, resolve
from deltackpt.pipeline.ordered import ordered_map
from deltackpt.pipeline.pack_sink import PackSink
from deltackpt.pipeline.plan_save import BlockTask, SaveItem, plan_save
from deltackpt.pipeline.rows import IndexBuilder, NewRecord
from deltackpt.store.base import RecordRef
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.opened import OpenStore
from deltackpt.store.receipt import WriterReceipt

__all__ = ["SaveSettings", "default_threads", "write_items"]


def default_threads() -> int:
    """As many threads as this process may use cores, at most 16."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, 16)


@dataclass(frozen=True, slots=True)
class SaveSettings:
    """How much of the machine a save may use.

    Attributes:
        threads: how many encode at once. Each holds up to about eight times a block's bytes.
        base_memory: the budget in bytes for blocks kept as bases of later saves.
    """

    threads: int
    base_memory: int

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise InvalidArgumentError(f"threads must be at least 1, not {self.threads}")


def write_items(
    store: OpenStore,
    items: Sequence[SaveItem],
    *,
    branch: str,
    step: int,
    writer: int,
    settings: SaveSettings,
    cache: BaseCache,
) -> WriterReceipt:
    """Write the blocks of ``items`` into packs and one index object.

    Bases are chosen here, from what is visible now. One that turns out to be damaged or gone is done without.

    Raises:
        BackendError: the store could not be written; nothing of the save is visible.
        IncompleteSaveError: an item gave other bytes than its box has.
    """
    options = store.options
    base, chain = choose_base(store, branch, step)
    plans = plan_save(items, base, chain, block_elements=options.block_elements, max_depth=options.max_depth)
    bases = Bases(store, base, cache)
    codec = CodecOptions(level=options.level)
    cache.begin_save(settings.base_memory)
    rows = _Rows(IndexBuilder(), cache if chain.keep else None)
    with (
        PackSink(store.backend, options.pack_bytes) as sink,
        ThreadPoolExecutor(settings.threads, thread_name_prefix="deltackpt-save") as executor,
    ):
        window = settings.threads + 1
        tasks = (task for plan in plans for task in plan.blocks)
        taken = _note_repeats(ordered_map(executor, _take, tasks, window=window))
        resolved = ordered_map(executor, lambda t: (t, resolve(t, bases, codec)), taken, window=window)
        for plan in plans:
            rows.builder.place_shard(plan.item.fqn, plan.item.box, len(plan.blocks))
            for _ in plan.blocks:
                rows.place(*next(resolved), sink)
        packs = sink.finish()
    used = () if base is None else (base.manifest.header.key,)
    index = rows.builder.build(IndexHeader(branch, step, writer, used), packs)
    data = encode_index(index)
    name = hashing.blake3_digest(data)
    store.backend.put(index_key(name), data)
    return WriterReceipt(name, len(data), rows.duplicates, bases.cached, bases.decoded)


def _take(task: BlockTask) -> TakenBlock:
    data = task.item.read(task.box)
    wanted = task.box.numel * task.item.dtype.itemsize
    if data.size != wanted:
        raise IncompleteSaveError(f"its reader gave {data.size} bytes for a block of {wanted}", where=task.item.fqn)
    return TakenBlock(task, data, hashing.address(data.data))


def _note_repeats(blocks: Iterable[TakenBlock]) -> Iterator[TakenBlock]:
    """Tell each block which earlier one of this save has its address."""
    first: dict[bytes, tuple[int, BlockTask]] = {}
    for number, block in enumerate(blocks):
        seen = first.setdefault(block.address, (number, block.task))
        yield block if seen[0] == number else replace(block, first=seen)


class _Rows:
    """The last arrow: puts resolved blocks, in order, into packs, the index and the cache of later bases."""

    def __init__(self, builder: IndexBuilder, cache: BaseCache | None) -> None:
        self.builder = builder
        self.duplicates = 0
        self._cache = cache
        self._places: list[RecordRef | int] = []

    def place(self, taken: TakenBlock, resolved: StoredBlock | Repeat | EncodedBlock, sink: PackSink) -> None:
        if isinstance(resolved, EncodedBlock):
            place: RecordRef | int = self._add(taken, resolved, sink)
        else:
            self.duplicates += 1
            place = resolved.ref if isinstance(resolved, StoredBlock) else self._places[resolved.number]
        self._places.append(place)
        if isinstance(place, int):
            self.builder.place_own(place)
        else:
            self.builder.place_stored(place)
        if self._cache is not None:
            twin = taken.task.twin
            if twin is not None and twin.address != taken.address:
                self._cache.discard(twin.address)
            self._cache.put(taken.address, taken.data)

    def _add(self, taken: TakenBlock, block: EncodedBlock, sink: PackSink) -> int:
        pack, offset = sink.add(taken.task.item.artifact, block.data)
        return self.builder.add(
            NewRecord(
                address=taken.address,
                dtype=block.record.dtype,
                predictor=block.record.predictor,
                coder=block.record.coder,
                raw=taken.data.size,
                depth=1 + max((base.depth for base in block.bases), default=0),
                needs=tuple(base.ref for base in block.bases),
                pack=pack,
                offset=offset,
                length=len(block.data),
            )
        )
