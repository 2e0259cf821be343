"""The rules by which steps of a branch are kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from deltackpt.errors import InvalidArgumentError
from deltackpt.format.keys import check_tag
from deltackpt.store.specs import parse_metric

__all__ = ["Retention", "parse_best", "parse_duration", "show_duration"]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(?:\d+[wdhms])+")

_BEST_HINT = "write COUNT:METRIC, COUNT:METRIC:min or COUNT:METRIC:max, such as 2:val_loss:min"


@dataclass(frozen=True, slots=True)
class Retention:
    """What to keep of a branch. A step stays if any rule keeps it; the newest one always does.

    Example:
        >>> import deltackpt
        >>> deltackpt.Retention(keep_last=3, keep_every=1000, keep_best="2:val_loss:min", keep_within="7d").keep_last
        3

    Attributes:
        keep_last: the newest so many steps.
        keep_every: steps whose number is a multiple of this.
        keep_best: the best so many by a metric: ``"2:val_loss:min"``, or several of those.
        keep_within: steps saved within this time before the newest one: a timedelta, or text such as ``"7d"`` or
            ``"1d12h"`` (units w, d, h, m, s).
        keep_tag: steps with one of these tags: a name or several, ``"*"`` for any tag.

    Raises:
        InvalidArgumentError: a rule makes no sense, or there is none.
    """

    keep_last: int | None = None
    keep_every: int | None = None
    keep_best: str | Sequence[str] = ()
    keep_within: str | timedelta | None = None
    keep_tag: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("keep_last", "keep_every"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise InvalidArgumentError(f"{name} must be an integer of at least 1, not {value!r}")
        object.__setattr__(self, "keep_best", _texts(self.keep_best, "keep_best"))
        object.__setattr__(self, "keep_tag", _texts(self.keep_tag, "keep_tag"))
        if isinstance(self.keep_within, str):
            object.__setattr__(self, "keep_within", parse_duration(self.keep_within))
        if self.keep_within is not None and not isinstance(self.keep_within, timedelta):
            raise InvalidArgumentError(f"keep_within must be text such as '7d', not {self.keep_within!r}")
        for rule in self.keep_best:
            parse_best(rule)
        for name in self.keep_tag:
            if name != "*":
                check_tag(name)
        if not (self.keep_last or self.keep_every or self.keep_best or self.keep_within or self.keep_tag):
            raise InvalidArgumentError(
                "a retention without a rule would keep next to nothing", hint="give at least one, such as keep_last=3"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that ``keep_best`` goes by."""
        return tuple(parse_best(rule)[1] for rule in self.keep_best)

    @property
    def rules(self) -> list[str]:
        """The rules as the command line writes them."""
        found = []
        if self.keep_last is not None:
            found.append(f"keep-last {self.keep_last}")
        if self.keep_every is not None:
            found.append(f"keep-every {self.keep_every}")
        found += [f"keep-best {rule}" for rule in self.keep_best]
        if isinstance(self.keep_within, timedelta):
            found.append(f"keep-within {show_duration(self.keep_within)}")
        return found + [f"keep-tag {name}" for name in self.keep_tag]


def parse_duration(text: str) -> timedelta:
    """``"7d"`` or ``"1d12h"``: weeks (w), days (d), hours (h), minutes (m), seconds (s).

    Raises:
        InvalidArgumentError: it is not written like that.
    """
    if _DURATION.fullmatch(text) is None:
        raise InvalidArgumentError(f"{text!r} is not a time span", hint="write 7d, 12h, 90m or 1d12h")
    parts: Mapping[str, int] = {_UNITS[unit]: int(number) for number, unit in re.findall(r"(\d+)([wdhms])", text)}
    try:
        return timedelta(**parts)
    except OverflowError as error:
        raise InvalidArgumentError(f"{text!r} is too long a time span") from error


def show_duration(span: timedelta) -> str:
    """The span in the largest unit that it is a whole number of: ``"7d"``, ``"36h"``, ``"90m"`` or ``"5s"``."""
    seconds = int(span.total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def parse_best(rule: str) -> tuple[int, str, bool]:
    """How many steps to keep, by which metric, and whether its largest values are the best: ``"2:val_loss:min"``.

    Raises:
        InvalidArgumentError: it is not written like that.
    """
    number, colon, rest = rule.partition(":")
    if not colon or not (number.isascii() and number.isdigit()) or int(number) < 1:
        raise InvalidArgumentError(f"{rule!r} does not say how many to keep by which metric", hint=_BEST_HINT)
    metric, largest = parse_metric(rest)
    return int(number), metric, largest


def _texts(value: object, name: str) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(v, str) for v in values):
        raise InvalidArgumentError(f"{name} must be text, or several, not {value!r}")
    return tuple(map(str, values))
