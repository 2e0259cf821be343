from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.errors import CorruptObjectError, InvalidArgumentError, UnknownVersionError
from deltackpt.format.keys import StepKey
from deltackpt.format.pending import Mark, Pending, decode_mark, decode_pending, encode_mark, encode_pending
from deltackpt.testing.strategies import step_keys

TIME = "2026-01-31T12:00:00.250+00:00"
ID = "0123456789abcdef" * 2
NAME = bytes(range(32))
PENDING = Pending("main", 7, (StepKey("main", 6, 1),), TIME, TIME, "host", 12, 34)
MARK = Mark(TIME, (StepKey("main", 6, 1),), (NAME,), (NAME[::-1],), (ID,))

pendings = st.builds(
    Pending,
    st.just("main"),
    st.integers(0, 10**12 - 1),
    st.lists(step_keys(), max_size=3).map(tuple),
    st.just(TIME),
    st.just(TIME),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.integers(0, 1 << 22),
    st.integers(0, 1 << 40),
)
names = st.lists(st.binary(min_size=32, max_size=32), max_size=3, unique=True).map(tuple)
ids = st.lists(st.binary(min_size=16, max_size=16), max_size=3, unique=True).map(lambda v: tuple(b.hex() for b in v))
marks = st.builds(Mark, st.just(TIME), st.lists(step_keys(), max_size=3).map(tuple), names, names, st.none() | ids)


@given(pendings)
def test_a_pending_object_comes_back(pending: Pending) -> None:
    assert decode_pending(encode_pending(pending), source="pending/x") == pending


@given(marks)
def test_a_mark_comes_back(mark: Mark) -> None:
    assert decode_mark(encode_mark(mark), source="marks/x") == mark


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"version": 2}, UnknownVersionError),
        ({"version": None}, CorruptObjectError),
        ({"branch": "../x"}, CorruptObjectError),
        ({"step": -1}, CorruptObjectError),
        ({"bases": [["main", 6]]}, CorruptObjectError),
        ({"bases": [["main", 6, 0]]}, CorruptObjectError),
        ({"created": "yesterday"}, CorruptObjectError),
        ({"expires": 0}, CorruptObjectError),
        ({"host": None}, CorruptObjectError),
        ({"pid": -1}, CorruptObjectError),
        ({"started": 1.0}, CorruptObjectError),
    ],
)
def test_each_field_of_a_pending_object_is_checked(change: dict[str, Any], error: type[Exception]) -> None:
    valid = json.loads(encode_pending(PENDING))
    assert decode_pending(json.dumps(valid | {"later": 1}).encode(), source="x") == PENDING
    with pytest.raises(error):
        decode_pending(json.dumps(valid | change).encode(), source="x")
    missing = {name: value for name, value in valid.items() if name != next(iter(change))}
    with pytest.raises(CorruptObjectError):
        decode_pending(json.dumps(missing).encode(), source="x")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"version": 2}, UnknownVersionError),
        ({"created": "yesterday"}, CorruptObjectError),
        ({"manifests": [["main", 6]]}, CorruptObjectError),
        ({"packs": NAME.hex()}, CorruptObjectError),
        ({"packs": [NAME.hex().upper()]}, CorruptObjectError),
        ({"packs": [NAME.hex()] * 2}, CorruptObjectError),
        ({"indexes": [[]]}, CorruptObjectError),
        ({"waits": [ID[1:]]}, CorruptObjectError),
    ],
)
def test_each_field_of_a_mark_is_checked(change: dict[str, Any], error: type[Exception]) -> None:
    valid = json.loads(encode_mark(MARK))
    with pytest.raises(error):
        decode_mark(json.dumps(valid | change).encode(), source="x")


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{}"])
def test_other_bytes_are_neither(data: bytes) -> None:
    with pytest.raises(CorruptObjectError):
        decode_pending(data, source="x")
    with pytest.raises(CorruptObjectError):
        decode_mark(data, source="x")


def test_what_makes_no_sense_is_not_written() -> None:
    with pytest.raises(InvalidArgumentError):
        encode_pending(Pending("main", -1, (), TIME, TIME))
    with pytest.raises(InvalidArgumentError):
        encode_mark(Mark("now"))
    with pytest.raises(InvalidArgumentError):
        encode_mark(Mark(TIME, packs=(b"short",)))
