"""Choosing and ordering steps by what is recorded with them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from deltackpt.errors import InvalidArgumentError
from deltackpt.format.manifest import Metric
from deltackpt.store.listing import ListedStep
from deltackpt.store.where import Comparison, Condition, Has, Literal, Name, Record, comparable

__all__ = ["record_of_listed", "select", "sort_by"]

_Item = TypeVar("_Item")


def record_of_listed(step: ListedStep) -> Record:
    """What conditions can speak of: the metrics and notes of a step by their names, its tags, and what every step has.

    A metric of the same name as one of these is ``metrics.NAME``, as every metric is; a tag is ``tag.NAME``.
    """
    header, recorded = step.header, dict(step.metrics)
    return {
        **recorded,
        **{f"metrics.{name}": value for name, value in recorded.items()},
        **{f"tag.{name}": True for name in step.tags},
        **{f"writer.{name}": value for name, value in header.writer.items()},
        "branch": header.key.branch,
        "step": header.key.step,
        "generation": header.key.generation,
        "created": header.created,
        "is_key": header.is_key,
        "depth": header.depth,
        "distance": header.distance,
        "raw_bytes": header.raw_bytes,
        "stored_bytes": step.stored_bytes,
        "restore_bytes": header.restore_bytes,
    }


def select(items: Sequence[tuple[_Item, Record]], conditions: Sequence[Condition]) -> list[tuple[_Item, Record]]:
    """Those for which all conditions hold.

    Raises:
        InvalidArgumentError: no step has a value of a name, or it is never of a kind that can be compared so.
    """
    records = [record for _, record in items]
    for condition in conditions:
        for comparison in condition.comparisons():
            _check(comparison, records)
    return [(item, record) for item, record in items if all(condition.holds(record) for condition in conditions)]


def sort_by(items: Sequence[tuple[_Item, Record]], key: str) -> list[tuple[_Item, Record]]:
    """In rising order of a value, or falling with ``-`` before its name. Ties keep their order; steps that do not have
    it, or a NaN, come last.

    Raises:
        InvalidArgumentError: no step has a value of that name.
    """
    name, falls = (key[1:], True) if key.startswith("-") else (key, False)
    _check_name(name, [record for _, record in items])
    having = [item for item in items if _rank(item[1], name) is not None]
    having.sort(key=lambda item: _rank(item[1], name) or (0, 0.0, ""), reverse=falls)
    if falls:
        # A reversed sort keeps the order of ties, too; texts still come after numbers.
        having.sort(key=lambda item: (_rank(item[1], name) or (0,))[0])
    return [*having, *(item for item in items if _rank(item[1], name) is None)]


def _rank(record: Record, name: str) -> tuple[int, float, str] | None:
    """Where a value stands: numbers and booleans before texts; None for what has no order."""
    value = record.get(name)
    if isinstance(value, str):
        return 1, 0.0, value
    if value is None or math.isnan(value):
        return None
    return 0, value, ""


def _check(condition: Comparison | Has, records: Sequence[Record]) -> None:
    sides = [condition.name] if isinstance(condition, Has) else [condition.left, condition.right]
    for side in sides:
        if isinstance(side, Name):
            _check_name(side.name, records)
    if isinstance(condition, Has) or condition.sign in ("==", "!="):
        return
    pairs = [
        (_value(condition.left, record), _value(condition.right, record))
        for record in records
        if all(not isinstance(side, Name) or side.name in record for side in sides)
    ]
    if pairs and not any(comparable(left, right) for left, right in pairs):
        left, right = pairs[0]
        raise InvalidArgumentError(
            f"{_word(condition.left)} {condition.sign} {_word(condition.right)} compares {_kind(left)} with "
            f"{_kind(right)}",
            hint="numbers have an order, and texts have one; write texts in quotes",
        )


def _check_name(name: str, records: Sequence[Record]) -> None:
    known: dict[str, None] = {}
    for record in records:
        if name in record:
            return
        known.update(dict.fromkeys(record))
    if records:
        raise InvalidArgumentError(f"no step has {name!r}", hint=_hint(name, known))


def _hint(name: str, known: Iterable[str]) -> str:
    plain = [other for other in known if "." not in other]
    close = difflib.get_close_matches(name, plain, n=3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are {', '.join(plain)}; texts stand in quotes"


def _value(side: Name | Literal, record: Record) -> Metric:
    return record[side.name] if isinstance(side, Name) else side.value


def _word(side: Name | Literal) -> str:
    return side.name if isinstance(side, Name) else repr(side.value)


def _kind(value: Metric) -> str:
    if value is None or isinstance(value, bool):
        return "none" if value is None else "a boolean"
    return "a text" if isinstance(value, str) else "a number"
