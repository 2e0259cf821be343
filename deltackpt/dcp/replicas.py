"""Which rank writes what several ranks hold, so that a weight stays with its moments. Pure.

DCP gives every replicated item to the rank with the least to write so far, one item after another: under DDP and HSDP a
weight and its moments end up on different ranks, which then cannot be predicted from each other. The coordinator puts
them together again, on one of the ranks that hold them all, and keeps the ranks' shares of bytes even.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem

from deltackpt.dcp.entries import Path, chunk_box
from deltackpt.dcp.plans import Held, Kinds, Labels, all_paths, label_items
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.partners import group_items
from deltackpt.tensor.box import Box
from deltackpt.tensor.torch_bridge import from_torch_dtype

__all__ = ["share_out"]


def share_out(plans: Sequence[SavePlan]) -> list[SavePlan]:
    """The final plans of all ranks, of which each item is in exactly one: moved where that helps, and labelled.

    Args:
        plans: as the planner made them of plans from :func:`with_held`, one a rank.

    Raises:
        UnsupportedDataError: the planner describes the state in a way that a manifest cannot record.
    """
    kinds = label_items(plans)
    return [
        dataclasses.replace(plan, storage_data=Labels({item.index.fqn: kinds[item.index.fqn] for item in plan.items}))
        for plan in _keep_together(plans, kinds)
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _Unit:
    """Items that one rank should write.

    Attributes:
        ranks: those that hold all of them, or the one that is to write them as it is; never empty.
    """

    items: tuple[WriteItem, ...]
    ranks: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return sum(_nbytes(item) for item in self.items)


def _keep_together(plans: Sequence[SavePlan], kinds: Kinds) -> list[SavePlan]:
    """The plans, changed only where items that belong together are on different ranks."""
    holders = _holders(plans)
    writer = {item.index: rank for rank, plan in enumerate(plans) for item in plan.items}
    if all(len(ranks) < 2 for ranks in holders.values()) or not holders.keys() >= writer.keys():
        return list(plans)  # nothing to choose, or a planner that invents items
    units = list(_units(plans, kinds, holders, writer))
    if all(len({writer[item.index] for item in unit.items}) == 1 for unit in units):
        return list(plans)
    chosen = _balance(units, len(plans))
    items = {item.index: item for plan in plans for item in plan.items}
    return [
        dataclasses.replace(plan, items=[items[index] for index in _held(plan) if chosen.get(index) == rank])
        for rank, plan in enumerate(plans)
    ]


def _held(plan: SavePlan) -> tuple[MetadataIndex, ...]:
    return plan.storage_data.items if isinstance(plan.storage_data, Held) else tuple(item.index for item in plan.items)


def _holders(plans: Sequence[SavePlan]) -> dict[MetadataIndex, list[int]]:
    """Item to the ranks that hold it, in the order of the state."""
    holders: dict[MetadataIndex, list[int]] = {}
    for rank, plan in enumerate(plans):
        for index in _held(plan):
            holders.setdefault(index, []).append(rank)
    return holders


def _units(
    plans: Sequence[SavePlan],
    kinds: Kinds,
    holders: Mapping[MetadataIndex, Sequence[int]],
    writer: Mapping[MetadataIndex, int],
) -> Iterator[_Unit]:
    """All items, each in one unit."""
    items = {item.index: item for plan in plans for item in plan.items}
    paths = all_paths(plans)
    tensors, stubs = [], []
    for index in holders:
        item = items.get(index)
        if item is None:
            continue  # a planner may leave out what nobody is to write
        if item.tensor_data is None:
            yield _Unit((item,), (writer[index],))
            continue
        tensors.append(item)
        stubs.append(_stub(index.fqn, item.tensor_data, paths, kinds))
    for members in _belonging(stubs):
        group = tuple(tensors[number] for number in members)
        common = set.intersection(*(set(holders[item.index]) for item in group))
        if common:
            yield _Unit(group, tuple(sorted(common)))
        else:
            for item in group:
                yield _Unit((item,), tuple(holders[item.index]))


def _belonging(stubs: Sequence[SaveItem]) -> list[list[int]]:
    """The numbers of items that are predicted from each other, or that may be the same tensor under two names.

    Tied weights are stored once if one rank writes both. Nothing says that they are tied: two weights of a shape that
    no third one has, of which one has no moments, are taken for it. A wrong guess costs some balance.
    """
    numbers = {(stub.fqn, stub.box): number for number, stub in enumerate(stubs)}
    groups = [[numbers[item.fqn, item.box] for item in group.items] for group in group_items(stubs)]
    alike: dict[tuple[str, Box], list[int]] = {}
    for number, group in enumerate(groups):
        for weight in (stubs[member] for member in group if stubs[member].role == "weight"):
            alike.setdefault((weight.dtype.name, weight.box), []).append(number)
    for found in alike.values():
        first, second = (*found, *found)[:2]
        moments = [any(stubs[member].role == "exp_avg" for member in groups[number]) for number in found]
        if len(found) == 2 and first != second and not all(moments):
            groups[first] += groups[second]
            groups[second] = []
    return [group for group in groups if group]


def _stub(fqn: str, data: TensorWriteData, paths: Mapping[str, Path], kinds: Kinds) -> SaveItem:
    """A shard as the pipeline knows it, without its bytes."""
    dtype = from_torch_dtype(data.properties.dtype, where=fqn)
    return SaveItem(fqn, "tensor", dtype, chunk_box(data.chunk), *kinds[fqn], paths.get(fqn) or (fqn,), _no_bytes)


def _no_bytes(box: Box) -> NoReturn:
    raise AssertionError("the coordinator plans without the bytes")


def _nbytes(item: WriteItem) -> int:
    if item.tensor_data is None:
        return 0
    return math.prod(item.tensor_data.chunk.sizes) * item.tensor_data.properties.dtype.itemsize


def _balance(units: Sequence[_Unit], world: int) -> dict[MetadataIndex, int]:
    """Item to rank: the largest unit first, each to the rank of its own with the least to write; ties to the lowest."""
    load = [0] * world
    chosen: dict[MetadataIndex, int] = {}
    # Those that have no choice come before all others.
    for unit in sorted(units, key=lambda unit: (len(unit.ranks) > 1, -unit.nbytes)):
        rank = min(unit.ranks, key=lambda rank: (load[rank], rank))
        load[rank] += unit.nbytes
        chosen.update((item.index, rank) for item in unit.items)
    return chosen
