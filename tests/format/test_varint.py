from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.errors import CorruptObjectError, InvalidArgumentError
from deltackpt.format.varint import Reader, put_varint
from tests.format.helpers import SOURCE


def encoded(value: int) -> bytes:
    out = bytearray()
    put_varint(out, value)
    return bytes(out)


def reader(data: bytes) -> Reader:
    return Reader(data, source=SOURCE, offset=100)


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_integers_come_back(values: list[int]) -> None:
    source = reader(b"".join(map(encoded, values)))
    assert source.varints(len(values), "numbers") == tuple(values)
    source.end("the numbers")


@pytest.mark.parametrize(
    ("value", "data"),
    [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (2**64 - 1, "ffffffffffffffffff01")],
)
def test_encoding_is_leb128(value: int, data: str) -> None:
    assert encoded(value).hex() == data


@pytest.mark.parametrize("value", [-1, 2**64])
def test_out_of_range_is_refused(value: int) -> None:
    with pytest.raises(InvalidArgumentError, match="2\\*\\*64 - 1"):
        encoded(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\xff" * 9,
        b"\x80\x00",  # not the shortest form
        b"\xff\x80\x00",
        b"\xff" * 9 + b"\x02",  # 2**64 or above
        b"\xff" * 10,
        b"\x80" * 10 + b"\x01",
    ],
)
def test_bad_integers_are_refused_with_their_place(data: bytes) -> None:
    source = reader(b"\x05" + data)
    assert source.varint("a number") == 5
    with pytest.raises(CorruptObjectError, match="a number") as caught:
        source.varint("a number")
    assert (caught.value.where, caught.value.offset) == (SOURCE, 101)
    assert source.at == 1


@given(st.binary(max_size=12))
def test_whatever_is_read_is_encoded_the_same(data: bytes) -> None:
    source = reader(data)
    try:
        value = source.varint("a number")
    except CorruptObjectError:
        return
    assert encoded(value) == data[: source.at]


def test_nothing_is_read_past_the_end() -> None:
    source = reader(b"\x01\x02\x03")
    assert bytes(source.take(2, "two bytes")) == b"\x01\x02"
    with pytest.raises(CorruptObjectError, match="needs 2 bytes where 1 are left"):
        source.take(2, "two bytes")
    with pytest.raises(CorruptObjectError, match="1 bytes are left over"):
        source.end("two bytes")
    assert source.u8("a byte") == 3
    with pytest.raises(CorruptObjectError):
        source.u8("a byte")


def test_a_huge_count_is_refused_before_anything_is_read() -> None:
    with pytest.raises(CorruptObjectError, match="1000000000000 integers in 2 bytes"):
        reader(b"\x01\x02").varints(10**12, "the shape")
