from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.backend.base import byte_view, check_key, check_prefix, resolve_range
from deltackpt.errors import InvalidArgumentError, InvalidNameError, TruncatedObjectError
from deltackpt.testing.backend_conformance import BAD_KEYS, GOOD_KEYS

PARTS = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,6}\Z")
# Close to keys, so that many are wrong in one place only.
NEAR_KEYS = st.text(alphabet="aZ9_.-/ \\\n\0~:%\u00e9", max_size=8)


@given(st.lists(PARTS, min_size=1, max_size=5))
def test_keys_of_allowed_parts_are_split(parts: list[str]) -> None:
    assert check_key("/".join(parts)) == tuple(parts)


@given(NEAR_KEYS)
def test_what_is_let_through_follows_the_rule_of_the_format(key: str) -> None:
    allowed = all(re.match(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?!.)(?!\n)", part) for part in key.split("/"))
    try:
        parts = check_key(key)
    except InvalidNameError:
        assert not allowed
    else:
        assert allowed
        assert "/".join(parts) == key
        assert not {"", ".", ".."} & set(parts)


@pytest.mark.parametrize("key", GOOD_KEYS)
def test_good_keys(key: str) -> None:
    assert "/".join(check_key(key)) == key


@pytest.mark.parametrize("key", BAD_KEYS)
def test_the_message_names_key_part_and_rule(key: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        check_key(key)
    assert caught.value.where == repr(key)
    assert "parts are letters" in str(caught.value)


@given(st.lists(PARTS, min_size=1, max_size=4), st.integers(0, 40))
def test_every_start_of_a_key_is_a_prefix(parts: list[str], length: int) -> None:
    prefix = "/".join(parts)[:length]
    folders, partial = check_prefix(prefix)
    assert "/".join([*folders, partial]) == prefix


@given(NEAR_KEYS)
def test_prefixes_are_starts_of_keys(prefix: str) -> None:
    # A prefix is allowed if and only if it becomes a key by adding one more part or letter.
    try:
        check_key(prefix + "a")
    except InvalidNameError:
        with pytest.raises(InvalidNameError):
            check_prefix(prefix)
    else:
        check_prefix(prefix)


def test_byte_view_copies_nothing() -> None:
    data = bytearray(8)
    view = byte_view(memoryview(data).cast("H", (2, 2)))
    data[7] = 9
    assert (view.ndim, view.format, bytes(view)) == (1, "B", b"\0" * 7 + b"\x09")


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_byte_view_of_nothing(shape: tuple[int, ...]) -> None:
    # memoryview.cast refuses views with a 0 in their shape.
    assert bytes(byte_view(np.zeros(shape, "f4").data)) == b""


def test_byte_view_refuses_gaps() -> None:
    with pytest.raises(InvalidArgumentError, match="contiguous"):
        byte_view(memoryview(b"abcd")[::2])


@given(st.binary(max_size=20), st.integers(0, 25), st.none() | st.integers(0, 25))
def test_ranges_are_those_of_slices(data: bytes, start: int, length: int | None) -> None:
    end = len(data) if length is None else start + length
    if start > len(data) or end > len(data):
        with pytest.raises(TruncatedObjectError) as caught:
            resolve_range("x", len(data), start, length)
        assert caught.value.offset == len(data)
    else:
        first, last = resolve_range("x", len(data), start, length)
        assert data[first:last] == data[start:end]
