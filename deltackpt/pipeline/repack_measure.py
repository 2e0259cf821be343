"""What the steps of a history would take in other trees, measured on samples of a few of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import Workspace
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.measure import Sampled, estimate_group, sample_groups
from deltackpt.pipeline.partners import group_items
from deltackpt.pipeline.plan_save import BlockTask
from deltackpt.pipeline.rewrite import step_items
from deltackpt.store.base import UNUSABLE, BaseBlock, RecordRef
from deltackpt.store.opened import OpenStore
from deltackpt.store.tree import Costs
from deltackpt.store.visible import VisibleStep

__all__ = ["measure_history"]

Bytes = NDArray[np.uint8]

# In the middle and on both sides: early steps move more than late ones.
_PLACES = (0.25, 0.5, 0.75)
_MOST_DISTANCE = 64
_MOST_SAMPLES = 16


def measure_history(store: OpenStore, steps: Sequence[VisibleStep]) -> Costs | None:
    """About what a step of a line takes alone, against the step before, and between others at distances 1, 2, 4, ...

    In bytes of a whole step. None where there is nothing to compare.
    """
    samples = _Samples(store, steps)
    alone: list[float] = []
    near: list[float] = []
    between: dict[int, list[float]] = {}
    for place in _PLACES:
        position = int(place * (len(steps) - 1))
        found = samples.cost(position, None, None)
        if found is None or not found:
            continue
        alone.append(found)
        beside = samples.cost(position, position - 1, None)
        near.append(found if beside is None else beside)
        distance = 1
        while distance <= _MOST_DISTANCE and position - distance >= 0 and position + distance < len(steps):
            cost = samples.cost(position, position - distance, position + distance)
            if cost is not None:
                between.setdefault(distance, []).append(cost / found)
            distance *= 2
    if not alone:
        return None
    base = float(np.mean(alone))
    ratios = [n / a for n, a in zip(near, alone, strict=True)]
    return Costs(
        base,
        base * float(np.mean(ratios)),
        {d: base * float(np.mean(c)) for d, c in between.items()},
        samples.partners(),
    )


class _Samples:
    """Samples of steps by position, each decoded once."""

    def __init__(self, store: OpenStore, steps: Sequence[VisibleStep]) -> None:
        self._store = store
        self._steps = steps
        self._items: dict[int, dict[str, list[SaveItem]]] = {}
        self._data: dict[tuple[int, int], list[Bytes] | None] = {}
        self._places: list[Sampled] = []
        self._workspace = Workspace()

    def cost(self, position: int, older: int | None, newer: int | None) -> float | None:
        """What a step takes beside two others; None where one of them cannot be had."""
        if not self._places:
            items = [item for found in self._of(position).values() for item in found]
            self._places = sample_groups(
                group_items(items), self._store.options.block_elements, blocks_per_sample=1, most=_MOST_SAMPLES
            )
        total = 0.0
        for number, place in enumerate(self._places):
            data = self._sample(position, number)
            bases = [None if p is None else self._sample(p, number) for p in (older, newer)]
            if data is None or any(p is not None and b is None for p, b in zip((older, newer), bases, strict=True)):
                return None
            total += place.weight * _cost(place, data, bases[0], bases[1], self._workspace)
        return total

    def partners(self) -> tuple[int, int]:
        """How much deeper copies get than masters, and weights than moments."""
        found = [partners for place in self._places for partners in place.group.partners]
        return int(any(p.master is not None for p in found)), 2 * int(any(p.exp_avg is not None for p in found))

    def _of(self, position: int) -> Mapping[str, list[SaveItem]]:
        if position not in self._items:
            found: dict[str, list[SaveItem]] = {}
            try:
                for item in step_items(self._store, self._store.manifest(self._steps[position].key)):
                    found.setdefault(item.fqn, []).append(item)
            except UNUSABLE:
                pass
            self._items[position] = found
        return self._items[position]

    def _sample(self, position: int, number: int) -> list[Bytes] | None:
        """The sampled box of every item of a group; None where the step has them in other blocks."""
        if (position, number) not in self._data:
            self._data[position, number] = self._read(position, self._places[number])
        return self._data[position, number]

    def _read(self, position: int, place: Sampled) -> list[Bytes] | None:
        found = []
        for wanted in place.group.items:
            same = [i for i in self._of(position).get(wanted.fqn, []) if (i.box, i.dtype) == (wanted.box, wanted.dtype)]
            try:
                found += [place.part_of(item.read(place.block), item.dtype) for item in same[:1]]
            except UNUSABLE:
                return None
        return found if len(found) == len(place.group.items) else None


class _Held:
    """Base blocks that are in memory."""

    def __init__(self, blocks: Mapping[bytes, Bytes]) -> None:
        self._blocks = blocks

    def read(self, block: BaseBlock) -> Bytes | None:
        return self._blocks[block.address]

    def read_all(self, blocks: Sequence[BaseBlock]) -> dict[bytes, Bytes] | None:
        return {block.address: self._blocks[block.address] for block in blocks}


def _cost(
    place: Sampled,
    data: Sequence[Bytes],
    older: Sequence[Bytes] | None,
    newer: Sequence[Bytes] | None,
    workspace: Workspace,
) -> float:
    held: dict[bytes, Bytes] = {}
    tasks = []
    for number, (item, partners) in enumerate(zip(place.group.items, place.group.partners, strict=True)):
        twins = []
        for side, base in ((b"o", older), (b"n", newer)):
            address = side + number.to_bytes(15, "big")
            if base is not None:
                held[address] = base[number]
            block = BaseBlock(RecordRef(address, 0), address, place.box, 1, False)
            twins.append(None if base is None else block)
        before = twins[0]
        bases = () if before is None else (before,)
        tasks.append(BlockTask(item, place.box, before, {}, bases, partners, twins[1]))
    return estimate_group(tasks, data, _Held(held), workspace)
