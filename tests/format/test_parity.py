from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltackpt.errors import CorruptObjectError, DeltackptError, InvalidArgumentError, TruncatedObjectError
from deltackpt.format.parity import SECTOR, decode_parity, encode_parity, rebuild


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def restored(parity: bytes, damaged: bytes) -> tuple[bytes, int]:
    found = rebuild(decode_parity(parity, source="parity"), damaged, source="object")
    return found.data, found.sectors


@pytest.mark.parametrize("size", [1, 2, 100, SECTOR - 1, SECTOR, SECTOR + 1, 127 * SECTOR, 128 * SECTOR + 5, 700_000])
def test_whole_objects_come_back_unchanged(size: int) -> None:
    data = content(size)
    assert restored(encode_parity(data, 0.05), data) == (data, 0)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 40 * SECTOR), st.sampled_from([0.02, 0.1, 1.0]))
def test_one_burst_within_the_share_is_repaired(draw: st.DataObject, size: int, share: float) -> None:
    data = content(size)
    parity = encode_parity(data, share)
    shape = decode_parity(parity, source="parity")
    # Touches at most as many sectors in a row as there is parity, whatever it starts at.
    longest = max(1, (shape.parity * shape.stripes - 1) * shape.sector)
    start = draw.draw(st.integers(0, size - 1))
    end = min(size, start + draw.draw(st.integers(1, longest)))
    damaged = bytearray(data)
    for at in range(start, end):
        damaged[at] ^= 0x5A
    assert damaged != data
    found, sectors = restored(parity, bytes(damaged))
    assert found == data
    assert sectors >= 1


def test_a_missing_end_is_damage_like_any_other() -> None:
    data = content(100 * SECTOR)
    parity = encode_parity(data, 0.1)
    assert restored(parity, data[: -5 * SECTOR]) == (data, 5)
    assert restored(parity, data + b"more") == (data, 0)


def test_a_small_object_that_is_gone_is_rebuilt() -> None:
    data = content(1000)
    assert restored(encode_parity(data, 0.01), b"") == (data, 1)


def test_damage_beyond_the_parity_is_said() -> None:
    data = content(100 * SECTOR)
    with pytest.raises(CorruptObjectError, match="more of it is damaged"):
        restored(encode_parity(data, 0.02), data[: -3 * SECTOR])


def test_damaged_parity_sectors_are_not_used() -> None:
    data = content(50 * SECTOR)
    parity = bytearray(encode_parity(data, 0.04))
    assert decode_parity(bytes(parity), source="p").parity == 2
    parity[-1] ^= 1
    assert restored(bytes(parity), data[:-SECTOR]) == (data, 1)
    with pytest.raises(CorruptObjectError, match="more of it is damaged"):
        restored(bytes(parity), data[: -2 * SECTOR])


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_shares_that_make_no_sense(share: float) -> None:
    with pytest.raises(InvalidArgumentError):
        encode_parity(b"x", share)


def test_an_empty_object_has_no_parity() -> None:
    with pytest.raises(InvalidArgumentError):
        encode_parity(b"", 0.5)


def test_every_flip_in_the_head_is_noticed() -> None:
    data = content(3 * SECTOR)
    parity = encode_parity(data, 0.3)
    body = decode_parity(parity, source="p").parity * SECTOR
    for at in range(len(parity) - body):
        damaged = bytearray(parity)
        damaged[at] ^= 0x01
        with pytest.raises(DeltackptError):
            decode_parity(bytes(damaged), source="p")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_arbitrary_bytes_are_refused(noise: bytes, cut: int) -> None:
    whole = encode_parity(content(300), 0.5)
    for data in (noise, whole[:60] + noise, whole[:cut]):
        if data != whole:
            with pytest.raises((CorruptObjectError, TruncatedObjectError)):
                decode_parity(data, source="p")
