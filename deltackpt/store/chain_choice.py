"""The chain policy ``auto``: which of the fixed policies suits a run, by what deltas of it were measured to take. Pure.

Measured is what samples of the new step take alone, against the step before (one step of the run apart, or as many as
there are between two saves), and against the one before that, twice as far. From the last two follows how fast deltas
grow with the distance: by nearly the same amount for every doubling of it (``docs/design/chains.md``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from deltackpt.store.chain import POLICIES, base_distance

__all__ = ["KEY", "ChainChoice", "Measured", "is_measured_at", "pick_policy"]

KEY = "key"
"""What is picked where deltas do not pay: a key step."""

_SHALLOW_FIRST = ("anchor", "skip", "previous")

# Shallow chains restore faster: they may take this many times the bytes of the smallest chain.
_WORTH = 1.04

# Samples of equal steps differ by 0.2%, which the growth over the distances of a chain makes about 1% of its cost. So
# much a chain has to be beyond the limit above before what is followed changes.
_SLACK = 0.01

# A delta step has to save this share of a key step: it costs a decode of its base at every read.
_LEAST_GAIN = 0.02


@dataclass(frozen=True, slots=True)
class Measured:
    """What samples of a step take, in bytes.

    Attributes:
        alone: without a base.
        near: against the step before.
        far: against the step before that one; None where there is none.
    """

    alone: float
    near: float
    far: float | None


@dataclass(frozen=True, slots=True)
class ChainChoice:
    """The policy that a writer followed.

    Attributes:
        policy: one of the fixed policies, or :data:`KEY`.
        measured: what it was picked by; None where it was given, or kept from the step before.
    """

    policy: str
    measured: Measured | None = None


def is_measured_at(distance: int) -> bool:
    """Whether ``auto`` measures for a step so far from its key step: at 1, 2, 4, 8, ...; between, nothing changes."""
    return distance & (distance - 1) == 0


def pick_policy(measured: Measured, key_every: int, max_depth: int, kept: str | None = None) -> str:
    """The policy for the rest of a chain: of those that take at most 4% more than the smallest, the shallowest.

    Args:
        key_every, max_depth: as in the options of the store.
        kept: what was followed until now, which small differences do not change.
    """
    far = measured.near if measured.far is None else measured.far
    if min(measured.near, far) > (1 - _LEAST_GAIN) * measured.alone:
        return KEY
    if measured.far is None:
        return "previous"
    growth = max(0.0, far - measured.near)
    costs = {policy: _cost(policy, measured, growth, key_every, max_depth) for policy in POLICIES}
    smallest = min(costs.values())
    limits = dict.fromkeys(_SHALLOW_FIRST, _WORTH)
    if kept in _SHALLOW_FIRST:
        shallower = _SHALLOW_FIRST.index(kept)
        limits.update(dict.fromkeys(_SHALLOW_FIRST[:shallower], _WORTH - _SLACK), **{kept: _WORTH + _SLACK})
    return next(policy for policy in _SHALLOW_FIRST if costs[policy] <= limits[policy] * smallest)


def _cost(policy: str, measured: Measured, growth: float, key_every: int, max_depth: int) -> float:
    """About how many bytes a step of a chain takes on average.

    With ``previous`` a chain is as deep as it is long, so the largest depth cuts it, too.
    """
    length = min(key_every, max_depth) if policy == "previous" else key_every
    total = measured.alone
    for distance in range(1, length):
        back = distance - base_distance(policy, distance)
        total += min(measured.alone, measured.near + growth * math.log2(back))
    return total / length
