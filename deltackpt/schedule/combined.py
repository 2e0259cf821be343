"""Rules made of rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deltackpt.errors import InvalidArgumentError
from deltackpt.schedule.base import Moment, Schedule, State

__all__ = ["AllOf", "AnyOf"]


@dataclass(frozen=True, slots=True)
class _Combined(Schedule):
    """Shows every moment to all of its rules, so that each knows what it must."""

    rules: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        if not self.rules:
            raise InvalidArgumentError("a combination of no rules", hint="list at least one")
        for rule in self.rules:
            if not isinstance(rule, Schedule):
                raise InvalidArgumentError(f"{rule!r} is not a schedule", hint="make one with every(), at(), ...")

    @property
    def by_step_alone(self) -> bool:
        return all(rule.by_step_alone for rule in self.rules)

    def start(self) -> State:
        return {"rules": [rule.start() for rule in self.rules]}

    def after(self, state: State, moment: Moment, *, saved: bool) -> State:
        pairs = zip(self.rules, state["rules"], strict=True)
        return {"rules": [rule.after(own, moment, saved=saved) for rule, own in pairs]}

    def parked(self, state: State) -> State:
        return {"rules": [rule.parked(own) for rule, own in zip(self.rules, state["rules"], strict=True)]}

    def _each_due(self, state: State, moment: Moment) -> list[bool]:
        return [rule.due(own, moment) for rule, own in zip(self.rules, state["rules"], strict=True)]


@dataclass(frozen=True, slots=True)
class AnyOf(_Combined):
    """Due where one of the rules is."""

    def due(self, state: State, moment: Moment) -> bool:
        return any(self._each_due(state, moment))

    def to_config(self) -> dict[str, Any]:
        return {"any": [rule.to_config() for rule in self.rules]}


@dataclass(frozen=True, slots=True)
class AllOf(_Combined):
    """Due where all of the rules are, at the same moment."""

    def due(self, state: State, moment: Moment) -> bool:
        return all(self._each_due(state, moment))

    def to_config(self) -> dict[str, Any]:
        return {"all": [rule.to_config() for rule in self.rules]}
