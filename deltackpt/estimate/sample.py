"""A sample of a state: whole blocks of parameters, each with what the optimizer keeps of it, spread over all of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deltackpt.estimate.state import kind_of
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.partners import ItemGroup
from deltackpt.tensor.box import Box
from deltackpt.tensor.grid import cut

__all__ = ["Unit", "choose_units", "read_units", "sampled_items"]

Bytes = NDArray[np.uint8]

# The elements of a block where only some are taken: smaller than those of a save, so that there are more places. It
# changes the bits of an element by less than 0.2%.
_SAMPLED_BLOCK: Final = 1 << 18

# Parameters of one composition (such as: a weight and two moments, all float32) are sampled at this many places.
_LEAST_PLACES: Final = 2


@dataclass(frozen=True, slots=True)
class Unit:
    """One block of the items of a group.

    Attributes:
        group: the number of the group.
        box: in global coordinates of its tensors.
    """

    group: int
    box: Box


def choose_units(groups: Sequence[ItemGroup], budget: int, *, block_elements: int) -> list[Unit]:
    """Blocks of about ``budget`` bytes in all, in the order of the state; all blocks where those are fewer. Pure.

    Blocks are drawn at even distances along the bytes of the state (systematic sampling with a chance in proportion to
    size: Madow, 1949), for each composition of groups on its own.

    Args:
        budget: bytes of the chosen blocks, with all items of their groups.
        block_elements: the most elements of a block where everything is taken.
    """
    if sum(map(_size, groups)) <= budget:
        return [Unit(n, box) for n, group in enumerate(groups) for box in cut(group.items[0].box, block_elements)]
    share = budget / sum(map(_size, groups))
    strata: dict[tuple[object, ...], list[int]] = {}
    for number, group in enumerate(groups):
        strata.setdefault(tuple(map(kind_of, group.items)), []).append(number)
    chosen: list[Unit] = []
    for numbers in strata.values():
        units = [Unit(n, box) for n in numbers for box in cut(groups[n].items[0].box, _SAMPLED_BLOCK)]
        chosen += _spread(units, share)
    return sorted(chosen, key=lambda unit: (unit.group, unit.box.offsets))


def _size(group: ItemGroup) -> int:
    return sum(item.box.numel * item.dtype.itemsize for item in group.items)


def _spread(units: Sequence[Unit], share: float) -> list[Unit]:
    """So many of some blocks as make up a share of their elements, at even distances."""
    ends = list(itertools.accumulate(unit.box.numel for unit in units))
    if not ends:
        return []
    largest = max(unit.box.numel for unit in units)
    places = min(len(units), max(_LEAST_PLACES, round(share * ends[-1] / largest)))
    points = (np.arange(places) + 0.5) * ends[-1] / places
    return [units[n] for n in np.unique(np.searchsorted(ends, points, side="right")).tolist()]


def sampled_items(groups: Sequence[ItemGroup], units: Sequence[Unit]) -> list[SaveItem]:
    """The chosen blocks as items of a save, each a tensor of its own, with places by which partners find each other."""
    items = []
    for number, unit in enumerate(units):
        name = f"sample{number}"
        copies = itertools.count()
        for item in groups[unit.group].items:
            place: tuple[str | int, ...]
            if item.role in ("exp_avg", "exp_avg_sq", "momentum"):
                place = ("optim", "state", name, item.role)
            elif item.role in ("weight", "master") and item.dtype.name == "float32":
                place = (item.role, name)
            else:
                place = ("copies", next(copies), name)
            fqn = ".".join(map(str, place))
            items.append(replace(item, fqn=fqn, place=place, box=Box.whole(unit.box.sizes)))
    return items


def read_units(
    groups: Sequence[ItemGroup], units: Sequence[Unit], twins: Mapping[tuple[str, Box], SaveItem], *, threads: int
) -> list[Bytes]:
    """The bytes of the chosen blocks of one checkpoint, in the order of :func:`sampled_items`.

    Args:
        twins: the items of that checkpoint, by name and box.
    """
    wanted = [(twins[item.fqn, item.box], unit.box) for unit in units for item in groups[unit.group].items]
    with ThreadPoolExecutor(threads, thread_name_prefix="deltackpt-sample") as executor:
        return list(executor.map(lambda pair: pair[0].read(pair[1]), wanted))
