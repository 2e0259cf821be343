"""Saving, top to bottom: copy -> hash -> seen before? -> predict, encode -> record -> pack and index.

One call writes what one rank holds. Nothing of it is visible until a manifest names it (``store/commit.py``). Each
arrow is a bounded map over threads that keeps order, so what is written does not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeAlias

from deltackpt.codec import CodecOptions, Workspace
from deltackpt.errors import IncompleteSaveError, InvalidArgumentError
from deltackpt.format import hashing
from deltackpt.format.index import IndexHeader, encode_index
from deltackpt.format.keys import index_key
from deltackpt.pipeline.bases import Bases, Start, choose_start
from deltackpt.pipeline.encode import EncodedBlock, Resolved, StoredBlock, TakenBlock, resolve_group
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.measure import Sampled, measure, sample_groups, take_sample
from deltackpt.pipeline.ordered import ordered_map
from deltackpt.pipeline.pack_sink import FIRST_BYTES, PackSink
from deltackpt.pipeline.partners import group_items
from deltackpt.pipeline.plan_save import BlockGroup, BlockTask, GroupPlan, plan_save
from deltackpt.pipeline.rows import IndexBuilder, NewRecord
from deltackpt.store.base import BaseView, RecordRef
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.chain import Chain
from deltackpt.store.chain_choice import Measured
from deltackpt.store.opened import OpenStore
from deltackpt.store.options import AUTO
from deltackpt.store.pending import Announcement
from deltackpt.store.receipt import WriterReceipt

__all__ = ["SaveSettings", "StartChoice", "default_threads", "write_items"]

StartChoice: TypeAlias = Callable[[Announcement], Start]
"""Chooses what a writer builds on, and announces the save with it."""


def default_threads() -> int:
    """As many threads as this process may use cores, at most 16."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, 16)


@dataclass(frozen=True, slots=True)
class SaveSettings:
    """How much of the machine a save may use.

    Attributes:
        threads: how many encode at once. Each holds a group of blocks (a weight's, its
            moments', its copies') and temporaries of about the same size.
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
    choose: StartChoice | None = None,
) -> WriterReceipt:
    """Write the blocks of ``items`` into packs and one index object.

    Bases are chosen here (by ``choose``, where it is given), from what is visible now. One that turns out to be damaged
    or gone is done without. The writer's announcement stays, for whoever commits to remove.

    Args:
        cache: blocks of earlier saves, and of this one for later ones; and memory that saves use one after another,
            which the caller frees after the last one.

    Raises:
        BackendError: the store could not be written; nothing of the save is visible.
        IncompleteSaveError: an item gave other bytes than its box has, or the announcement expired.
    """
    announcement = Announcement(store, branch, step)
    try:
        return _write(store, items, announcement, choose, branch, step, writer, settings, cache)
    except Exception:
        announcement.withdraw()
        raise


def _write(
    store: OpenStore,
    items: Sequence[SaveItem],
    announcement: Announcement,
    choose: StartChoice | None,
    branch: str,
    step: int,
    writer: int,
    settings: SaveSettings,
    cache: BaseCache,
) -> WriterReceipt:
    options = store.options
    codec = CodecOptions(options.level, options.read_factor)
    workspace = cache.space
    groups = group_items(items)
    places = sample_groups(groups, options.block_elements) if options.chain == AUTO and choose is None else []
    cache.begin_save(settings.base_memory)

    sampled: list[Bases] = []

    def measure_bases(near: BaseView, far: BaseView | None) -> Measured | None:
        readers = (Bases(store, [near], cache), None if far is None else Bases(store, [far], cache))
        sampled.extend(reader for reader in readers if reader is not None)
        return measure(places, near, far, readers, cache.samples, workspace)

    if choose is None:
        artifacts = {item.artifact for item in items}
        start = choose_start(store, branch, step, announcement, measure_bases, artifacts)
    else:
        start = choose(announcement)
    max_depth = options.max_depth if start.max_depth is None else start.max_depth
    plans = plan_save(
        groups,
        start.base,
        start.chain,
        block_elements=options.block_elements,
        max_depth=max_depth,
        other=start.other,
        parts=start.parts,
    )
    bases = Bases(store, start.views, cache)
    with (
        PackSink(store.backend, options.pack_bytes, workspace, FIRST_BYTES) as sink,
        ThreadPoolExecutor(settings.threads, thread_name_prefix="deltackpt-save") as executor,
    ):
        rows = _Rows(IndexBuilder(), sink, _Keeper(cache, start.chain, places), announcement, workspace)
        window = settings.threads + 1
        blocks = (group for plan in plans for group in plan.blocks)
        taken = _note_repeats(ordered_map(executor, _take, blocks, window=window))
        resolved = ordered_map(
            executor, lambda t: (t, resolve_group(t, bases, codec, max_depth, workspace)), taken, window=window
        )
        for plan in plans:
            rows.add_groups(plan, resolved)
        packs = sink.finish()
    if start.chain.distance == 0:
        cache.discard_unused()
    used = tuple(view.manifest.header.key for view in start.views)
    index = rows.builder.build(IndexHeader(branch, step, writer, used, announcement.ticket.id), packs)
    data = encode_index(index)
    name = hashing.blake3_digest(data)
    store.backend.put(index_key(name), data)
    return WriterReceipt(
        index=name,
        index_bytes=len(data),
        duplicates=rows.duplicates,
        bases_cached=bases.cached,
        bases_decoded=bases.decoded + sum(reader.decoded for reader in sampled),
        pending=announcement.extend(),
        chain=start.choice,
    )


def _take(group: BlockGroup) -> list[TakenBlock]:
    blocks = []
    for task in group:
        data = task.item.read(task.box)
        wanted = task.box.numel * task.item.dtype.itemsize
        if data.size != wanted:
            raise IncompleteSaveError(f"its reader gave {data.size} bytes for a block of {wanted}", where=task.item.fqn)
        blocks.append(TakenBlock(task, data, hashing.address(data.data)))
    return blocks


def _note_repeats(groups: Iterable[list[TakenBlock]]) -> Iterator[list[TakenBlock]]:
    """Tell each block which earlier one of this save has its address. Blocks are numbered in the order they come."""
    first: dict[bytes, tuple[int, BlockTask]] = {}
    number = 0
    for group in groups:
        noted = []
        for block in group:
            seen = first.setdefault(block.address, (number, block.task))
            noted.append(block if seen[0] == number else replace(block, first=seen))
            number += 1
        yield noted


class _Rows:
    """The last arrow: puts resolved blocks, in order, into packs, the index and the cache of later bases."""

    def __init__(
        self,
        builder: IndexBuilder,
        sink: PackSink,
        keeper: _Keeper,
        announcement: Announcement,
        workspace: Workspace,
    ) -> None:
        self._announcement = announcement
        self.builder = builder
        self.duplicates = 0
        self._sink = sink
        self._keeper = keeper
        self._workspace = workspace
        self._places: dict[int, RecordRef | int] = {}

    def add_groups(self, plan: GroupPlan, groups: Iterator[tuple[list[TakenBlock], dict[int, Resolved]]]) -> None:
        """Take the blocks of one plan's groups, and place them as the shards of its items."""
        placed: list[list[RecordRef | int]] = [[] for _ in plan.items]
        for _ in plan.blocks:
            taken, resolved = next(groups)
            self._announcement.renew()
            start = len(self._places)
            for position, result in resolved.items():
                place = self._place(taken[position], result, start)
                self._places[start + position] = place
                placed[position].append(place)
                self._keeper.keep(taken[position])
        for item, places in zip(plan.items, placed, strict=True):
            self.builder.place_shard(item.fqn, item.box, len(places))
            for place in places:
                self.builder.place_block(place)

    def _place(self, taken: TakenBlock, resolved: Resolved, start: int) -> RecordRef | int:
        """Where the block is now stored; ``start`` is the number of the first block of its group."""
        if isinstance(resolved, EncodedBlock):
            needs = tuple(self._places[start + need] if isinstance(need, int) else need.ref for need in resolved.needs)
            return self._add(taken, resolved, needs)
        self.duplicates += 1
        return resolved.ref if isinstance(resolved, StoredBlock) else self._places[resolved.number]

    def _add(self, taken: TakenBlock, block: EncodedBlock, needs: tuple[RecordRef | int, ...]) -> int:
        pack, offset = self._sink.add(taken.task.item.artifact, block.data)
        self._workspace.give(block.buffer)
        return self.builder.add(
            NewRecord(
                address=taken.address,
                dtype=block.record.dtype,
                predictor=block.record.predictor,
                coder=block.record.coder,
                raw=taken.data.size,
                depth=block.depth,
                needs=needs,
                pack=pack,
                offset=offset,
                length=len(block.data),
            )
        )


class _Keeper:
    """Keeps blocks in memory for later saves, as the chain wants it."""

    def __init__(self, cache: BaseCache, chain: Chain, places: Sequence[Sampled]) -> None:
        self._cache = cache
        self._chain = chain
        self._sampled = {(item.fqn, place.block): place.box for place in places for item in place.group.items}

    def keep(self, taken: TakenBlock) -> None:
        """Keep a block as a base of later saves, in the place of one that is none any more."""
        task = taken.task
        twin = task.twin
        if self._chain.last and twin is not None and twin.address != taken.address:
            self._cache.discard(twin.address)
        if self._chain.keep:
            self._cache.put(taken.address, taken.data)
        sampled = self._sampled.get((task.item.fqn, task.box))
        if sampled is not None:
            sample = take_sample(taken.data, task.item.dtype, task.box, sampled)
            self._cache.samples.put(taken.address, sampled, sample)
