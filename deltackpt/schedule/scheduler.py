"""A schedule with its state: what a training loop asks."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from deltackpt.errors import InvalidArgumentError
from deltackpt.schedule.base import Moment, Schedule, State

__all__ = ["Scheduler"]

_LOG = logging.getLogger("deltackpt")


class Scheduler:
    """Keeps the state of a schedule.

    Example:
        >>> from deltackpt.schedule import Scheduler, every
        >>> scheduler = Scheduler(every(2))
        >>> for step in range(1, 5):
        ...     due = scheduler.due(step)
        ...     scheduler.advance(step, saved=due)
        ...     print(step, due)
        1 False
        2 True
        3 False
        4 True
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._state = schedule.start()

    @property
    def schedule(self) -> Schedule:
        return self._schedule

    def due(self, step: int, now: float = 0.0, metrics: Mapping[str, object] | None = None) -> bool:
        """Whether to save at this moment. Changes nothing.

        Args:
            step: the step of training that has just ended.
            now: seconds, of a clock that only goes forward.
            metrics: what was measured at this step.
        """
        return self._schedule.due(self._state, Moment(step, now, metrics or {}))

    def advance(self, step: int, now: float = 0.0, metrics: Mapping[str, object] | None = None, *, saved: bool) -> None:
        """Note that the moment has passed, and whether a save was made, for whatever reason."""
        self._state = self._schedule.after(self._state, Moment(step, now, metrics or {}), saved=saved)

    def state_dict(self) -> dict[str, Any]:
        """The schedule and its state, made of JSON values."""
        return {"schedule": self._schedule.to_config(), "state": self._schedule.parked(self._state)}

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        """Go on from a state. That of another schedule is not taken: this one starts anew, which is logged.

        Raises:
            InvalidArgumentError: ``stored`` was not made by :meth:`state_dict`.
        """
        if not {"schedule", "state"} <= set(stored):
            raise InvalidArgumentError("this is not the state of a schedule", hint="give what state_dict() returned")
        if stored["schedule"] != self._schedule.to_config():
            _LOG.warning(
                "the schedule was %s and is now %s: it starts anew", stored["schedule"], self._schedule.to_config()
            )
            self._state = self._schedule.start()
            return
        state = stored["state"]
        if not _fits(state, self._schedule.start()):
            raise InvalidArgumentError(f"{state!r} is not a state of the schedule {stored['schedule']}")
        self._state = _copy(state)


def _fits(value: object, pattern: object) -> bool:
    """Whether a value has the structure of a state: the same keys and lists, with numbers or None at their ends."""
    if isinstance(pattern, dict):
        same = isinstance(value, dict) and value.keys() == pattern.keys()
        return same and all(_fits(value[key], pattern[key]) for key in pattern)  # type: ignore[index]  # a dict
    if isinstance(pattern, list):
        return isinstance(value, list) and len(value) == len(pattern) and all(map(_fits, value, pattern))
    if value is None:
        return pattern is None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]  # a number


def _copy(state: State) -> State:
    """A state that shares nothing with the one given."""
    return {key: [_copy(own) for own in value] if isinstance(value, list) else value for key, value in state.items()}
