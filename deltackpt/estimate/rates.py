"""From what trials took to bits an element and seconds a byte. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from deltackpt.estimate.state import Kind
from deltackpt.estimate.trial import TrialStep

__all__ = [
    "ASSUMED_GROWTH",
    "Rate",
    "Rates",
    "Speed",
    "delta_bits",
    "interval_of",
    "measured_rates",
    "measured_speed",
    "pays",
    "with_growth",
]

ASSUMED_GROWTH: Final = 0.5
"""Bits an element that a delta grows by for every doubling of the interval, where it was not measured: weights drift
about as far as a random walk goes, with the square root of the steps."""

# A delta that saves less than this share of a key record is none.
_PAYS: Final = 0.98
# Below this many bits an element a tensor does not change; it will not at longer intervals either.
_FROZEN: Final = 0.01


@dataclass(frozen=True, slots=True)
class Rate:
    """What an element of one kind takes.

    Attributes:
        key, delta: bits in a key step, and in a step that builds on the one before at the measured interval.
        growth: bits that ``delta`` grows by for every doubling of the interval.
        growth_is_measured: False where :data:`ASSUMED_GROWTH` stands for it.
    """

    key: float
    delta: float
    growth: float = ASSUMED_GROWTH
    growth_is_measured: bool = False


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured of a state, or of a part of it.

    Attributes:
        interval: training steps between checkpoints, their geometric mean.
        kinds: the rates.
        metadata: bytes of index and manifest for each byte of tensors.
    """

    interval: float
    kinds: Mapping[Kind, Rate]
    metadata: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds for each byte of tensors, on this machine with all threads.

    Attributes:
        key, delta: of writing a step, without the disk.
        load: of reading a key step; ``link`` more for each delta below a step.
    """

    key: float
    delta: float
    load: float
    link: float


def delta_bits(rate: Rate, interval: float, every: float) -> float:
    """Bits an element in a delta step at another interval than that which was measured; never more than in a key step.

    What does not change stays so. What no delta was worth at the measured interval is taken to be so at shorter ones.
    """
    if rate.delta <= _FROZEN or (rate.delta >= _PAYS * rate.key and every < interval):
        return min(rate.delta, rate.key)
    return min(rate.key, max(0.0, rate.delta + rate.growth * math.log2(every / interval)))


def pays(key: float, delta: float) -> bool:
    """Whether a delta is worth being one."""
    return delta < _PAYS * key


def interval_of(steps: Sequence[int]) -> float:
    """The geometric mean of the intervals between steps: bits grow with their logarithm."""
    return math.exp(sum(math.log(b - a) for a, b in itertools.pairwise(steps)) / (len(steps) - 1))


def with_growth(rates: Rates, known: Rates) -> Rates:
    """The same rates, growing as others that were measured at two intervals."""
    kinds = {
        kind: replace(rate, growth=known.kinds[kind].growth, growth_is_measured=known.kinds[kind].growth_is_measured)
        for kind, rate in rates.kinds.items()
    }
    return replace(rates, kinds=kinds)


def measured_rates(
    elements: Mapping[Kind, int],
    steps: Sequence[int],
    trial: Sequence[TrialStep],
    far: Sequence[TrialStep] | None = None,
) -> Rates:
    """Rates from trials of one sample.

    Args:
        elements: of the sample, by kind.
        steps: the numbers of the checkpoints.
        trial: of all checkpoints, in order.
        far: of the first and the last one alone, where there are more than two.
    """
    interval = interval_of(steps)
    kinds = {}
    for kind, count in elements.items():
        key = 8 * trial[0].stored[kind] / count
        delta = 8 * sum(step.stored[kind] for step in trial[1:]) / count / (len(trial) - 1)
        growth = ASSUMED_GROWTH
        measured = False
        if far is not None:
            longer = 8 * far[1].stored[kind] / count
            if pays(key, longer) and steps[-1] - steps[0] > interval:
                growth = max(0.0, (longer - delta) / math.log2((steps[-1] - steps[0]) / interval))
                measured = True
        kinds[kind] = Rate(key, delta, growth, measured)
    metadata = sum(step.metadata_bytes for step in trial) / sum(step.raw_bytes for step in trial)
    return Rates(interval, kinds, metadata)


def measured_speed(trial: Sequence[TrialStep]) -> Speed:
    """Speeds from a trial of two steps or more."""
    raw = trial[0].raw_bytes
    links = len(trial) - 1
    load = trial[0].load_seconds / raw
    return Speed(
        key=trial[0].save_seconds / raw,
        delta=sum(step.save_seconds for step in trial[1:]) / links / raw,
        load=load,
        link=max(0.0, (trial[-1].load_seconds / raw - load) / links),
    )
