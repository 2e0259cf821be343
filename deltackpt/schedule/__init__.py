"""When to save a step: rules as objects, the same rules as YAML, and their state.

Example:
    >>> from deltackpt.schedule import at, every, improves, progressive
    >>> schedule = progressive({0: 1000, 10_000: 500}) | every("30min") | improves("val_loss")
    >>> schedule = at(1, 10, 100) | every(1000, start_at=1000)
    >>> schedule.to_config()
    {'any': [{'at': [1, 10, 100]}, {'every': 1000, 'start_at': 1000}]}
"""

from __future__ import annotations

from collections.abc import Mapping

from deltackpt.errors import InvalidArgumentError
from deltackpt.schedule.base import Moment, Schedule
from deltackpt.schedule.combined import AllOf, AnyOf
from deltackpt.schedule.duration import parse_duration
from deltackpt.schedule.measured import EverySeconds, Improves
from deltackpt.schedule.parse import parse_schedule
from deltackpt.schedule.scheduler import Scheduler
from deltackpt.schedule.steps import AtSteps, EverySteps, PowersOfTwo, Progressive

__all__ = [
    "AllOf",
    "AnyOf",
    "AtSteps",
    "EverySeconds",
    "EverySteps",
    "Improves",
    "Moment",
    "PowersOfTwo",
    "Progressive",
    "Schedule",
    "Scheduler",
    "all_of",
    "any_of",
    "at",
    "every",
    "improves",
    "parse_schedule",
    "powers_of_two",
    "progressive",
]


def every(amount: int | str, *, start_at: int = 0) -> Schedule:
    """The multiples of a number of steps, from ``start_at`` on; or, for ``"30min"`` or ``"2h"``, so often by the clock.

    Raises:
        InvalidArgumentError: the amount is neither, or a time has a ``start_at``.
    """
    if not isinstance(amount, str):
        return EverySteps(amount, start_at)
    if start_at:
        raise InvalidArgumentError("start_at counts steps; a time has none", hint="combine two rules with &")
    return EverySeconds(parse_duration(amount))


def progressive(intervals: Mapping[int, int]) -> Schedule:
    """From each step on, the multiples of its interval: ``{0: 1000, 10000: 500, 50000: 100}``."""
    return Progressive(intervals)


def powers_of_two(*, start_at: int = 0) -> Schedule:
    """Steps 1, 2, 4, 8 and so on, from ``start_at`` on."""
    return PowersOfTwo(start_at)


def at(*steps: int) -> Schedule:
    """These steps."""
    return AtSteps(steps)


def improves(metric: str, mode: str = "min", *, by: float = 0.0, patience: int = 1, at_most_every: int = 1) -> Schedule:
    """Where a metric is better than in every step saved since it last was.

    Args:
        metric: its name.
        mode: whether ``"min"`` or ``"max"`` is better.
        by: how much better it has to be.
        patience: how many observations in a row have to be better before one is believed.
        at_most_every: steps that have to lie between two saves made by this rule.
    """
    return Improves(metric, mode, by, patience, at_most_every)


def any_of(*rules: Schedule) -> Schedule:
    """Where one of the rules is due."""
    return AnyOf(rules)


def all_of(*rules: Schedule) -> Schedule:
    """Where all of the rules are due, at the same moment."""
    return AllOf(rules)
