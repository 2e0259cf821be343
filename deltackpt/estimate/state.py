"""A checkpoint as an estimate sees it: tensors that can be read in parts, and how many bytes of each kind there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deltackpt.errors import InvalidArgumentError
from deltackpt.pipeline.items import SaveItem

__all__ = ["Checkpoint", "Kind", "elements_by_kind", "kind_of", "shared_items"]

# Of a state, tensors of this share may be in one checkpoint only, or have another shape: counters, samplers.
_ODD_SHARE = 0.1

_PARTS = {"model": "weights", "optim": "optimizer"}


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """Tensors that are expected to take the same number of bits an element.

    Attributes:
        part: ``weights`` (what is in the artifact ``model``), ``optimizer`` or ``other``.
        role, dtype: see the vocabulary in ``docs/architecture.md``.
        bits: of one element, before it is stored.
    """

    part: str
    role: str
    dtype: str
    bits: int


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """One checkpoint.

    Attributes:
        name: for messages.
        step: its number.
        items: its tensors, in the order of the state.
        other_bytes: what it has beside them.
    """

    name: str
    step: int
    items: Sequence[SaveItem]
    other_bytes: int

    @property
    def tensor_bytes(self) -> int:
        """Of all tensors."""
        return sum(item.box.numel * item.dtype.itemsize for item in self.items)


def kind_of(item: SaveItem) -> Kind:
    """The kind of a tensor."""
    return Kind(_PARTS.get(item.artifact, "other"), item.role, item.dtype.name, 8 * item.dtype.itemsize)


def elements_by_kind(items: Sequence[SaveItem]) -> Mapping[Kind, int]:
    """How many elements there are of each kind."""
    found: Counter[Kind] = Counter()
    for item in items:
        found[kind_of(item)] += item.box.numel
    return found


def shared_items(checkpoints: Sequence[Checkpoint]) -> list[list[SaveItem]]:
    """For each checkpoint the tensors that all of them have, in one order.

    Raises:
        InvalidArgumentError: there are fewer than two checkpoints, or they are not of one model.
    """
    if len(checkpoints) < 2:
        raise InvalidArgumentError(
            "an estimate needs two checkpoints of one run: what a step costs depends on what changed since the last",
            where=checkpoints[0].name if checkpoints else None,
            hint="name a second checkpoint, or the folder that holds several",
        )
    tables = [{_identity(item): item for item in one.items} for one in checkpoints]
    keys = [key for key in tables[0] if all(key in table for table in tables[1:])]
    for one, table in zip(checkpoints, tables, strict=True):
        odd = [item for key, item in table.items() if any(key not in other for other in tables)]
        odd_bytes = sum(item.box.numel * item.dtype.itemsize for item in odd)
        if not keys or odd_bytes > _ODD_SHARE * one.tensor_bytes:
            raise _mismatch(one, odd, checkpoints)
    return [[table[key] for key in keys] for table in tables]


def _identity(item: SaveItem) -> tuple[object, ...]:
    return item.fqn, item.box, item.dtype.code


def _mismatch(one: Checkpoint, odd: Sequence[SaveItem], checkpoints: Sequence[Checkpoint]) -> InvalidArgumentError:
    hint = "name checkpoints of one run, with the same parts in each"
    largest = max(odd, key=lambda item: item.box.numel * item.dtype.itemsize, default=None)
    if largest is None:
        return InvalidArgumentError("there are no tensors in it", where=one.name, hint=hint)
    others = [other for other in checkpoints if _identity(largest) not in set(map(_identity, other.items))]
    alike = next((item for item in others[0].items if item.fqn == largest.fqn), None)
    there = "has none of that name" if alike is None else f"has it as {_described(alike)}"
    return InvalidArgumentError(
        f"the checkpoints do not fit: {largest.fqn} is {_described(largest)}, and {others[0].name} {there}",
        where=one.name,
        hint=hint,
    )


def _described(item: SaveItem) -> str:
    return f"{item.dtype.name} {list(item.box.sizes)}"
