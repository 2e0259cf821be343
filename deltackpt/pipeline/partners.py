"""Which items of a save belong together: a weight, its optimizer's moments, and its 16-bit copies. Pure.

They are saved as one group, block by block, so that each may be predicted from those before it. A wrong guess costs
time but no
bytes: a prediction that does not pay is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deltackpt.pipeline.items import Place, SaveItem
from deltackpt.tensor.box import Box

__all__ = ["ItemGroup", "Partners", "group_items"]

# The order in which the items of a group are resolved: needs point to earlier rows.
_EXP_AVG, _EXP_AVG_SQ = "exp_avg", "exp_avg_sq"
_MASTERS = ("weight", "master")
_COPIES = ("bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Partners:
    """For one item of a group, which earlier items of it are what to it; None where there is none."""

    exp_avg: int | None = None
    exp_avg_sq: int | None = None
    master: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ItemGroup:
    """Items with the same box, in the order in which they are resolved.

    Attributes:
        partners: for each item, its partners among the items before it.
    """

    items: tuple[SaveItem, ...]
    partners: tuple[Partners, ...]


def group_items(items: Sequence[SaveItem]) -> list[ItemGroup]:
    """All items, each in exactly one group, in the order in which groups first occur."""
    moments = _moments(items)
    moments_of = _match_moments(items, moments)
    master_of = _match_masters(items)
    used: set[int] = set()
    groups: dict[int, ItemGroup] = {}
    weights = dict.fromkeys([*moments_of, *master_of.values()])
    for weight in weights:
        members, partners = _group(weight, moments_of.get(weight), [c for c, m in master_of.items() if m == weight])
        groups[min(members)] = ItemGroup(tuple(items[n] for n in members), tuple(partners))
        used.update(members)
    for pair in moments:
        if not used.intersection(pair):
            groups[min(pair)] = ItemGroup(tuple(items[n] for n in pair), (Partners(), Partners(exp_avg=0)))
            used.update(pair)
    for number, item in enumerate(items):
        if number not in used:
            groups[number] = ItemGroup((item,), (Partners(),))
    return [groups[first] for first in sorted(groups)]


def _group(weight: int, moments: tuple[int, int] | None, copies: list[int]) -> tuple[list[int], list[Partners]]:
    members = [*(moments or ()), weight, *copies]
    partners = [Partners(), Partners(exp_avg=0)] if moments else []
    position = len(partners)
    partners.append(Partners(exp_avg=0, exp_avg_sq=1) if moments else Partners())
    partners.extend(Partners(master=position) for _ in copies)
    return members, partners


def _moments(items: Sequence[SaveItem]) -> list[tuple[int, int]]:
    """Pairs of exp_avg and exp_avg_sq of one parameter and box."""
    first = {(item.place[:-1], item.box): n for n, item in enumerate(items) if item.role == _EXP_AVG}
    return [
        (first[item.place[:-1], item.box], n)
        for n, item in enumerate(items)
        if item.role == _EXP_AVG_SQ and (item.place[:-1], item.box) in first
    ]


def _match_moments(items: Sequence[SaveItem], moments: Sequence[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Weight to its moments: by name where the optimizer uses names; by order among equal boxes where it counts."""
    weights = [n for n, item in enumerate(items) if item.role in _MASTERS and item.dtype.name == "float32"]
    found: dict[int, tuple[int, int]] = {}
    counted: dict[tuple[Place, Box], list[tuple[int, tuple[int, int]]]] = {}
    for pair in moments:
        place, box = items[pair[0]].place, items[pair[0]].box
        owner = str(place[-2]) if len(place) > 1 else ""
        if owner.isdigit():
            counted.setdefault((place[:-2], box), []).append((int(owner), pair))
            continue
        named = [n for n in weights if n not in found and items[n].box == box and _is_called(items[n].place, owner)]
        if named:
            found[named[0]] = pair
    for (_, box), pairs in counted.items():
        free = [n for n in weights if n not in found and items[n].box == box]
        if free:
            container = items[free[0]].place[:-1]
            line = [n for n in free if items[n].place[:-1] == container]
            for weight, (_, pair) in zip(line, sorted(pairs), strict=False):
                found[weight] = pair
    return found


def _is_called(place: Place, name: str) -> bool:
    joined = ".".join(str(part) for part in place)
    return joined == name or joined.endswith("." + name)


def _match_masters(items: Sequence[SaveItem]) -> dict[int, int]:
    """16-bit copy to the float32 tensor of the same last name and box."""
    masters: dict[tuple[str | int, Box], int] = {}
    for number, item in enumerate(items):
        if item.role in _MASTERS and item.dtype.name == "float32":
            masters.setdefault((item.place[-1], item.box), number)
    return {
        number: masters[item.place[-1], item.box]
        for number, item in enumerate(items)
        if item.kind == "tensor" and item.dtype.name in _COPIES and (item.place[-1], item.box) in masters
    }
