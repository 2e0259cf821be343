"""Conditions on steps, as ``log --where`` takes them: ``val_loss < 2.1 and not (step <= 1000 or note == "warm")``.

    condition  := and_part ("or" and_part)*
    and_part   := not_part ("and" not_part)*
    not_part   := "not" not_part | "(" condition ")" | comparison | name
    comparison := value operator value          operator: < <= > >= == = !=
    value      := name | number | "text" | 'text' | time | true | false | none

A name is made of letters, digits and ``_ . / - :`` and begins with a letter or ``_``; any other stands in backticks. A
time is ``2026-06-07`` or the beginning of a longer one. A name alone holds where the step has it. Nothing is evaluated
but what is listed here.
"""

from __future__ import annotations

import math
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from deltackpt.errors import InvalidArgumentError
from deltackpt.format.manifest import Metric

__all__ = ["And", "Comparison", "Condition", "Has", "Literal", "Name", "Not", "Or", "Record", "parse_where"]

Record: TypeAlias = "Mapping[str, Metric]"

_MAX_LEVELS = 50
_TOKEN = re.compile(
    r"\s*(?:(?P<time>\d{4}-\d{2}(?:-\d{2}(?:T[0-9:.]*Z?)?)?)"
    r"|(?P<number>[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|inf\b|nan\b))"
    r"|(?P<text>\"[^\"]*\"|'[^']*')"
    r"|(?P<quoted>`[^`]+`)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_./:-]*)"
    r"|(?P<operator><=|>=|==|!=|<|>|=)"
    r"|(?P<bracket>[()])"
    r"|(?P<end>$))",
    re.ASCII,
)
_WORDS: Mapping[str, Metric] = {"true": True, "false": False, "none": None, "null": None}
_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Condition(ABC):
    """Something that holds for a step or does not."""

    __slots__ = ()

    @abstractmethod
    def holds(self, record: Record) -> bool:
        """Whether it holds for a step with these values."""

    @abstractmethod
    def comparisons(self) -> Iterator[Comparison | Has]:
        """The conditions at the bottom of it."""


@dataclass(frozen=True, slots=True)
class Name:
    """A metric, or another value that a step has."""

    name: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A value that stands in the condition itself."""

    value: Metric


@dataclass(frozen=True, slots=True)
class Has(Condition):
    """The step has a value of this name."""

    name: Name

    def holds(self, record: Record) -> bool:
        return self.name.name in record

    def comparisons(self) -> Iterator[Comparison | Has]:
        yield self


@dataclass(frozen=True, slots=True)
class Comparison(Condition):
    """Two values compared. It does not hold where the step lacks one, or a number is to be ordered with a text."""

    left: Name | Literal
    sign: str
    right: Name | Literal

    def holds(self, record: Record) -> bool:
        sides = []
        for side in (self.left, self.right):
            if isinstance(side, Name) and side.name not in record:
                return False
            sides.append(record[side.name] if isinstance(side, Name) else side.value)
        left, right = sides
        if self.sign == "==":
            return _equal(left, right)
        if self.sign == "!=":
            return not _equal(left, right)
        return comparable(left, right) and _ORDERS[self.sign](left, right)

    def comparisons(self) -> Iterator[Comparison | Has]:
        yield self


@dataclass(frozen=True, slots=True)
class Not(Condition):
    """The contrary."""

    condition: Condition

    def holds(self, record: Record) -> bool:
        return not self.condition.holds(record)

    def comparisons(self) -> Iterator[Comparison | Has]:
        return self.condition.comparisons()


@dataclass(frozen=True, slots=True)
class And(Condition):
    """All of them."""

    parts: tuple[Condition, ...]

    def holds(self, record: Record) -> bool:
        return all(part.holds(record) for part in self.parts)

    def comparisons(self) -> Iterator[Comparison | Has]:
        return (found for part in self.parts for found in part.comparisons())


@dataclass(frozen=True, slots=True)
class Or(Condition):
    """One of them."""

    parts: tuple[Condition, ...]

    def holds(self, record: Record) -> bool:
        return any(part.holds(record) for part in self.parts)

    def comparisons(self) -> Iterator[Comparison | Has]:
        return (found for part in self.parts for found in part.comparisons())


def comparable(left: Metric, right: Metric) -> bool:
    """Whether two values have an order: both numbers, or both texts."""
    return (isinstance(left, str) and isinstance(right, str)) or (_is_number(left) and _is_number(right))


def parse_where(text: str) -> Condition:
    """The condition that a text is.

    Raises:
        InvalidArgumentError: it is none; the message says at which character.
    """
    return _Parser(text).whole()


def _is_number(value: Metric) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _equal(left: Metric, right: Metric) -> bool:
    """Equality, in which NaN is NaN, and true is not 1."""
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left) and math.isnan(right):
        return True
    return isinstance(left, bool) == isinstance(right, bool) and left == right


class _Parser:
    """One pass over the tokens of a condition."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._levels = 0
        self._kind, self._token = "", ""
        self._start = 0
        self._next()

    def whole(self) -> Condition:
        found = self._or()
        if self._kind != "end":
            self._fail("the condition should end here, or go on with and, or")
        return found

    def _or(self) -> Condition:
        self._levels += 1
        if self._levels > _MAX_LEVELS:
            self._fail(f"more than {_MAX_LEVELS} levels of brackets")
        parts = [self._and()]
        while self._takes("name", "or"):
            parts.append(self._and())
        self._levels -= 1
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _and(self) -> Condition:
        parts = [self._not()]
        while self._takes("name", "and"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _not(self) -> Condition:
        negated = False
        while self._takes("name", "not"):
            negated = not negated
        if self._takes("bracket", "("):
            found = self._or()
            if not self._takes("bracket", ")"):
                self._fail("a closing bracket should stand here")
        else:
            found = self._comparison()
        return Not(found) if negated else found

    def _comparison(self) -> Condition:
        left = self._value()
        if self._kind != "operator":
            if isinstance(left, Name):
                return Has(left)
            self._fail("a comparison should stand here: <, <=, >, >=, == or !=")
        sign = "==" if self._token == "=" else self._token
        self._next()
        return Comparison(left, sign, self._value())

    def _value(self) -> Name | Literal:
        kind, token = self._kind, self._token
        if kind == "name" and token in ("and", "or", "not"):
            kind = ""
        if kind not in ("name", "quoted", "number", "text", "time"):
            self._fail("a name or a value should stand here")
        self._next()
        if kind == "name" and token.lower() in _WORDS:
            return Literal(_WORDS[token.lower()])
        if kind == "number":
            return Literal(int(token) if re.fullmatch(r"[+-]?\d{1,300}", token) else float(token))
        if kind == "time":
            return Literal(token)
        return Name(token.strip("`")) if kind in ("name", "quoted") else Literal(token[1:-1])

    def _takes(self, kind: str, token: str) -> bool:
        """Step over this token, if it is next."""
        if (self._kind, self._token) != (kind, token):
            return False
        self._next()
        return True

    def _next(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            self._start = len(self._text) - len(self._text[self._at :].lstrip())
            self._fail("this cannot be read")
        self._kind = str(found.lastgroup)
        self._token = found[self._kind]
        self._start, self._at = found.start(self._kind), found.end()

    def _fail(self, message: str) -> NoReturn:
        raise InvalidArgumentError(
            f"{message}, at character {self._start + 1}",
            where=f"--where {self._text!r}",
            hint="for example: val_loss < 2.1 and step > 1000",
        )
