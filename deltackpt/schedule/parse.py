"""Schedules from plain values, as a configuration file or JSON has them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn, TypeAlias

from deltackpt.errors import InvalidArgumentError
from deltackpt.schedule.base import Schedule
from deltackpt.schedule.combined import AllOf, AnyOf
from deltackpt.schedule.duration import parse_duration
from deltackpt.schedule.measured import EverySeconds, Improves
from deltackpt.schedule.steps import AtSteps, EverySteps, PowersOfTwo, Progressive

__all__ = ["Fail", "Path", "close_hint", "fail_at", "parse_schedule"]

Path: TypeAlias = "tuple[str | int, ...]"
Fail: TypeAlias = "Callable[[Path, str, str | None], NoReturn]"

# For each kind of rule the key that names it, and the other keys that it may have.
_KEYS: Mapping[str, frozenset[str]] = {
    "every": frozenset({"start_at"}),
    "progressive": frozenset(),
    "powers_of": frozenset({"start_at"}),
    "at": frozenset(),
    "improves": frozenset({"mode", "by", "patience", "at_most_every"}),
    "any": frozenset(),
    "all": frozenset(),
}


def fail_at(path: Path, message: str, hint: str | None) -> NoReturn:
    """Raise InvalidArgumentError for the value at a place such as ``schedule.any[1].every``."""
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    raise InvalidArgumentError(message, where=where or None, hint=hint)


def close_hint(name: object, known: Iterable[str]) -> str:
    """A hint for an unknown key: the nearest known one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"


def parse_schedule(value: object, path: Path = ("schedule",), fail: Fail = fail_at) -> Schedule:
    """A schedule from what ``to_config`` gives: ``{"every": 1000}``, ``{"any": [{"at": [1]}, {"every": "30min"}]}``.

    Args:
        path: where the value stands, for errors.
        fail: called with a place, a message and a hint for what is wrong there; must raise.

    Raises:
        InvalidArgumentError: by default, for what is no schedule.
    """
    if not isinstance(value, Mapping):
        fail(path, f"a schedule must be a mapping, not {value!r}", "for example {every: 1000}")
    kinds = [key for key in value if key in _KEYS]
    if len(kinds) != 1:
        unknown = next((key for key in value if key not in _KEYS), None)
        if unknown is not None and not kinds:
            fail((*path, str(unknown)), f"unknown kind of schedule {unknown!r}", close_hint(unknown, _KEYS))
        names = " and ".join(kinds) or "nothing"
        fail(path, f"a rule has exactly one of {', '.join(_KEYS)}, not {names}", "combine rules with any: or all:")
    kind = kinds[0]
    for key in value:
        if key != kind and key not in _KEYS[kind]:
            fail((*path, str(key)), f"unknown key {key!r} of a rule {kind!r}", close_hint(key, {kind, *_KEYS[kind]}))
    try:
        return _make(kind, value, path, fail)
    except InvalidArgumentError as error:
        if error.where is not None:
            raise
        fail((*path, kind), error.message, error.hint)


def _make(kind: str, value: Mapping[str, object], path: Path, fail: Fail) -> Schedule:
    main = value[kind]
    others = {key: member for key, member in value.items() if key != kind}
    if kind in ("any", "all"):
        if not isinstance(main, list):
            fail((*path, kind), f"{kind} must be a list of rules, not {main!r}", None)
        rules = tuple(parse_schedule(rule, (*path, kind, place), fail) for place, rule in enumerate(main))
        return AnyOf(rules) if kind == "any" else AllOf(rules)
    if kind == "every" and isinstance(main, str):
        if others:
            fail((*path, "start_at"), "start_at counts steps; a time has none", "combine two rules with all:")
        return EverySeconds(parse_duration(main))
    if kind == "progressive":
        return Progressive(_with_integers(main))
    if kind == "powers_of" and main != 2:
        raise InvalidArgumentError(f"powers_of must be 2, not {main!r}")
    if kind == "at":
        return AtSteps(tuple(main) if isinstance(main, list) else (main,))  # type: ignore[arg-type]  # checked there
    if kind == "powers_of":
        return PowersOfTwo(**others)  # type: ignore[arg-type]  # checked there
    if kind == "every":
        return EverySteps(main, **others)  # type: ignore[arg-type]  # checked there
    return Improves(main, **others)  # type: ignore[arg-type]  # checked there


def _with_integers(value: object) -> Mapping[int, int]:
    """The mapping of a progressive rule; its keys are strings where it comes from JSON."""
    if not isinstance(value, Mapping):
        return value  # type: ignore[return-value]  # refused by the rule, in its words
    return {int(k) if isinstance(k, str) and k.isascii() and k.isdigit() else k: v for k, v in value.items()}
