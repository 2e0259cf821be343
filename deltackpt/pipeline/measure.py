"""What a step would take against different bases, measured on samples: what the chain policy ``auto`` goes by.

Samples are small boxes in the middle of blocks of the largest groups, encoded as a save would encode them. The same
boxes of earlier steps are kept in memory; after a restart they are decoded from the store, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import Workspace
from deltackpt.format.hashing import ADDRESS_BYTES
from deltackpt.pipeline.bases import BaseReader, Bases
from deltackpt.pipeline.encode import Resolver, TakenBlock
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.partners import ItemGroup
from deltackpt.pipeline.plan_save import BlockTask
from deltackpt.pipeline.slots import element_view
from deltackpt.store.base import BaseBlock, BaseView
from deltackpt.store.base_cache import Samples
from deltackpt.store.chain_choice import Measured
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import DType
from deltackpt.tensor.grid import cut

__all__ = ["Sampled", "estimate_group", "measure", "sample_groups", "take_sample"]

Bytes = NDArray[np.uint8]

# Of a group of Adam's tensors, samples of 4096 elements take 25 ms to measure, most of it fits, and blocks of 2^20 take
# 45 ms to encode: one sample for 32 blocks is below 2% of a save, at the saves that measure. With 2048 elements the
# tables of the coder weigh so much that what is measured varies by 2% between equal steps.
_ELEMENTS = 4096
_BLOCKS_PER_SAMPLE = 32
_MOST_SAMPLES = 8

_UNBOUNDED = 1 << 31


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """A place that is sampled in every item of a group.

    Attributes:
        block: the block that it lies in.
        box: the sampled box.
        weight: how many times larger the group is.
    """

    group: ItemGroup
    block: Box
    box: Box
    weight: float

    def part_of(self, block: Bytes, dtype: DType) -> Bytes:
        """The sample in a block."""
        return take_sample(block, dtype, self.block, self.box)


def sample_groups(
    groups: Sequence[ItemGroup],
    block_elements: int,
    *,
    blocks_per_sample: int = _BLOCKS_PER_SAMPLE,
    most: int = _MOST_SAMPLES,
) -> list[Sampled]:
    """Where to sample: in the middle of the largest groups, the same in every step. Pure."""
    tensors = [group for group in groups if group.items[0].kind == "tensor" and group.items[0].box.numel > 0]
    blocks = sum(-(-group.items[0].box.numel // block_elements) for group in tensors)
    count = min(most, max(1, blocks // blocks_per_sample))
    found = []
    for group in sorted(tensors, key=_size)[:count]:
        whole = group.items[0].box
        inside = cut(whole, block_elements)
        block = inside[len(inside) // 2]
        parts = cut(block, _ELEMENTS)
        box = parts[len(parts) // 2]
        found.append(Sampled(group, block, box, whole.numel / box.numel))
    return found


def _size(group: ItemGroup) -> tuple[int, str, tuple[int, ...]]:
    """Largest first; in order of names where equal."""
    first = group.items[0]
    return -sum(item.box.numel * item.dtype.itemsize for item in group.items), first.fqn, first.box.offsets


def take_sample(data: Bytes, dtype: DType, block: Box, box: Box) -> Bytes:
    """The bytes of a box inside a block, as a copy."""
    elements = element_view(data, dtype, block.sizes)[box.relative_to(block).slices()]
    return np.array(elements, order="C").reshape(-1).view(np.uint8)


def measure(
    places: Sequence[Sampled],
    near: BaseView,
    far: BaseView | None,
    bases: tuple[Bases, Bases | None],
    samples: Samples,
    workspace: Workspace,
) -> Measured | None:
    """What the samples take alone, against ``near`` and against ``far``.

    None where ``near`` has nothing to compare with, as after a change of the sharding.

    Args:
        bases: where blocks of near and far come from if their samples are not in memory.
    """
    totals = np.zeros(3)
    compared = False
    for place in places:
        data = [item.read(place.box) for item in place.group.items]
        found = [
            None if view is None or read is None else _BaseSamples(view, read, samples, place)
            for view, read in zip((near, far), bases, strict=True)
        ]
        compared = compared or (found[0] is not None and found[0].serves(place.group.items[0]))
        alone = _estimated(place, data, None, workspace)
        costs = [alone, *(_estimated(place, data, base, workspace) if base is not None else alone for base in found)]
        totals += place.weight * np.array(costs, dtype=np.float64)
    if not compared:
        return None
    return Measured(float(totals[0]), float(totals[1]), None if far is None else float(totals[2]))


class _BaseSamples:
    """The samples of one base at one place; what a save reads its bases through, for sampled boxes."""

    def __init__(self, view: BaseView, bases: Bases, samples: Samples, place: Sampled) -> None:
        self._view = view
        self._bases = bases
        self._samples = samples
        self._place = place
        self._dtypes: dict[bytes, DType] = {}

    def twin(self, item: SaveItem) -> BaseBlock | None:
        """The base's block at this place, standing for its sampled box; None where it has another one."""
        found = self._view.blocks(item.fqn, item.kind, item.dtype.code, self._place.block)
        if len(found) != 1 or found[0].box != self._place.block:
            return None
        self._dtypes[found[0].address] = item.dtype
        return replace(found[0], box=self._place.box)

    def serves(self, item: SaveItem) -> bool:
        twin = self.twin(item)
        return twin is not None and self.read(twin) is not None

    def read(self, block: BaseBlock) -> Bytes | None:
        """The sampled box of a block."""
        held = self._samples.get(block.address, self._place.box)
        if held is None:
            whole = self._bases.read(replace(block, box=self._place.block))
            if whole is None:
                return None
            held = take_sample(whole, self._dtypes[block.address], self._place.block, self._place.box)
            self._samples.put(block.address, self._place.box, held)
        return held

    def read_all(self, blocks: Sequence[BaseBlock]) -> dict[bytes, Bytes] | None:
        """The sampled boxes of several blocks, by address."""
        found: dict[bytes, Bytes] = {}
        for block in blocks:
            data = self.read(block)
            if data is None:
                return None
            found[block.address] = data
        return found


def _estimated(place: Sampled, data: Sequence[Bytes], base: _BaseSamples | None, workspace: Workspace) -> float:
    """What the items take against a base."""
    tasks = []
    for item, partners in zip(place.group.items, place.group.partners, strict=True):
        twin = None if base is None else base.twin(item)
        tasks.append(BlockTask(item, place.box, twin, {}, () if twin is None else (twin,), partners))
    return estimate_group(tasks, data, _Nothing() if base is None else base, workspace)


def estimate_group(tasks: Sequence[BlockTask], data: Sequence[Bytes], bases: BaseReader, workspace: Workspace) -> float:
    """About the bytes of the payloads of all blocks of a group, each predicted as a save would."""
    # Addresses of nothing: samples that equal their base are to cost nothing.
    group = [
        TakenBlock(task, part, number.to_bytes(ADDRESS_BYTES, "big"))
        for number, (task, part) in enumerate(zip(tasks, data, strict=True))
    ]
    resolver = Resolver(group, bases, _UNBOUNDED, workspace)
    picks = resolver.moments(())
    total = 0.0
    for position in [*picks, *(p for p in range(len(group)) if p not in picks)]:
        pick = picks.get(position) or resolver.pick(position)
        size = pick.choice.bits * group[position].data.size / group[position].task.item.dtype.word_bytes / 8
        resolver.settle(position, 1, int(size))
        total += size
    return total


class _Nothing:
    """No base."""

    def read(self, block: BaseBlock) -> Bytes | None:
        return None

    def read_all(self, blocks: Sequence[BaseBlock]) -> dict[bytes, Bytes] | None:
        return None
