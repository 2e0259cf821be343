from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from deltackpt.errors import CorruptObjectError, InvalidArgumentError
from deltackpt.format.json_fields import Fields, dump_json, load_fields
from deltackpt.format.keys import StepKey
from deltackpt.format.origin import Origin

ORIGIN = Origin("some/object", 32)


def fields(**values: Any) -> Fields:
    return load_fields(json.dumps(values).encode(), ORIGIN, "the header")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"\xff\xfe",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 1, "a": 1}',
        b'{"a": {"b": 1, "b": 2}}',
        b'{"a": "\\ud800"}',
        b'{"\\udc00": 1}',
        b'{"a": 01}',
        b'{"a": ' + b"9" * 10_000 + b"}",
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_bad_json_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptObjectError, match="the header is not") as caught:
        load_fields(data, ORIGIN, "the header")
    assert (caught.value.where, caught.value.offset) == ("some/object", 32)


def test_escaped_text_that_is_valid_is_taken() -> None:
    assert load_fields(b'{"a": "\\ud83d\\ude00\\u0000"}', ORIGIN, "the header").text("a") == "\U0001f600\0"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), "\ud800", [{"b": 1 << 20_000}]])
def test_what_json_cannot_hold_is_not_written(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be written as JSON"):
        dump_json({"a": value}, Origin())


def test_fields_of_the_right_type_are_given() -> None:
    found = fields(i=3, s="x", t="2026-01-31T12:00:00.5Z", d={"e": 1}, b=["main", 4], k=["main", 4, 5], l=[["a", 0, 1]])
    assert (found.integer("i", 3, 3), found.text("s"), found.time("t")) == (3, "x", "2026-01-31T12:00:00.5Z")
    assert found.sub("d").integer("e") == 1
    assert found.branch_step("b") == ("main", 4)
    assert found.step_key("k") == StepKey("main", 4, 5)
    assert found.step_keys("l") == (StepKey("a", 0, 1),)
    assert found.names() == ["i", "s", "t", "d", "b", "k", "l"]
    assert "i" in found
    assert "z" not in found


@pytest.mark.parametrize(
    ("ask", "value"),
    [
        (lambda f: f.integer("x"), True),
        (lambda f: f.integer("x"), 1.0),
        (lambda f: f.integer("x"), "1"),
        (lambda f: f.integer("x"), None),
        (lambda f: f.integer("x"), -1),
        (lambda f: f.integer("x"), 2**63),
        (lambda f: f.integer("x", 0, 5), 6),
        (lambda f: f.text("x"), 1),
        (lambda f: f.time("x"), "yesterday"),
        (lambda f: f.time("x"), "2026-01-31T12:00:00"),
        (lambda f: f.time("x"), "2026-01-31T12:00:00+02:00"),
        (lambda f: f.time("x"), "2026-02-31T12:00:00Z"),
        (lambda f: f.sub("x"), []),
        (lambda f: f.items("x"), {}),
        (lambda f: f.branch("x"), "../x"),
        (lambda f: f.branch("x"), 1),
        (lambda f: f.branch_step("x"), ["main"]),
        (lambda f: f.branch_step("x"), "ab"),
        (lambda f: f.branch_step("x"), ["main", 10**12]),
        (lambda f: f.step_key("x"), ["main", 1]),
        (lambda f: f.step_key("x"), ["main", 1, 0]),
        (lambda f: f.step_key("x"), [".", 1, 1]),
        (lambda f: f.step_keys("x"), [["main", 1, 1], None]),
        (lambda f: f.step_keys("x"), "abc"),
    ],
)
def test_fields_of_a_wrong_type_are_named(ask: Callable[[Fields], object], value: object) -> None:
    with pytest.raises(CorruptObjectError, match=r"field '\w+' of .*the header is .*, not "):
        ask(fields(x=value))
    with pytest.raises(CorruptObjectError, match="field 'x' of the header is nothing, not"):
        ask(fields())
