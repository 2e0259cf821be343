"""The JSON parts of objects, read strictly: every field is typed, and an error names the field."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn, cast

from deltackpt.errors import InvalidNameError
from deltackpt.format.hashing import Buffer
from deltackpt.format.keys import MAX_GENERATION, MAX_STEP, StepKey, check_branch
from deltackpt.format.origin import Origin

__all__ = ["MAX_COUNT", "Fields", "dump_json", "load_fields"]

MAX_COUNT = (1 << 63) - 1
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|\+00:00)", re.ASCII)


def dump_json(value: object, origin: Origin) -> bytes:
    """UTF-8 JSON without spaces. NaN, infinities, text that UTF-8 cannot hold and foreign types are errors."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise origin.error(f"this cannot be written as JSON: {error}") from error


def load_fields(data: Buffer, origin: Origin, what: str) -> Fields:
    """The JSON object that ``data`` is.

    Numbers that are not finite, keys that occur twice and lone surrogates are refused, as is what Python cannot parse.

    Args:
        what: the object, for messages.
    """
    try:
        text = str(memoryview(data), "utf-8")
        value = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise origin.error(f"{what} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise origin.error(f"{what} is not a JSON object")
    return Fields(value, origin, what)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


# Made once: that takes as long as to read a small header.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_duplicates)


class Fields:
    """Typed access to a JSON object. Every method raises the origin's error for a field that is missing or wrong."""

    __slots__ = ("_origin", "_values", "_what")

    def __init__(self, values: Mapping[str, Any], origin: Origin, what: str) -> None:
        self._values = values
        self._origin = origin
        self._what = what

    def wrong(self, name: str, wanted: str) -> NoReturn:
        """Raise: the field is not what was wanted."""
        got = repr(self._values[name])[:60] if name in self._values else "nothing"
        raise self._origin.error(f"field {name!r} of {self._what} is {got}, not {wanted}")

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def names(self) -> list[str]:
        """The names of all fields, in order."""
        return list(self._values)

    def raw(self, name: str) -> Any:
        """Whatever JSON value the field has."""
        if name not in self._values:
            self.wrong(name, "a value")
        return self._values[name]

    def integer(self, name: str, low: int = 0, high: int = MAX_COUNT) -> int:
        """An integer from ``low`` to ``high``; neither a boolean nor a float."""
        value = self.raw(name)
        if type(value) is not int or not low <= value <= high:
            self.wrong(name, f"an integer from {low} to {high}")
        return value

    def text(self, name: str) -> str:
        """A string."""
        value = self.raw(name)
        if not isinstance(value, str):
            self.wrong(name, "text")
        return value

    def time(self, name: str) -> str:
        """A time in RFC 3339 format, in UTC."""
        value = self.text(name)
        try:
            if _TIME.fullmatch(value) is None:
                self.wrong(name, "a time such as 2026-01-31T12:00:00Z")
            datetime.fromisoformat(value[:19])
        except ValueError:
            self.wrong(name, "a time such as 2026-01-31T12:00:00Z")
        return value

    def sub(self, name: str) -> Fields:
        """A JSON object."""
        value = self.raw(name)
        if not isinstance(value, dict):
            self.wrong(name, "an object")
        return Fields(cast("dict[str, Any]", value), self._origin, f"{name!r} in {self._what}")

    def items(self, name: str) -> list[Any]:
        """A JSON list."""
        value = self.raw(name)
        if not isinstance(value, list):
            self.wrong(name, "a list")
        return value

    def hex_list(self, name: str, digits: int) -> list[str]:
        """A list of different texts of so many lower-case hex digits."""
        values = self.items(name)
        form = re.compile(f"[0-9a-f]{{{digits}}}")
        if not all(isinstance(v, str) and form.fullmatch(v) for v in values) or len(set(values)) < len(values):
            self.wrong(name, f"a list of different texts of {digits} hex digits")
        return values

    def branch(self, name: str) -> str:
        """The name of a branch."""
        try:
            return check_branch(self.raw(name))
        except InvalidNameError:
            self.wrong(name, "the name of a branch")

    def step_key(self, name: str) -> StepKey:
        """``[branch, step, generation]``."""
        return self._step_key(name, self.raw(name))

    def step_keys(self, name: str) -> tuple[StepKey, ...]:
        """A list of ``[branch, step, generation]``."""
        return tuple([self._step_key(name, value) for value in self.items(name)])

    def branch_step(self, name: str) -> tuple[str, int]:
        """``[branch, step]``."""
        value = self.raw(name)
        if not isinstance(value, list) or len(value) != 2:
            self.wrong(name, "[branch, step]")
        fields = Fields({"branch": value[0], "step": value[1]}, self._origin, f"{name!r} in {self._what}")
        return fields.branch("branch"), fields.integer("step", 0, MAX_STEP)

    def _step_key(self, name: str, value: Any) -> StepKey:
        if not isinstance(value, list) or len(value) != 3:
            self.wrong(name, "[branch, step, generation]")
        parts = dict(zip(("branch", "step", "generation"), value, strict=True))
        fields = Fields(parts, self._origin, f"{name!r} in {self._what}")
        return StepKey(
            fields.branch("branch"),
            fields.integer("step", 0, MAX_STEP),
            fields.integer("generation", 1, MAX_GENERATION),
        )
