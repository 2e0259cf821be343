"""Values as people write and read them: sizes, metrics, and text that a terminal must not obey."""

from __future__ import annotations

import re

from deltackpt.errors import InvalidArgumentError
from deltackpt.format.manifest import Metric

__all__ = ["count", "format_metric", "format_metrics", "format_size", "parse_size", "shown"]

_BINARY = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_UNITS: dict[str, int] = {
    "": 1,
    "b": 1,
    **{unit.lower(): 1024**power for power, unit in enumerate(_BINARY, 1)},
    **{unit[0].lower(): 1024**power for power, unit in enumerate(_BINARY, 1)},
    **{f"{unit[0].lower()}b": 1000**power for power, unit in enumerate(_BINARY, 1)},
}
_SIZE = re.compile(r"([0-9]{1,19})\s*([A-Za-z]*)")


def shown(text: str) -> str:
    """The text with everything that is not printable escaped: names in a store may come from anybody."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def format_size(size: int) -> str:
    """A number of bytes in binary units: ``"1.5 KiB"``."""
    if size < 1 << 10:
        return f"{size} B"
    # 1023.95 would be printed as 1024.0.
    power = next((p for p in range(1, len(_BINARY)) if size / (1 << 10 * p) < 1023.95), len(_BINARY))
    return f"{size / (1 << 10 * power):.1f} {_BINARY[power - 1]}"


def parse_size(text: str) -> int:
    """A number of bytes: ``65536``, ``64KiB``, ``64K`` (binary) or ``64kB`` (decimal), up to E; case does not matter.

    Raises:
        InvalidArgumentError: it is none of these.
    """
    found = _SIZE.fullmatch(text.strip())
    unit = None if found is None else _UNITS.get(found[2].lower())
    if found is None or unit is None:
        raise InvalidArgumentError(
            f"{text!r} is not a size", hint="write a whole number of bytes, or one with a unit: 64MiB, 64M or 64MB"
        )
    return int(found[1]) * unit


def format_metric(value: Metric) -> str:
    """One metric, to six digits."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def format_metrics(metrics: dict[str, Metric]) -> str:
    """All metrics of a step on one line: ``"loss=2.31 lr=0.0003"``."""
    return " ".join(f"{name}={format_metric(value)}" for name, value in metrics.items())


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``"1 step"``, ``"2 steps"``, ``"2 branches"``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
