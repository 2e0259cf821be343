"""The rules by which steps of a branch are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from deltackpt.errors import InvalidArgumentError
from deltackpt.format.keys import check_tag
from deltackpt.schedule.duration import format_duration, parse_duration
from deltackpt.store.specs import parse_metric

__all__ = ["Retention", "parse_best"]

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
            ``"1d 12h"`` (units w, d, h, min or m, s).
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
            object.__setattr__(self, "keep_within", _time_span(self.keep_within))
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
            found.append(f"keep-within {format_duration(self.keep_within.total_seconds())}")
        return found + [f"keep-tag {name}" for name in self.keep_tag]


def _time_span(text: str) -> timedelta:
    seconds = parse_duration(text)
    try:
        return timedelta(seconds=seconds)
    except OverflowError as error:
        raise InvalidArgumentError(f"{text!r} is too long a time", hint="write 90s, 30min, 2h or 7d") from error


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
