"""Rules that look at the number of the step only."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from deltackpt.errors import InvalidArgumentError
from deltackpt.schedule.base import Moment, Schedule, State, check_count

__all__ = ["AtSteps", "EverySteps", "PowersOfTwo", "Progressive", "StepRule"]


class StepRule(Schedule):
    """A set of steps. It is due where one of them was reached since the last moment.

    So a loop that speaks only at every third step saves at the first chance after each step of the set.
    """

    __slots__ = ()

    @property
    def by_step_alone(self) -> bool:
        return True

    @abstractmethod
    def newest(self, step: int) -> int | None:
        """The highest step of the set that is at most ``step``; None where there is none."""

    def start(self) -> State:
        return {"seen": None}

    def due(self, state: State, moment: Moment) -> bool:
        newest, seen = self.newest(moment.step), state["seen"]
        return newest is not None and (newest == moment.step if seen is None else newest > seen)

    def after(self, state: State, moment: Moment, *, saved: bool) -> State:
        return {"seen": moment.step}


@dataclass(frozen=True, slots=True)
class EverySteps(StepRule):
    """The multiples of ``steps``, from ``start_at`` on. 0 is a multiple of every number."""

    steps: int
    start_at: int = 0

    def __post_init__(self) -> None:
        check_count("every", self.steps, 1)
        check_count("start_at", self.start_at, 0)

    def newest(self, step: int) -> int | None:
        found = step // self.steps * self.steps
        return found if found >= self.start_at else None

    def to_config(self) -> dict[str, Any]:
        return {"every": self.steps, **({"start_at": self.start_at} if self.start_at else {})}


@dataclass(frozen=True)
class Progressive(StepRule):
    """Intervals that change on the way: from each step in ``intervals`` on, the multiples of its interval.

    ``{0: 1000, 10000: 500, 50000: 100}`` becomes denser, ``{0: 10, 1000: 100, 10000: 1000}`` sparser. Before the lowest
    step nothing is due.
    """

    intervals: Mapping[int, int]

    def __post_init__(self) -> None:
        given: object = self.intervals
        if not isinstance(given, Mapping) or not given:
            raise InvalidArgumentError(
                f"progressive must be a mapping of first steps to intervals, not {given!r}",
                hint="for example {0: 1000, 10000: 500}",
            )
        for start, interval in self.intervals.items():
            check_count("a first step in progressive", start, 0)
            check_count(f"the interval from step {start} on", interval, 1)
        object.__setattr__(self, "intervals", MappingProxyType(dict(sorted(self.intervals.items()))))

    def __hash__(self) -> int:
        return hash(tuple(self.intervals.items()))

    def __reduce__(self) -> tuple[object, ...]:
        return (Progressive, (dict(self.intervals),))

    def newest(self, step: int) -> int | None:
        for start, interval in sorted(self.intervals.items(), reverse=True):
            if start <= step:
                found = step // interval * interval
                if found >= start:
                    return found
                step = start - 1
        return None

    def to_config(self) -> dict[str, Any]:
        # JSON has no integers as keys.
        return {"progressive": {str(start): interval for start, interval in self.intervals.items()}}


@dataclass(frozen=True, slots=True)
class PowersOfTwo(StepRule):
    """Steps 1, 2, 4, 8 and so on, from ``start_at`` on."""

    start_at: int = 0

    def __post_init__(self) -> None:
        check_count("start_at", self.start_at, 0)

    def newest(self, step: int) -> int | None:
        found = 1 << (step.bit_length() - 1) if step else 0
        return found if found and found >= self.start_at else None

    def to_config(self) -> dict[str, Any]:
        return {"powers_of": 2, **({"start_at": self.start_at} if self.start_at else {})}


@dataclass(frozen=True, slots=True)
class AtSteps(StepRule):
    """These steps."""

    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.steps:
            raise InvalidArgumentError("at lists no step", hint="for example [1, 10, 100]")
        for step in self.steps:
            check_count("a step in at", step, 0)
        object.__setattr__(self, "steps", tuple(sorted(set(self.steps))))

    def newest(self, step: int) -> int | None:
        place = bisect_right(self.steps, step)
        return self.steps[place - 1] if place else None

    def to_config(self) -> dict[str, Any]:
        return {"at": list(self.steps)}
