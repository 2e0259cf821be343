"""What a save writes, in which order, and from which base blocks. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.format.record import Need, Tile
from deltackpt.store.base import BaseBlock, BaseView
from deltackpt.store.chain import Chain
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import DType
from deltackpt.tensor.grid import cut

__all__ = ["BlockTask", "SaveItem", "ShardPlan", "plan_save", "whole_or_tiles"]

# Optimizers come before models and moments before weights: needs point to earlier rows, and it is the weights that
# can be predicted from the moments.
_ROLE_ORDER = ("exp_avg", "exp_avg_sq", "momentum", "master", "weight")


# How many full blocks of bases one block may be predicted from: it bounds what decoding the block reads and holds.
# Enough for a change between 8 shards of rows and 16 of columns.
_MOST_BASE_BLOCKS = 16


@dataclass(frozen=True, slots=True, eq=False)
class SaveItem:
    """One shard of a tensor, or one object, that this writer saves.

    Attributes:
        fqn, kind: its name, and ``"tensor"`` or ``"object"``.
        dtype: the element type (uint8 for an object).
        box: where it lies in its tensor.
        artifact, role: see the vocabulary in ``docs/architecture.md``.
        read: gives the bytes of a box inside ``box`` (global coordinates) as a new 1-D array that nobody else changes.
    """

    fqn: str
    kind: str
    dtype: DType
    box: Box
    artifact: str
    role: str
    read: Callable[[Box], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True, eq=False)
class BlockTask:
    """One block to write.

    Attributes:
        item: the shard it belongs to.
        box: where it lies in its tensor.
        twin: the base's block of the same box, if there is one.
        reusable: the base's blocks that may be referred to where one is equal; a key step reuses key records only.
        bases: the base's blocks to predict from; empty where no delta may be written.
    """

    item: SaveItem
    box: Box
    twin: BaseBlock | None
    reusable: tuple[BaseBlock, ...]
    bases: tuple[BaseBlock, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ShardPlan:
    """One item and its blocks, in the order of the grid."""

    item: SaveItem
    blocks: tuple[BlockTask, ...]


def plan_save(
    items: Sequence[SaveItem], base: BaseView | None, chain: Chain, *, block_elements: int, max_depth: int
) -> list[ShardPlan]:
    """What to write for each item, grouped by artifact and ordered by role, with the base blocks each block may use."""
    return [
        ShardPlan(
            item,
            tuple(_task(item, box, base, chain, block_elements, max_depth) for box in cut(item.box, block_elements)),
        )
        for item in sorted(items, key=_order)
    ]


def _order(item: SaveItem) -> tuple[bool, str, int, str, tuple[int, ...]]:
    role = _ROLE_ORDER.index(item.role) if item.role in _ROLE_ORDER else len(_ROLE_ORDER)
    return item.artifact != "optim", item.artifact, role, item.fqn, item.box.offsets


def _task(
    item: SaveItem, box: Box, base: BaseView | None, chain: Chain, block_elements: int, max_depth: int
) -> BlockTask:
    if base is None:
        return BlockTask(item, box, None, (), ())
    found = base.blocks(item.fqn, item.kind, item.dtype.code, box)
    twin = found[0] if len(found) == 1 and found[0].box == box else None
    reusable = tuple(block for block in found if chain.delta or block.depth == 1)
    if not chain.delta or item.kind == "object":
        return BlockTask(item, box, twin, reusable, ())
    bases = tuple(block for block in found if block.depth < max_depth)
    if sum(block.box.numel for block in bases) > _MOST_BASE_BLOCKS * block_elements:
        bases = ()
    return BlockTask(item, box, twin, reusable, bases)


def whole_or_tiles(box: Box, dtype: DType, bases: Sequence[BaseBlock]) -> tuple[Need, ...]:
    """The needs that fill slot 0 of a block from base blocks that overlap it."""
    if len(bases) == 1 and bases[0].box == box:
        return (Need(0, dtype.code, bases[0].address, None),)
    needs = []
    for base in sorted(bases, key=lambda b: b.box.offsets):
        common = base.box.intersect(box)
        if common is not None:
            source, target = common.relative_to(base.box), common.relative_to(box)
            needs.append(
                Need(0, dtype.code, base.address, Tile(base.box.sizes, source.offsets, common.sizes, target.offsets))
            )
    return tuple(needs)
