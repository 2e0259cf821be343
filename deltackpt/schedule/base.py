"""What a schedule is: a frozen rule, a state beside it that JSON can hold, and pure functions between the two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from deltackpt.errors import InvalidArgumentError

__all__ = ["Moment", "Schedule", "State", "check_count"]

State: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, slots=True)
class Moment:
    """What a schedule decides on.

    Attributes:
        step: the step of training that has just ended.
        now: seconds, of any clock that only goes forward.
        metrics: what was measured at this step.
    """

    step: int
    now: float
    metrics: Mapping[str, Any]


class Schedule(ABC):
    """When to save. Rules are frozen; what they remember is a state, made of JSON values, that callers keep.

    A caller shows a rule every moment, in order: :meth:`due` says whether it would save, and :meth:`after` gives the
    state for the next moment, told whether a save was made (by this rule or for another reason). Both are pure. Rules
    are combined with ``|`` (any of them) and ``&`` (all of them).
    """

    __slots__ = ()

    @property
    def by_step_alone(self) -> bool:
        """Whether it decides on the number of the step and nothing else, so that all ranks decide the same."""
        return False

    @abstractmethod
    def start(self) -> State:
        """The state before the first moment."""

    @abstractmethod
    def due(self, state: State, moment: Moment) -> bool:
        """Whether to save at this moment."""

    @abstractmethod
    def after(self, state: State, moment: Moment, *, saved: bool) -> State:
        """The state once the moment has passed; ``state`` is left as it is."""

    def parked(self, state: State) -> State:
        """The state as it is stored between two runs, whose clocks are not the same."""
        return state

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """The rule as the configuration file has it."""

    def __or__(self, other: Schedule) -> Schedule:
        from deltackpt.schedule.combined import AnyOf

        return AnyOf((*_parts(self, AnyOf), *_parts(other, AnyOf)))

    def __and__(self, other: Schedule) -> Schedule:
        from deltackpt.schedule.combined import AllOf

        return AllOf((*_parts(self, AllOf), *_parts(other, AllOf)))


def _parts(rule: Schedule, kind: type[Any]) -> tuple[Schedule, ...]:
    """The rules of a combination of this kind; any other rule by itself."""
    return tuple(rule.rules) if isinstance(rule, kind) else (rule,)


def check_count(name: str, value: object, low: int) -> None:
    """Demand an integer from ``low`` on.

    Raises:
        InvalidArgumentError: it is something else.
    """
    if type(value) is not int or value < low:
        raise InvalidArgumentError(f"{name} must be an integer from {low} on, not {value!r}")
