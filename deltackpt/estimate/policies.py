"""What a run's checkpoints will take in all, in money and in seconds, for several ways to keep them. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from deltackpt.estimate.rates import Rates, Speed, delta_bits, pays
from deltackpt.estimate.state import Kind

__all__ = ["GB", "Plan", "Projection", "State", "project_all"]

GB: Final = 1e9
"""Prices are for so many bytes."""

# The optimizer is kept at one checkpoint in so many, in the policy that thins it out.
_OPTIMIZER_EVERY: Final = 10

# Of the key interval, where checkpoints are thinned out or only weights are kept.
_KEY_EVERY: Final = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """A training run to be.

    Attributes:
        every: training steps between checkpoints.
        steps: training steps in all.
        price: of keeping 10**9 bytes for a month.
        disk: bytes that the disk or network takes or gives in a second.
    """

    every: int
    steps: int
    price: float
    disk: float

    @property
    def saves(self) -> int:
        """How many checkpoints there will be."""
        return self.steps // self.every


@dataclass(frozen=True, slots=True)
class State:
    """The state of the run to be.

    Attributes:
        elements: of its tensors, by kind.
        other_bytes: what a checkpoint has beside tensors; kept as they are.
    """

    elements: Mapping[Kind, float]
    other_bytes: float

    def scaled(self, factor: float) -> State:
        """The state of a model with so many times the parameters."""
        return State({kind: count * factor for kind, count in self.elements.items()}, self.other_bytes)

    def only(self, part: str, *, dtype: str | None = None) -> State:
        """One part of it, or what it has of one dtype."""
        chosen = {k: n for k, n in self.elements.items() if k.part == part and dtype in (None, k.dtype)}
        return State(chosen, 0.0)

    def without(self, part: str) -> State:
        """All but one part."""
        return State({kind: n for kind, n in self.elements.items() if kind.part != part}, self.other_bytes)

    @property
    def tensor_bytes(self) -> float:
        """Of all tensors."""
        return sum(kind.bits * count / 8 for kind, count in self.elements.items())

    @property
    def raw_bytes(self) -> float:
        """Of a checkpoint."""
        return self.tensor_bytes + self.other_bytes


@dataclass(frozen=True, slots=True)
class Projection:
    """What one policy costs.

    Attributes:
        name: what it does.
        saves: how many checkpoints are kept.
        bytes: what all of them take.
        monthly_cost: once all are there.
        save_seconds: of a checkpoint, on average.
        restore_seconds, longest_restore_seconds: of a checkpoint, on average and at the end of a chain.
        restores: what can be had back of a checkpoint.
    """

    name: str
    saves: int
    bytes: float
    monthly_cost: float
    save_seconds: float
    restore_seconds: float
    longest_restore_seconds: float
    restores: str


@dataclass(frozen=True, slots=True)
class _Line:
    """Checkpoints of one part of the state; ``key`` and ``delta`` are stored bytes, ``link`` those that a chain adds.

    Attributes:
        changing: the share of the tensors' bytes whose deltas are worth being some.
    """

    raw: float
    key: float
    delta: float
    link: float
    changing: float
    saves: int
    key_every: int

    @property
    def bytes(self) -> float:
        keys = math.ceil(self.saves / self.key_every)
        return keys * self.key + (self.saves - keys) * self.delta

    def save_seconds(self, speed: Speed, disk: float) -> float:
        """On average: coding and writing overlap."""
        keys = math.ceil(self.saves / self.key_every) / self.saves
        key = max(self.raw * speed.key, self.key / disk)
        delta = max(self.raw * speed.delta, self.delta / disk)
        return keys * key + (1 - keys) * delta

    def restore_seconds(self, speed: Speed, disk: float, distance: float) -> float:
        """Of a checkpoint so many after its key step."""
        decode = self.raw * (speed.load + self.changing * distance * speed.link)
        return max(decode, (self.key + distance * self.link) / disk)

    @property
    def longest(self) -> int:
        """How far the last checkpoint of a chain is from its key step."""
        return min(self.key_every, self.saves) - 1


def _line(state: State, rates: Rates, every: float, saves: int, key_every: int) -> _Line:
    key = delta = link = changing = 0.0
    for kind, count in state.elements.items():
        rate = rates.kinds.get(kind)
        if rate is None:  # nothing of this kind was sampled
            key, delta = key + kind.bits * count, delta + kind.bits * count
            continue
        bits = delta_bits(rate, rates.interval, every)
        key, delta = key + rate.key * count, delta + bits * count
        if pays(rate.key, bits):
            link += bits * count
            changing += kind.bits * count / 8
    rest = rates.metadata * state.tensor_bytes + state.other_bytes
    share = changing / state.tensor_bytes if state.tensor_bytes else 0.0
    return _Line(state.raw_bytes, key / 8 + rest, delta / 8 + rest, link / 8, share, saves, key_every)


def project_all(state: State, whole: Rates, weights: Rates | None, speed: Speed, plan: Plan) -> list[Projection]:
    """Every policy that makes sense for a state; the first is a full copy for each checkpoint.

    Args:
        whole: measured on whole checkpoints.
        weights: measured on the part ``weights`` alone, as in checkpoints without an optimizer.
        speed: of this machine.
    """
    saves = plan.saves
    found = [_full_copies(state, plan)]
    for key_every in (_KEY_EVERY, 4 * _KEY_EVERY):
        line = _line(state, whole, plan.every, saves, key_every)
        found.append(_projection(f"every {plan.every:,} steps, key every {key_every}", [line], speed, plan, "all"))
    if weights is None:
        return found
    optimizer, rest = state.only("optimizer"), state.without("optimizer")
    if optimizer.elements and saves >= _OPTIMIZER_EVERY:
        rates = Rates(weights.interval, {**whole.kinds, **weights.kinds}, weights.metadata)
        often = _line(rest, rates, plan.every, saves, _KEY_EVERY)
        seldom = _line(optimizer, whole, plan.every, saves // _OPTIMIZER_EVERY, 1)
        name = f"weights every {plan.every:,}, optimizer every {plan.every * _OPTIMIZER_EVERY:,}"
        found.append(_projection(name, [often, seldom], speed, plan, "weights; all at every tenth"))
    half = state.only("weights", dtype="bfloat16")
    if half.elements and half.tensor_bytes < state.tensor_bytes:
        line = _line(half, weights, plan.every, saves, _KEY_EVERY)
        found.append(_projection(f"bfloat16 weights only, every {plan.every:,}", [line], speed, plan, "weights"))
    return found


def _full_copies(state: State, plan: Plan) -> Projection:
    seconds = state.raw_bytes / plan.disk
    total = plan.saves * state.raw_bytes
    return Projection(
        "full copies (torch.save)", plan.saves, total, total / GB * plan.price, seconds, seconds, seconds, "all"
    )


def _projection(name: str, lines: list[_Line], speed: Speed, plan: Plan, restores: str) -> Projection:
    total = sum(line.bytes for line in lines)
    saves = max(line.saves for line in lines)
    return Projection(
        name=name,
        saves=saves,
        bytes=total,
        monthly_cost=total / GB * plan.price,
        save_seconds=sum(line.save_seconds(speed, plan.disk) * line.saves for line in lines) / saves,
        restore_seconds=sum(line.restore_seconds(speed, plan.disk, line.longest / 2) for line in lines),
        longest_restore_seconds=sum(line.restore_seconds(speed, plan.disk, line.longest) for line in lines),
        restores=restores,
    )
