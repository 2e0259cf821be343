from __future__ import annotations

import dataclasses
import struct
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.errors import CorruptObjectError, InvalidArgumentError, TruncatedObjectError, UnknownVersionError
from deltackpt.format.hashing import address
from deltackpt.format.record import (
    RECORD_HEADER_BYTES,
    Need,
    Record,
    Tile,
    decode_record,
    encode_record,
    frame_record,
    parse_record_header,
)
from deltackpt.testing.strategies import records
from tests.format.helpers import (
    SOURCE,
    assert_every_cut_is_found,
    assert_every_flip_is_found,
    assert_same,
    record_of,
    survives,
)

A, B = b"a" * 16, b"b" * 16
# A block of 2 x 3 float32, predicted from two tiles of blocks of 4 x 4.
TILED = Record(
    dtype=12,
    predictor=1,
    coder=1,
    address=b"x" * 16,
    shape=(2, 3),
    needs=(
        Need(0, 12, A, Tile((4, 4), (3, 1), (1, 3), (0, 0))),
        Need(0, 12, B, Tile((4, 4), (0, 1), (1, 3), (1, 0))),
        Need(1, 11, B, None),
    ),
    params=b"pp",
    payload=b"payload",
)
RAW = Record(11, 0, 0, address(b"12345678"), (2, 2), (), b"", b"12345678")


def decoded(data: bytes) -> Record:
    record = decode_record(data, source=SOURCE, offset=24)
    return dataclasses.replace(record, payload=bytes(record.payload))


@given(records())
def test_records_come_back(record: Record) -> None:
    assert_same(decoded(encode_record(record)), record)


def test_a_record_is_laid_out_as_the_format_says() -> None:
    meta = bytes.fromhex("02 02 02 00 00")
    head = (
        b"DKR1"
        + bytes((11, 0, 0, 0))
        + struct.pack("<II", 5, 8)
        + bytes.fromhex(xxhash.xxh3_128_hexdigest(b"12345678"))
    )
    checksum = struct.pack("<Q", xxhash.xxh3_64_intdigest(head + meta + b"12345678"))
    assert encode_record(RAW) == head + checksum + meta + b"12345678"


def test_needs_are_laid_out_as_the_format_says() -> None:
    meta = encode_record(TILED)[RECORD_HEADER_BYTES:-7]
    tiles = [bytes.fromhex("02 0404 0301 0103 0000"), bytes.fromhex("02 0404 0001 0103 0100")]
    needs = [b"\0\0\x0c" + A + tiles[0], b"\0\0\x0c" + B + tiles[1], b"\x01\x01\x0b" + B]
    assert meta == b"\x02\x02\x03" + b"\x03" + b"".join(needs) + b"\x02pp"


def test_the_payload_is_a_view_of_the_data() -> None:
    data = bytearray(encode_record(RAW))
    record = decode_record(data, source=SOURCE)
    data[-1] ^= 1
    assert bytes(record.payload) == b"12345679"


@given(records())
def test_headers_tell_how_long_records_are(record: Record) -> None:
    data = encode_record(record)
    header = parse_record_header(data + b"more", source=SOURCE)
    assert header.length == len(data)
    assert (header.dtype, header.predictor, header.coder) == (record.dtype, record.predictor, record.coder)
    assert (header.address, header.payload_length) == (record.address, len(record.payload))


@pytest.mark.parametrize("record", [TILED, RAW])
def test_damage_is_found(record: Record) -> None:
    data = encode_record(record)
    assert_every_cut_is_found(data, decoded)
    assert_every_flip_is_found(data, decoded)


def test_errors_name_the_place() -> None:
    data = bytearray(encode_record(TILED))
    data[-1] ^= 1
    with pytest.raises(CorruptObjectError, match="checksum") as caught:
        decode_record(bytes(data), source="packs/00/x", offset=1234)
    assert (caught.value.where, caught.value.offset) == ("packs/00/x", 1234)
    assert str(caught.value).startswith("packs/00/x, byte 1234: ")


@given(records(), st.data())
def test_records_with_right_checksums_and_wrong_content_are_survived(record: Record, data: st.DataObject) -> None:
    encoded = bytearray(encode_record(record))
    at = data.draw(st.sampled_from([*range(4, 8), *range(16, 32), *range(40, len(encoded))]))
    encoded[at] = data.draw(st.integers(0, 255))
    checksum = xxhash.xxh3_64_intdigest(encoded[:32] + encoded[40:])
    survives(lambda: decoded(bytes(encoded[:32]) + struct.pack("<Q", checksum) + bytes(encoded[40:])))


@given(st.binary(max_size=80))
def test_any_meta_is_survived(meta: bytes) -> None:
    survives(lambda: decoded(record_of(b"DKR1\x0c\x01\x01\x00", meta, b"payload")))


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        (b"DKR2\x0b\0\0\0", UnknownVersionError, "version 2; this package knows 1"),
        (b"DKRX\x0b\0\0\0", CorruptObjectError, "this is no record"),
        (b"\x7fELF\x0b\0\0\0", CorruptObjectError, "this is no record"),
        (b"DKR1\x0b\0\0\x01", UnknownVersionError, "flags 0x01"),
        (b"DKR1\0\0\0\0", UnknownVersionError, "dtype code 0"),
        (b"DKR1\x17\0\0\0", UnknownVersionError, "dtype code 23"),
        (b"DKR1\x0b\x01\0\0", CorruptObjectError, "raw record"),
        (b"DKR1\x0c\0\0\0", CorruptObjectError, "a block of 16 bytes holds 8"),
    ],
)
def test_each_rule_of_the_header(head: bytes, error: type[Exception], message: str) -> None:
    meta = bytes.fromhex("02 02 02 00 00")
    assert decoded(record_of(b"DKR1\x0b\0\0\0", meta, b"12345678")).shape == (2, 2)
    with pytest.raises(error, match=message) as caught:
        decoded(record_of(head, meta, b"12345678"))
    assert caught.value.where == SOURCE  # type: ignore[attr-defined]
    assert caught.value.offset == 24  # type: ignore[attr-defined]


ADDRESS_HEX = "61" * 16


@pytest.mark.parametrize(
    ("meta", "error", "message"),
    [
        ("", CorruptObjectError, "number of dimensions"),
        ("41" + "01" * 65 + "0000", CorruptObjectError, "65 dimensions"),
        ("05 01", CorruptObjectError, "the shape: 5 integers"),
        ("02 00 8080808010 00 00", CorruptObjectError, "dimension"),
        ("02 808004 808004 00 00", CorruptObjectError, "bytes; at most 4294967295"),
        ("01 01 808004 00", CorruptObjectError, "65536 needs"),
        ("01 01 00 00 00", CorruptObjectError, "left over"),
        ("01 01 00 05 00", CorruptObjectError, "the parameters needs 5 bytes"),
        ("01 01 01 00 02 0c" + ADDRESS_HEX + "00", UnknownVersionError, "flags 0x02"),
        ("01 01 01 00 01 63" + ADDRESS_HEX + "00", UnknownVersionError, "dtype code 99"),
        ("01 01 01 00 01 0c" + "00" * 16 + "00", CorruptObjectError, "needs itself"),
        ("01 01 01 00 01 0c" + "6161" + "00", CorruptObjectError, "address of a need"),
        ("00 02" + ("00 00 0c" + ADDRESS_HEX + "00") * 2 + "00", CorruptObjectError, "slot 0 overlap"),
        ("01 01 02" + ("00 01 0c" + ADDRESS_HEX) * 2 + "00", CorruptObjectError, "slot 0 overlap"),
        ("01 01 01 00 00 0c" + ADDRESS_HEX + "00 00", CorruptObjectError, "another number of dimensions"),
        ("01 01 01 00 00 0c" + ADDRESS_HEX + "01 01 00 02 00 00", CorruptObjectError, "not inside its source"),
        ("01 01 01 00 00 0c" + ADDRESS_HEX + "01 01 01 01 00 00", CorruptObjectError, "not inside its source"),
        ("01 01 01 00 00 0c" + ADDRESS_HEX + "01 01 00 00 00 00", CorruptObjectError, "empty"),
        ("01 01 01 00 00 0c" + ADDRESS_HEX + "01 02 00 02 00 00", CorruptObjectError, "not inside the block"),
        ("01 01 01 00 00 0c" + ADDRESS_HEX + "01 01 00 01 01 00", CorruptObjectError, "not inside the block"),
        ("01 01 01 00 00 0c" + ADDRESS_HEX + "01 8080808004 00 01 00 00", CorruptObjectError, "needed block"),
        (
            "01 02 02" + "00 00 0c" + ADDRESS_HEX + "01 01 00 01 00" + "00 00 0b" + ADDRESS_HEX + "01 01 00 01 01 00",
            CorruptObjectError,
            "more than one dtype",
        ),
        (
            "01 02 02" + "00 00 0c" + ADDRESS_HEX + "01 02 00 02 00" + "00 00 0c" + ADDRESS_HEX + "01 01 00 01 01 00",
            CorruptObjectError,
            "slot 0 overlap",
        ),
    ],
)
def test_each_rule_of_the_meta(meta: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        decoded(record_of(b"DKR1\x0c\x01\x01\0", bytes.fromhex(meta), b""))
    assert caught.value.where == SOURCE  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictor": 256}, "not the id"),
        ({"coder": -1}, "not the id"),
        ({"predictor": 0}, "predictor 0"),
        ({"predictor": 0, "needs": ()}, "predictor 0"),
        ({"coder": 0}, "raw record"),
        ({"address": b"short"}, "16 bytes"),
        ({"address": A}, "needs itself"),
        ({"shape": (2,)}, "another number of dimensions"),
        ({"shape": (2, -3)}, "negative"),
        ({"needs": (Need(-1, 12, A, None),)}, "negative slot"),
        ({"needs": (Need(0, 12, b"short", None),)}, "wrong length"),
        ({"needs": (Need(0, 12, A, Tile((4, 4), (-1, 0), (1, 1), (0, 0))),)}, "not inside its source"),
        ({"needs": (Need(0, 12, A, Tile((4, 4), (0, 0), (1, 1), (-1, 0))),)}, "not inside the block"),
        ({"needs": (Need(0, 12, A, None),) * 65536}, "65536 needs"),
        ({"needs": (Need(2**64, 12, A, None),)}, "2\\*\\*64"),
    ],
)
def test_records_that_could_not_be_read_are_not_written(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        encode_record(dataclasses.replace(TILED, **change))


def test_unknown_predictors_and_coders_are_left_to_the_codec() -> None:
    record = dataclasses.replace(TILED, predictor=200, coder=201)
    assert_same(decoded(encode_record(record)), record)


def test_a_short_header_is_truncated() -> None:
    with pytest.raises(TruncatedObjectError, match="39 bytes"):
        parse_record_header(encode_record(RAW)[:39], source=SOURCE)


@pytest.mark.parametrize("at", [0, 60, 4096])
@pytest.mark.parametrize("record", [RAW, TILED], ids=["raw", "tiled"])
def test_a_record_is_made_around_its_payload(record: Record, at: int) -> None:
    buffer = bytearray(b"\xaa" * (at + len(record.payload) + 5))
    buffer[at : at + len(record.payload)] = record.payload
    framed = frame_record(record, buffer, at)
    assert bytes(framed) == encode_record(record)
    assert buffer[at + len(record.payload) :] == b"\xaa" * 5
    assert isinstance(framed, memoryview) == (len(framed) - len(record.payload) <= at)
