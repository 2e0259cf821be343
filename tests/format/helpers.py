from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import xxhash
import zstandard

from deltackpt.errors import CorruptObjectError, DeltackptError, TruncatedObjectError, UnknownVersionError

SOURCE = "some/object"
DAMAGE = (CorruptObjectError, UnknownVersionError)


def assert_same(got: Any, want: Any) -> None:
    """Equality that looks into dataclasses and arrays, tells types apart and lets NaN equal NaN."""
    assert type(got) is type(want)
    if isinstance(want, np.ndarray):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        assert (got == want).all()
    elif dataclasses.is_dataclass(want):
        for field in dataclasses.fields(want):
            assert_same(getattr(got, field.name), getattr(want, field.name))
    elif isinstance(want, Mapping):
        assert list(got) == list(want)
        for name in want:
            assert_same(got[name], want[name])
    elif isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            assert_same(one, other)
    elif isinstance(want, float) and math.isnan(want):
        assert math.isnan(got)
    else:
        assert got == want


def assert_every_cut_is_found(data: bytes, decode: Callable[[bytes], object]) -> None:
    for length in range(len(data)):
        with pytest.raises(TruncatedObjectError) as caught:
            decode(data[:length])
        assert caught.value.where == SOURCE
        assert caught.value.offset is not None
    with pytest.raises(CorruptObjectError):
        decode(data + b"\0")


def assert_every_flip_is_found(data: bytes, decode: Callable[[bytes], object]) -> None:
    for at in range(len(data)):
        for bits in (0x01, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[at] ^= bits
            with pytest.raises(DAMAGE) as caught:
                decode(bytes(damaged))
            assert caught.value.where == SOURCE


def survives(decode: Callable[[], object]) -> None:
    """Decoding gives a value or an error of ours. Anything else fails the test."""
    found: DeltackptError | None = None
    try:
        decode()
    except DeltackptError as error:
        found = error
    if found is not None:
        assert isinstance(found, DAMAGE)
        assert found.where == SOURCE


def table_of(plain: bytes) -> bytes:
    """A column table with these decoded bytes, whatever they are."""
    frame = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(plain)
    return struct.pack("<II", len(plain), len(frame)) + frame


def plain_of(table: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(table[8:])


def index_parts(data: bytes) -> list[bytes]:
    """The four sections of an index object."""
    parts, at = [], 24
    for length in struct.unpack("<4I", data[8:24]):
        parts.append(data[at : at + length])
        at += length
    return parts


def index_of(parts: list[bytes]) -> bytes:
    """An index object of these sections, with a right checksum."""
    body = b"DKINDX01" + struct.pack("<4I", *map(len, parts)) + b"".join(parts)
    return body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body))


def manifest_parts(data: bytes) -> list[bytes]:
    """The header and the four sections of a manifest."""
    header, _, *lengths = struct.unpack("<6I", data[8:32])
    parts, at = [data[32 : 32 + header]], 40 + header
    for length in lengths:
        parts.append(data[at : at + length])
        at += length
    return parts


def manifest_of(parts: list[bytes]) -> bytes:
    """A manifest of this header and these sections, with right checksums."""
    header, *sections = parts
    head = b"DKMANI01" + struct.pack("<6I", len(header), len(sections), *map(len, sections)) + header
    body = head + struct.pack("<Q", xxhash.xxh3_64_intdigest(head)) + b"".join(sections)
    return body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body))


def record_of(head: bytes, meta: bytes, payload: bytes) -> bytes:
    """A record with these first 8 bytes and a zero address, with right lengths and checksum."""
    start = head + struct.pack("<II", len(meta), len(payload)) + bytes(16)
    return start + struct.pack("<Q", xxhash.xxh3_64_intdigest(start + meta + payload)) + meta + payload
