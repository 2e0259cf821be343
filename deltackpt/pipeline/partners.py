"""Which items of a save belong together: a weight, what its optimizer keeps of it, and its 16-bit copies. Pure.

They are saved as one group, block by block, so that each may be predicted from those before it. A wrong guess costs
time but no bytes: a prediction that does not pay is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deltackpt.pipeline.items import Place, SaveItem
from deltackpt.tensor.box import Box

__all__ = ["ItemGroup", "Partners", "group_items"]

_MOMENTS = ("exp_avg", "exp_avg_sq", "momentum")
_MASTERS = ("weight", "master")
_COPIES = ("bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Partners:
    """For one item of a group, which others of it are what to it; None where there is none.

    They are before it; only a first moment and its second one are partners of each other, and which of them comes
    first is decided for each block.
    """

    exp_avg: int | None = None
    exp_avg_sq: int | None = None
    momentum: int | None = None
    master: int | None = None


# The kinds of state that an optimizer keeps of a parameter, each with its parts in the order of a group, and what they
# are to each other and to the weight.
_STATES = {
    ("exp_avg", "exp_avg_sq"): (Partners(exp_avg_sq=1), Partners(exp_avg=0), Partners(exp_avg=0, exp_avg_sq=1)),
    ("momentum",): (Partners(), Partners(momentum=0)),
    # Lion's, which is a momentum in all but its name.
    ("exp_avg",): (Partners(), Partners(momentum=0)),
}


@dataclass(frozen=True, slots=True, eq=False)
class ItemGroup:
    """Items with the same box, in the order in which they are resolved; the first two, if moments, in either order.

    Attributes:
        partners: for each item, its partners.
    """

    items: tuple[SaveItem, ...]
    partners: tuple[Partners, ...]


def group_items(items: Sequence[SaveItem]) -> list[ItemGroup]:
    """All items, each in exactly one group, in the order in which groups first occur.

    Args:
        items: in the order of the state: where an optimizer counts its parameters, they are matched in that order.
    """
    moments = _moments(items)
    moments_of = _match_moments(items, moments)
    master_of = _match_masters(items)
    used: set[int] = set()
    groups: dict[int, ItemGroup] = {}
    copies_of: dict[int, list[int]] = {weight: [] for weight in moments_of}
    for copy, master in master_of.items():
        copies_of.setdefault(master, []).append(copy)
    for weight, copies in copies_of.items():
        members, partners = _group(weight, moments_of.get(weight), copies)
        groups[min(members)] = ItemGroup(tuple(items[n] for n in members), tuple(partners))
        used.update(members)
    for state in moments.values():
        if not used.intersection(state.items):
            groups[min(state.items)] = ItemGroup(tuple(items[n] for n in state.items), state.partners[:-1])
            used.update(state.items)
    for number, item in enumerate(items):
        if number not in used:
            groups[number] = ItemGroup((item,), (Partners(),))
    return [groups[first] for first in sorted(groups)]


def _group(weight: int, state: _State | None, copies: list[int]) -> tuple[list[int], list[Partners]]:
    members = [*(state.items if state else ()), weight, *copies]
    partners = [*(state.partners if state else (Partners(),))]
    position = len(partners) - 1
    partners.extend(Partners(master=position) for _ in copies)
    return members, partners


def _words(place: Place) -> tuple[str, ...]:
    """A place as words: names with dots are nested places that somebody flattened."""
    return tuple(".".join(str(part) for part in place).split("."))


@dataclass(frozen=True, slots=True)
class _Owner:
    """Whose moment an item is: what the optimizer calls the parameter, in which of its ``state`` dicts."""

    optimizer: tuple[str, ...]
    parameter: str
    box: Box


def _owner(item: SaveItem) -> _Owner | None:
    """Read ``<optimizer>.state.<parameter>.<moment>``."""
    words = _words(item.place)
    if "state" not in words[:-2]:
        return None
    position = words.index("state")
    return _Owner(words[:position], ".".join(words[position + 1 : -1]), item.box)


@dataclass(frozen=True, slots=True)
class _State:
    """The tensors that an optimizer keeps of one parameter.

    Attributes:
        items: their positions, in the order of a group.
        partners: theirs, and those of the weight at the end.
    """

    items: tuple[int, ...]
    partners: tuple[Partners, ...]


def _moments(items: Sequence[SaveItem]) -> dict[_Owner, _State]:
    """What there is of each parameter that has one of the known kinds of state."""
    found: dict[_Owner, dict[str, int]] = {}
    for number, item in enumerate(items):
        owner = _owner(item) if any(item.role in kind for kind in _STATES) else None
        if owner is not None:
            found.setdefault(owner, {})[item.role] = number
    states = {}
    for owner, roles in found.items():
        kind = next((kind for kind in _STATES if set(kind) == set(roles)), None)
        if kind is not None:
            states[owner] = _State(tuple(roles[role] for role in kind), _STATES[kind])
    return states


def _match_moments(items: Sequence[SaveItem], moments: Mapping[_Owner, _State]) -> dict[int, _State]:
    """Weight to its moments: by name where the optimizer uses names, by order among equal boxes where it counts."""
    masters = [n for n, item in enumerate(items) if _is_master(item)]
    called = _by_suffix(items, masters)
    masters_at: dict[Box, list[int]] = {}
    for number in masters:
        masters_at.setdefault(items[number].box, []).append(number)
    found: dict[int, _State] = {}
    counted: dict[tuple[tuple[str, ...], Box], list[tuple[int, _State]]] = {}
    for owner, state in moments.items():
        if owner.parameter.isdigit():
            counted.setdefault((owner.optimizer, owner.box), []).append((int(owner.parameter), state))
            continue
        weight = called.get((tuple(owner.parameter.split(".")), owner.box))
        if weight is not None:
            found.setdefault(weight, state)
    for (_, box), states in counted.items():
        free = [n for n in masters_at.get(box, ()) if n not in found]
        # Copies, such as averages, lie elsewhere in the state and have the same boxes: one container is the model.
        same = [n for n in free if items[n].artifact == items[free[0]].artifact]
        ordered = sorted(states, key=lambda numbered: numbered[0])
        found.update(zip(same, (state for _, state in ordered), strict=False))
    return found


def _match_masters(items: Sequence[SaveItem]) -> dict[int, int]:
    """16-bit copy to the float32 tensor of the same box whose name ends most alike."""
    called = _by_suffix(items, [n for n, item in enumerate(items) if _is_master(item)])
    found = {}
    for number, item in enumerate(items):
        if item.kind == "tensor" and item.dtype.name in _COPIES and item.role not in _MOMENTS:
            words = _words(item.place)
            ends = (called.get((words[start:], item.box)) for start in range(len(words)))
            master = next((end for end in ends if end is not None), None)
            if master is not None:
                found[number] = master
    return found


def _is_master(item: SaveItem) -> bool:
    return item.kind == "tensor" and item.role in _MASTERS and item.dtype.name == "float32"


def _by_suffix(items: Sequence[SaveItem], numbers: Sequence[int]) -> dict[tuple[tuple[str, ...], Box], int]:
    """Every ending of a name, with the box, to the first item that has it."""
    found: dict[tuple[tuple[str, ...], Box], int] = {}
    for number in numbers:
        words = _words(items[number].place)
        for start in range(len(words)):
            found.setdefault((words[start:], items[number].box), number)
    return found
