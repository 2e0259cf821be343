"""Lengths of time as people write them."""

from __future__ import annotations

import re

from deltackpt.errors import InvalidArgumentError

__all__ = ["format_duration", "parse_duration"]

_SECONDS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([a-z]+)")


def parse_duration(text: str) -> float:
    """Seconds of ``"90s"``, ``"30min"``, ``"1.5h"``, ``"7d"``, ``"2w"`` or several in a row: ``"1h 30min"``.

    Raises:
        InvalidArgumentError: it is none of these, or no time at all.
    """
    words = text.strip().lower()
    parts = _PART.findall(words)
    known = all(unit in _SECONDS for _, unit in parts)
    if not parts or not known or _PART.sub("", words).strip():
        raise InvalidArgumentError(f"{text!r} is not a length of time", hint="write 90s, 30min, 2h, 7d or 1h 30min")
    seconds = sum(float(amount) * _SECONDS[unit] for amount, unit in parts)
    if seconds <= 0:
        raise InvalidArgumentError(f"{text!r} is no time at all", hint="write 90s, 30min, 2h or 7d")
    return seconds


def format_duration(seconds: float) -> str:
    """The same, as :func:`parse_duration` reads it back to the microsecond."""
    for unit in ("d", "h", "min"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{int(seconds // _SECONDS[unit])}{unit}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"
