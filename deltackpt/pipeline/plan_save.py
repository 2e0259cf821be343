"""What a save writes, in which order, and from which stored blocks and partners. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from deltackpt.format.record import Need, Tile
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.partners import ItemGroup, Partners
from deltackpt.store.base import BaseBlock, BaseView
from deltackpt.store.chain import Chain
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import DType
from deltackpt.tensor.grid import cut

__all__ = ["BlockGroup", "BlockTask", "GroupPlan", "base_needs", "plan_save"]

# How many full blocks of bases one block may be predicted from: it bounds what decoding the block reads and holds.
# Enough for a change between 8 shards of rows and 16 of columns.
_MOST_BASE_BLOCKS = 16


@dataclass(frozen=True, slots=True, eq=False)
class BlockTask:
    """One block to write.

    Attributes:
        item: the shard it belongs to.
        box: where it lies in its tensor.
        twin: the base's block of the same box, if there is one.
        reusable: the base's blocks that may be referred to where one is equal, by address; a key step reuses key
            records only.
        bases: the base's blocks to predict from; empty where no delta may be written.
        partners: the blocks of its group that it may be predicted from.
        other: the block of the same box in a second base.
    """

    item: SaveItem
    box: Box
    twin: BaseBlock | None
    reusable: Mapping[bytes, BaseBlock]
    bases: tuple[BaseBlock, ...]
    partners: Partners
    other: BaseBlock | None = None


BlockGroup = tuple[BlockTask, ...]
"""The blocks of one box of the items of a group; they are resolved in this order, by one thread."""


@dataclass(frozen=True, slots=True, eq=False)
class GroupPlan:
    """The items of a group, and their blocks in the order of the grid."""

    items: tuple[SaveItem, ...]
    blocks: tuple[BlockGroup, ...]


def plan_save(
    groups: Sequence[ItemGroup],
    base: BaseView | None,
    chain: Chain,
    *,
    block_elements: int,
    max_depth: int,
    other: BaseView | None = None,
    parts: Mapping[str, BaseView] = MappingProxyType({}),
) -> list[GroupPlan]:
    """What to write for all groups, in order of names, and for each block what it may be predicted from.

    Args:
        other: a second base, for blocks that it has with the same box.
        parts: the bases of some artifacts, in place of ``base``.
    """
    plans = [_plan_group(group, base, parts, chain, block_elements, max_depth) for group in sorted(groups, key=_order)]
    return plans if other is None else [_with_other(plan, other, max_depth) for plan in plans]


def _with_other(plan: GroupPlan, other: BaseView, max_depth: int) -> GroupPlan:
    return GroupPlan(
        plan.items, tuple(tuple(_add_other(task, other, max_depth) for task in group) for group in plan.blocks)
    )


def _add_other(task: BlockTask, other: BaseView, max_depth: int) -> BlockTask:
    item = task.item
    if item.moves or item.kind == "object":
        return task
    found = other.blocks(item.fqn, item.kind, item.dtype.code, task.box)
    if len(found) != 1 or found[0].box != task.box:
        return task
    block = found[0]
    return replace(
        task,
        reusable={block.address: block, **task.reusable},
        other=block if block.depth < max_depth else None,
    )


def _order(group: ItemGroup) -> tuple[str, str, tuple[int, ...]]:
    first = group.items[0]
    return first.artifact, first.fqn, first.box.offsets


def _plan_group(
    group: ItemGroup,
    base: BaseView | None,
    parts: Mapping[str, BaseView],
    chain: Chain,
    block_elements: int,
    max_depth: int,
) -> GroupPlan:
    block_elements = group.items[0].block_elements or block_elements
    boxes = cut(group.items[0].box, block_elements)
    return GroupPlan(
        group.items,
        tuple(
            tuple(
                _task(item, box, parts.get(item.artifact, base), chain, block_elements, max_depth, partners)
                for item, partners in zip(group.items, group.partners, strict=True)
            )
            for box in boxes
        ),
    )


def _task(
    item: SaveItem,
    box: Box,
    base: BaseView | None,
    chain: Chain,
    block_elements: int,
    max_depth: int,
    partners: Partners,
) -> BlockTask:
    if base is None:
        return BlockTask(item, box, None, {}, (), partners)
    if item.moves:
        anywhere = base.by_address(item.fqn, item.kind, item.dtype.code, key_only=not chain.delta)
        return BlockTask(item, box, None, anywhere, (), partners)
    found = base.blocks(item.fqn, item.kind, item.dtype.code, box)
    twin = found[0] if len(found) == 1 and found[0].box == box else None
    reusable = {block.address: block for block in found if chain.delta or block.is_key}
    if not chain.delta or item.kind == "object":
        return BlockTask(item, box, twin, reusable, (), partners)
    bases = tuple(block for block in found if block.depth < max_depth)
    if sum(block.box.numel for block in bases) > _MOST_BASE_BLOCKS * block_elements:
        bases = ()
    return BlockTask(item, box, twin, reusable, bases, partners)


def base_needs(box: Box, dtype: DType, bases: Sequence[BaseBlock]) -> tuple[Need, ...]:
    """The needs that fill slot 0 of a block from base blocks that overlap it, in the order of their offsets."""
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
