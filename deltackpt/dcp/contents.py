"""When to save and what each step holds, decided once for all ranks."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from typing import Any

from deltackpt.errors import InvalidArgumentError
from deltackpt.schedule import Moment, Schedule, Scheduler
from deltackpt.schedule.parse import close_hint

__all__ = ["EVERYTHING", "Contents"]

_LOG = logging.getLogger("deltackpt")

# The key of the one rule of a schedule that does not tell parts of the state apart.
EVERYTHING = "*"


class Contents:
    """The schedulers of the parts of a state.

    Args:
        schedule: when to save all of the state, or
        contents: for top-level keys of the state, when to save each; others go with every step.

    Raises:
        InvalidArgumentError: both were given, or neither, or something else.
    """

    def __init__(self, schedule: Schedule | None, contents: Mapping[str, Schedule] | None) -> None:
        if (schedule is None) == (contents is None):
            raise InvalidArgumentError(
                "give either schedule= or contents=, which has a schedule for each part of the state"
                if schedule is not None
                else "when is a step to be saved?",
                hint="for example schedule=every(1000), or schedule in the store's deltackpt.yaml",
            )
        rules: dict[str, Schedule] = {EVERYTHING: schedule} if schedule is not None else dict(contents or {})
        for key, rule in rules.items():
            if not isinstance(rule, Schedule):
                raise InvalidArgumentError(
                    f"the schedule of {key!r} is {rule!r}", hint="make one with deltackpt.schedule.every(), at(), ..."
                )
        if not rules:
            raise InvalidArgumentError("contents names no part of the state", hint='for example {"model": every(100)}')
        self._schedulers = {key: Scheduler(rule) for key, rule in rules.items()}

    @property
    def by_step_alone(self) -> bool:
        """Whether all ranks come to the same decision by themselves."""
        return all(scheduler.schedule.by_step_alone for scheduler in self._schedulers.values())

    def due(self, moment: Moment) -> list[int]:
        """For each rule 1 where it is due, else 0."""
        return [int(s.due(moment.step, moment.now, moment.metrics)) for s in self._schedulers.values()]

    def keys(self, due: Collection[int]) -> frozenset[str]:
        """The keys of the rules that are due."""
        return frozenset(key for key, is_due in zip(self._schedulers, due, strict=True) if is_due)

    def advance(self, moment: Moment, saved: frozenset[str]) -> None:
        """Note that a moment has passed, and which parts were saved (``EVERYTHING``: all)."""
        for key, scheduler in self._schedulers.items():
            done = key in saved or EVERYTHING in saved
            scheduler.advance(moment.step, moment.now, moment.metrics, saved=done)

    def part(self, state: Mapping[str, Any], saved: frozenset[str]) -> dict[str, Any]:
        """What a step holds.

        Raises:
            InvalidArgumentError: a rule names a key that the state does not have.
        """
        unknown = next((key for key in self._schedulers if key != EVERYTHING and key not in state), None)
        if unknown is not None:
            raise InvalidArgumentError(
                f"there is a schedule for {unknown!r}, but the state has no such key", hint=close_hint(unknown, state)
            )
        if EVERYTHING in saved:
            return dict(state)
        return {key: value for key, value in state.items() if key in saved or key not in self._schedulers}

    def dump(self) -> str:
        """The states of all schedulers, as JSON."""
        states = {key: scheduler.state_dict() for key, scheduler in self._schedulers.items()}
        return json.dumps(states, separators=(",", ":"), sort_keys=True)

    def load(self, text: object) -> None:
        """Go on from what :meth:`dump` gave; rules that were not there then start anew."""
        try:
            states = json.loads(str(text))
            for key, scheduler in self._schedulers.items():
                if key in states:
                    scheduler.load_state_dict(states[key])
        except (ValueError, TypeError) as error:  # InvalidArgumentError is a ValueError
            _LOG.warning("the state of the schedule cannot be read and starts anew: %s", error)
