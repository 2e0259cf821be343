from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.errors import CorruptObjectError, InvalidArgumentError, TruncatedObjectError, UnknownVersionError
from deltackpt.format.pack import PackBuilder, walk_pack
from deltackpt.format.record import Record, encode_record
from deltackpt.testing.strategies import records
from tests.format.helpers import SOURCE, assert_every_cut_is_found, assert_every_flip_is_found, survives

ID = b"0123456789abcdef"
RAW = encode_record(Record(2, 0, 0, b"a" * 16, (3,), (), b"", b"xyz"))


def pack(encoded: list[bytes]) -> bytes:
    builder = PackBuilder(ID)
    for record in encoded:
        builder.add(record)
    return bytes(builder.finish())


def walked(data: bytes) -> list[bytes]:
    return [encode_record(record) for _, record in walk_pack(data, source=SOURCE)]


@given(st.lists(records(), max_size=4))
def test_packs_can_be_walked_without_an_index(drawn: list[Record]) -> None:
    encoded = [encode_record(record) for record in drawn]
    builder = PackBuilder(ID)
    offsets = []
    for count, record in enumerate(encoded):
        assert builder.count == count
        offsets.append(builder.add(record))
    promised = builder.size
    data = bytes(builder.finish())
    assert len(data) == promised
    assert [offset for offset, _ in walk_pack(data, source=SOURCE)] == offsets
    assert walked(data) == encoded
    for offset, record in zip(offsets, encoded, strict=True):
        assert data[offset : offset + len(record)] == record


def test_a_pack_is_laid_out_as_the_format_says() -> None:
    assert pack([RAW, RAW]) == b"DKPACK01" + ID + RAW + RAW + struct.pack("<Q", 2) + b"DKPACKED"
    assert pack([]) == b"DKPACK01" + ID + bytes(8) + b"DKPACKED"


@pytest.mark.parametrize("size", [0, 10, 24, 100, 200_000])
def test_where_a_pack_is_put_together_does_not_matter(size: int) -> None:
    memory = memoryview(bytearray(b"x" * size))
    builder = PackBuilder(ID, memory)
    for _ in range(3):
        builder.add(RAW)
    data = builder.finish()
    assert data == pack([RAW] * 3)
    assert (data.obj is memory.obj) == (size >= len(data))


def test_no_two_packs_are_the_same_object() -> None:
    one, other = PackBuilder(), PackBuilder()
    one.add(RAW)
    other.add(RAW)
    assert one.finish() != other.finish()
    with pytest.raises(InvalidArgumentError, match="16 bytes"):
        PackBuilder(b"short")


def test_damage_is_found() -> None:
    data = pack([RAW, RAW])
    assert_every_cut_is_found(data, walked)
    # The random id means nothing, so nothing in the pack checks it; its name in the store does.
    changed = data[:8] + bytes(16) + data[24:]
    assert walked(changed) == [RAW, RAW]
    assert_every_flip_is_found(data[:8], lambda start: walked(start + data[8:]))
    assert_every_flip_is_found(data[24:], lambda rest: walked(data[:24] + rest))


def test_records_before_the_damage_are_still_given() -> None:
    data = bytearray(pack([RAW, RAW]))
    data[24 + len(RAW) + 45] ^= 1
    walk = walk_pack(bytes(data), source=SOURCE)
    assert next(walk)[0] == 24
    with pytest.raises(CorruptObjectError) as caught:
        next(walk)
    assert caught.value.offset == 24 + len(RAW)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"DKPACK02" + ID + bytes(8) + b"DKPACKED", UnknownVersionError, "version 2"),
        (b"DKINDX01" + ID + bytes(8) + b"DKPACKED", CorruptObjectError, "this is no pack"),
        (b"DKPACK01" + ID + struct.pack("<Q", 1) + b"DKPACKED", CorruptObjectError, "0 records and counts 1"),
        (b"DKPACK01" + ID + RAW + bytes(8) + b"DKPACKED", CorruptObjectError, "1 records and counts 0"),
        (b"DKPACK01" + ID + RAW[:-1] + bytes(8) + b"DKPACKED", TruncatedObjectError, "record of 47 bytes ends"),
        (b"DKPACK01" + ID + RAW + bytes(8) + b"DKPACKEX", TruncatedObjectError, "end mark"),
        (b"DKPACK01" + ID, TruncatedObjectError, "end mark"),
        (b"", TruncatedObjectError, "ends after 0 bytes"),
    ],
)
def test_each_rule(data: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        walked(data)


@given(st.binary(max_size=120))
def test_any_content_is_survived(content: bytes) -> None:
    survives(lambda: walked(b"DKPACK01" + ID + content + bytes(8) + b"DKPACKED"))
