"""How users write which step they mean. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TypeAlias

from deltackpt.errors import InvalidArgumentError
from deltackpt.format.keys import check_branch, check_tag
from deltackpt.format.manifest import Metric

__all__ = [
    "DEFAULT_BRANCH",
    "BestRef",
    "StepRef",
    "StepSpec",
    "TagRef",
    "TimeRef",
    "best_of",
    "larger_is_better",
    "parse_metric",
    "parse_step",
]

DEFAULT_BRANCH = "main"

_HINT = "write 1000, latest, BRANCH:1000, BRANCH:latest, tag:NAME, best:METRIC, best:METRIC:min or @2026-06-07"
_TIME = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(:\d{2})?)?Z?", re.ASCII)

# Metrics whose names hold one of these are better where they are smaller.
_SMALLER = ("loss", "perplexity", "ppl", "error", "nll", "bpb", "wer", "cer", "mse", "mae")


@dataclass(frozen=True, slots=True)
class StepRef:
    """A branch and a number, or the newest of the branch (``step`` None)."""

    branch: str
    step: int | None


@dataclass(frozen=True, slots=True)
class TagRef:
    """The step that a tag names."""

    name: str


@dataclass(frozen=True, slots=True)
class BestRef:
    """The step of a branch with the best value of a metric.

    Attributes:
        largest: whether that is the largest one.
    """

    branch: str
    metric: str
    largest: bool


@dataclass(frozen=True, slots=True)
class TimeRef:
    """The newest step of a branch that was saved at ``time`` or before."""

    branch: str
    time: datetime


StepSpec: TypeAlias = StepRef | TagRef | BestRef | TimeRef


def parse_step(spec: int | str, branch: str = DEFAULT_BRANCH) -> StepSpec:
    """Read a step as users write it.

    ``1000``, ``"latest"``, ``"tag:NAME"``, ``"best:METRIC"``, ``"best:METRIC:min"``, ``"@2026-06-07"`` (the newest
    saved until the end of that day, UTC) or ``"@2026-06-07T12:00"``; all but tags also with ``"BRANCH:"`` before them.

    Args:
        branch: the branch that is meant where the step names none.

    Raises:
        InvalidArgumentError: it is none of these.
        InvalidNameError: the branch or tag is not a name.
    """
    text = str(spec)
    head, colon, rest = text.partition(":")
    if colon and head == "tag":
        return TagRef(check_tag(rest))
    if colon and head != "best" and not head.startswith("@"):
        branch, text = head, rest
    check_branch(branch)
    if text == "latest":
        return StepRef(branch, None)
    if text.isascii() and text.isdigit() and len(text) <= 12:
        return StepRef(branch, int(text))
    if text.startswith("best:"):
        metric, largest = parse_metric(text.removeprefix("best:"))
        return BestRef(branch, metric, largest)
    if text.startswith("@"):
        return TimeRef(branch, _parse_time(text[1:], spec))
    raise InvalidArgumentError(f"{spec!r} is not a step", hint=_HINT)


def parse_metric(text: str) -> tuple[str, bool]:
    """``METRIC``, ``METRIC:min`` or ``METRIC:max``: the name, and whether larger is better.

    Raises:
        InvalidArgumentError: there is no name.
    """
    name, _, direction = text.rpartition(":")
    if direction not in ("min", "max") or not name:
        name, direction = text, ""
    if not name:
        raise InvalidArgumentError(f"{text!r} names no metric", hint="write METRIC, METRIC:min or METRIC:max")
    return name, direction == "max" if direction else larger_is_better(name)


def larger_is_better(metric: str) -> bool:
    """Whether a metric of this name is better where it is larger; losses, errors and perplexities are not."""
    return not any(word in metric.lower() for word in _SMALLER)


def best_of(values: list[Metric], count: int, *, largest: bool) -> list[int]:
    """The positions of the best values, best first; of equal ones the later comes first.

    What is not a number, or not a number (NaN), is never best.
    """
    numbers = [
        (float(value), position)
        for position, value in enumerate(values)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
    ]
    numbers.sort(key=lambda pair: (-pair[0] if largest else pair[0], -pair[1]))
    return [position for _, position in numbers[:count]]


def _parse_time(text: str, spec: int | str) -> datetime:
    found = _TIME.fullmatch(text)
    if found is None:
        raise InvalidArgumentError(f"{spec!r} is not a step", hint=_HINT)
    try:
        day = datetime.fromisoformat(found[1]).replace(tzinfo=timezone.utc)
        if found[2] is None:
            return day + timedelta(days=1) - timedelta(microseconds=1)
        time = datetime.fromisoformat(f"{found[1]}T{found[2]}{found[3] or ':59'}").replace(tzinfo=timezone.utc)
    except (ValueError, OverflowError) as error:
        raise InvalidArgumentError(f"{spec!r} is not a time: {error}", hint=_HINT) from error
    return time + timedelta(microseconds=999_999)
