"""Rules that look at the clock or at metrics. On several ranks one of them must decide for all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from deltackpt.errors import InvalidArgumentError
from deltackpt.schedule.base import Moment, Schedule, State, check_count
from deltackpt.schedule.duration import format_duration

__all__ = ["EverySeconds", "Improves"]


@dataclass(frozen=True, slots=True)
class EverySeconds(Schedule):
    """Due once so much time of training has passed since the last save, whatever the reason of that one.

    Time in which no run is going does not count. The first interval begins with the first moment.
    """

    seconds: float

    def __post_init__(self) -> None:
        if type(self.seconds) not in (int, float) or not 0 < self.seconds < math.inf:
            raise InvalidArgumentError(f"a time between saves must be above 0 seconds, not {self.seconds!r}")

    def start(self) -> State:
        return {"waited": 0.0, "at": None}

    def due(self, state: State, moment: Moment) -> bool:
        return self._waited(state, moment) >= self.seconds

    def after(self, state: State, moment: Moment, *, saved: bool) -> State:
        return {"waited": 0.0 if saved else self._waited(state, moment), "at": moment.now}

    def parked(self, state: State) -> State:
        return {"waited": state["waited"], "at": None}

    def to_config(self) -> dict[str, Any]:
        return {"every": format_duration(self.seconds)}

    @staticmethod
    def _waited(state: State, moment: Moment) -> float:
        since = 0.0 if state["at"] is None else max(0.0, moment.now - state["at"])
        return float(state["waited"]) + since


@dataclass(frozen=True, slots=True)
class Improves(Schedule):
    """Due where a metric is better than in every step that was saved since its last improvement.

    A moment without the metric, or with one that is not a finite number, does not count.

    Attributes:
        metric: its name.
        mode: whether ``"min"`` or ``"max"`` is better.
        by: how much better it has to be.
        patience: how many observations in a row have to be better before one is believed.
        at_most_every: steps that have to lie between two saves made by this rule.
    """

    metric: str
    mode: str = "min"
    by: float = 0.0
    patience: int = 1
    at_most_every: int = 1

    def __post_init__(self) -> None:
        if type(self.metric) is not str or not self.metric:
            raise InvalidArgumentError(f"improves must name a metric, not {self.metric!r}")
        if self.mode not in ("min", "max"):
            raise InvalidArgumentError(f"mode must be min or max, not {self.mode!r}")
        if type(self.by) not in (int, float) or not 0 <= self.by < math.inf:
            raise InvalidArgumentError(f"by must be a number from 0 on, not {self.by!r}")
        check_count("patience", self.patience, 1)
        check_count("at_most_every", self.at_most_every, 1)

    def start(self) -> State:
        return {"best": None, "streak": 0, "last": None}

    def due(self, state: State, moment: Moment) -> bool:
        value = self._observed(moment)
        far = state["last"] is None or moment.step - state["last"] >= self.at_most_every
        return value is not None and self._better(state, value) and state["streak"] + 1 >= self.patience and far

    def after(self, state: State, moment: Moment, *, saved: bool) -> State:
        value = self._observed(moment)
        if value is None:
            return state
        if not self._better(state, value):
            return {**state, "streak": 0}
        if not saved:
            return {**state, "streak": state["streak"] + 1}
        return {"best": value, "streak": 0, "last": moment.step if self.due(state, moment) else state["last"]}

    def to_config(self) -> dict[str, Any]:
        settings = {"mode": self.mode, "by": self.by, "patience": self.patience, "at_most_every": self.at_most_every}
        usual = {"by": 0.0, "patience": 1, "at_most_every": 1}
        return {"improves": self.metric, **{k: v for k, v in settings.items() if k not in usual or v != usual[k]}}

    def _observed(self, moment: Moment) -> float | None:
        value = moment.metrics.get(self.metric)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        return float(value)

    def _better(self, state: State, value: float) -> bool:
        best = state["best"]
        if best is None:
            return True
        return bool(value < best - self.by if self.mode == "min" else value > best + self.by)
