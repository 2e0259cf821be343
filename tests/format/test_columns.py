from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.errors import CorruptObjectError, InvalidArgumentError, TruncatedObjectError, UnknownVersionError
from deltackpt.format.columns import DecodedTable, decode_table, encode_table
from deltackpt.format.int_column import MODE_DELTA, MODE_PLAIN, decode_ints, encode_ints
from tests.format.helpers import SOURCE, assert_every_cut_is_found, plain_of, survives, table_of

TOP = 2**63 - 1
INTS = st.lists(st.integers(0, TOP) | st.integers(0, 300) | st.sampled_from([0, TOP]), max_size=20)
EXAMPLE = encode_table(
    {"n": np.array([5, 6, 7, 9]), "d": np.arange(32, dtype=np.uint8).reshape(2, 16), "s": ["", "é", "model.weight"]}
)


def decoded(data: bytes) -> DecodedTable:
    return decode_table(data, source=SOURCE, offset=24)


@given(INTS)
def test_integers_come_back(values: list[int]) -> None:
    table = decoded(encode_table({"x": np.array(values, np.int64)}))
    assert table.ints("x").tolist() == values
    assert table.ints("x", len(values)).dtype == np.int64


@given(INTS, st.sampled_from([MODE_PLAIN, MODE_DELTA]))
def test_both_modes_decode(values: list[int], mode: int) -> None:
    words, before = [], 0
    for value in values:
        difference = value - before
        zigzag = 2 * difference if difference >= 0 else -2 * difference - 1
        words.append(value if mode == MODE_PLAIN else zigzag)
        before = value
    planes = b"".join(bytes(word >> 8 * plane & 0xFF for word in words) for plane in range(8))
    found = decode_ints(planes, mode, 8)
    assert found is not None
    assert found.tolist() == values


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_any_integer_type_is_taken(dtype: type[np.integer[Any]]) -> None:
    assert decoded(encode_table({"x": np.array([1, 200 % 128], dtype)})).ints("x").tolist() == [1, 72]


@given(st.lists(st.binary(min_size=3, max_size=3)), st.lists(st.text(st.characters(codec="utf-8"))))
def test_bytes_and_text_come_back(binary: list[bytes], text: list[str]) -> None:
    column = np.frombuffer(b"".join(binary), np.uint8).reshape(-1, 3)
    table = decoded(encode_table({"b": column, "s": text}))
    assert [row.tobytes() for row in table.bytes("b", 3)] == binary
    assert table.strings("s", len(text)) == text


def test_the_narrower_of_both_modes_is_chosen() -> None:
    climbing = np.arange(10_000) * 1000
    assert encode_ints("x", climbing)[:2] == bytes((MODE_DELTA, 2))
    noise = np.random.default_rng(0).integers(0, 250, 10_000)
    assert encode_ints("x", noise)[:2] == bytes((MODE_PLAIN, 1))
    assert len(encode_table({"x": np.arange(2_000_000)})) < 1000


def test_empty_columns_and_tables_come_back() -> None:
    empty: list[str] = []
    table = decoded(encode_table({"n": np.zeros(0, np.int64), "d": np.zeros((0, 32), np.uint8), "s": empty}))
    assert len(table.ints("n")) == len(table.bytes("d", 32)) == len(table.strings("s")) == 0
    with pytest.raises(CorruptObjectError, match="no integer column 'n'"):
        decoded(encode_table({})).ints("n")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (np.array([-1]), "negative"),
        (np.array([2**63], np.uint64), "2\\*\\*63"),
        (np.array([0.5]), "float64"),
        (np.zeros((2, 2, 2), np.uint8), "shape"),
        (np.zeros((2, 0), np.uint8), "shape"),
        (np.zeros((2, 2), np.int64), "int64"),
        (["\ud800"], "Unicode"),
    ],
)
def test_what_a_table_cannot_hold_is_refused(column: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        encode_table({"column": column})


def test_accessors_check_presence_kind_and_count() -> None:
    table = decoded(EXAMPLE)
    assert table.ints("n", 4).tolist() == [5, 6, 7, 9]
    for wrong in (
        lambda: table.ints("s"),
        lambda: table.ints("d"),
        lambda: table.bytes("n", 16),
        lambda: table.bytes("d", 32),
        lambda: table.strings("d"),
        lambda: table.strings("nothing"),
        lambda: table.ints("n", 3),
        lambda: table.bytes("d", 16, 1),
        lambda: table.strings("s", 4),
    ):
        with pytest.raises(CorruptObjectError) as caught:
            wrong()
        assert (caught.value.where, caught.value.offset) == (SOURCE, 24)


def test_cut_tables_are_found() -> None:
    assert_every_cut_is_found(EXAMPLE, decoded)


def test_flipped_bytes_never_crash() -> None:
    for at in range(len(EXAMPLE)):
        for bits in (0x01, 0x80, 0xFF):
            damaged = bytearray(EXAMPLE)
            damaged[at] ^= bits
            survives(lambda data=bytes(damaged): decoded(data))  # type: ignore[misc]


@given(st.binary(max_size=60))
def test_any_decoded_bytes_are_survived(plain: bytes) -> None:
    survives(lambda: decoded(table_of(plain)))


@given(st.integers(0, len(plain_of(EXAMPLE)) - 1), st.integers(0, 255))
def test_any_change_of_decoded_bytes_is_survived(at: int, byte: int) -> None:
    plain = bytearray(plain_of(EXAMPLE))
    plain[at] = byte
    survives(lambda: decoded(table_of(bytes(plain))))


@pytest.mark.parametrize(
    ("plain", "error", "message"),
    [
        ("", CorruptObjectError, "number of columns"),
        ("02" + "0161" + "0000" + "0001" + "0161" + "0000" + "0001", CorruptObjectError, "occurs twice"),
        ("01" + "0161" + "03" + "00", UnknownVersionError, "unknown kind 3"),
        ("01" + "0161" + "0001" + "0201" + "05", UnknownVersionError, "unknown mode 2"),
        ("01" + "0161" + "0001" + "0003" + "050505", CorruptObjectError, "3 bytes"),
        ("01" + "0161" + "0001" + "0008" + "ff" * 8, CorruptObjectError, "negative or above"),
        ("01" + "0161" + "0001" + "0101" + "01", CorruptObjectError, "negative or above"),
        ("01" + "0161" + "0002" + "0008" + "00" * 15, CorruptObjectError, "needs 16 bytes"),
        ("01" + "0161" + "00" + "ffffffffffffffff7f" + "0001" + "05", CorruptObjectError, "bytes where 1 are left"),
        ("01" + "0161" + "01" + "ffffffffffffffff7f" + "00", CorruptObjectError, "strings of 0 bytes"),
        ("01" + "0161" + "01" + "ffffffffffffffff7f" + "20", CorruptObjectError, "bytes where 0 are left"),
        ("01" + "0161" + "02" + "ffffffffffffffff7f" + "00", CorruptObjectError, "integers in 1 bytes"),
        ("01" + "0161" + "02" + "01" + "01" + "ff", CorruptObjectError, "not UTF-8"),
        ("01" + "01ff" + "02" + "00", CorruptObjectError, "not UTF-8"),
        ("01" + "0161" + "02" + "00" + "00", CorruptObjectError, "left over"),
    ],
)
def test_each_rule_of_decoded_bytes(plain: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        decoded(table_of(bytes.fromhex(plain)))


def test_differences_that_leave_the_range_are_refused() -> None:
    up = struct.pack("<QQ", 2 * TOP, 2)
    planes = np.frombuffer(up, np.uint8).reshape(2, 8).T.tobytes()
    assert decode_ints(planes, MODE_DELTA, 8) is None


def test_declared_lengths_are_checked_before_anything_is_allocated() -> None:
    frame = zstandard.ZstdCompressor().compress(bytes(1 << 20))
    with pytest.raises(CorruptObjectError, match="holds another length"):
        decoded(struct.pack("<II", 1 << 19, len(frame)) + frame)
    with pytest.raises(CorruptObjectError, match="claims to hold 4294967295"):
        decoded(struct.pack("<II", 0xFFFFFFFF, len(frame)) + frame)
    with pytest.raises(CorruptObjectError, match="claims to hold"):
        decoded(struct.pack("<II", len(frame) << 16, len(frame)) + frame)


def test_frames_of_another_form_are_refused() -> None:
    plain = plain_of(EXAMPLE)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(plain)
    frame = EXAMPLE[8:]
    for data in (unsized, frame + frame, frame + b"\0", b"not zstd" * 4):
        with pytest.raises(CorruptObjectError):
            decoded(struct.pack("<II", len(plain), len(data)) + data)
    skippable = struct.pack("<II", 0x184D2A50, len(plain)) + plain
    with pytest.raises(CorruptObjectError):
        decoded(struct.pack("<II", len(plain), len(skippable)) + skippable)


def test_no_frame_can_exceed_the_ratio_that_decoders_accept() -> None:
    plain = bytes(1 << 22)
    for level in (1, 3, 19):
        frame = zstandard.ZstdCompressor(level=level).compress(plain)
        assert len(plain) <= len(frame) << 15
    zeros = np.zeros(1 << 22, np.int64)
    assert len(decoded(encode_table({"x": zeros})).ints("x")) == len(zeros)


def test_a_truncated_table_is_told_from_a_damaged_one() -> None:
    with pytest.raises(TruncatedObjectError):
        decoded(EXAMPLE[:7])
