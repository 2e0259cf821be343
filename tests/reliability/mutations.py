"""Random damage to bytes, and the checksums put right again so that it gets past them."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import TypeAlias

import zstandard

from deltackpt.format.hashing import checksum64

__all__ = ["Fix", "fix_index", "fix_manifest", "fix_pack", "fix_record", "inside_frame", "mutate"]

Fix: TypeAlias = Callable[[bytearray], None]

# Numbers at which lengths and counts go wrong.
_NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_LARGE = (0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF, 1 << 40, 1 << 62)


def mutate(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytearray:
    """One to four changes: flipped bits, odd numbers, parts cut out, doubled, swapped in from elsewhere, or noise."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not found:
            return bytearray(rng.randbytes(rng.randrange(64)))
        at = rng.randrange(len(found))
        # Heads are where lengths and counts are.
        at = rng.choice((at, at, min(at, rng.randrange(64))))
        kind = rng.randrange(8)
        if kind <= 1:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            found[at] = rng.randrange(256)
        elif kind == 3:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(_LARGE if size == 8 else _NUMBERS) & ((1 << 8 * size) - 1)
            found[at : at + size] = number.to_bytes(size, "little")
        elif kind == 4:
            del found[at : at + rng.choice((1, 2, 8, rng.randrange(1, 200)))]
        elif kind == 5:
            found[at:at] = found[at : at + rng.randrange(1, 64)]
        elif kind == 6:
            other = rng.choice(others)
            start = rng.randrange(len(other)) if other else 0
            found[at : at + rng.randrange(1, 64)] = other[start : start + rng.randrange(1, 64)]
        else:
            found[at : at + rng.randrange(1, 16)] = rng.randbytes(rng.randrange(1, 16))
    return found


def fix_record(data: bytearray, at: int = 0) -> int:
    """Put the checksum of the record at ``at`` right; returns where the record ends, as its head says."""
    if len(data) < at + 40:
        return len(data)
    lengths: tuple[int, int] = struct.unpack_from("<II", data, at + 8)
    end = min(len(data), at + 40 + sum(lengths))
    struct.pack_into("<Q", data, at + 32, checksum64(data[at : at + 32], data[at + 40 : end]))
    return end


def fix_pack(data: bytearray) -> None:
    """Put the checksums of all records of a pack right."""
    at = 24
    while at < len(data) - 16:
        at = max(fix_record(data, at), at + 40)


def fix_index(data: bytearray) -> None:
    """Put the checksum at the end of an index object right."""
    if len(data) >= 8:
        struct.pack_into("<Q", data, len(data) - 8, checksum64(bytes(data[:-8])))


def fix_manifest(data: bytearray) -> None:
    """Put the two checksums of a manifest right."""
    if len(data) < 48:
        return
    head: int = 32 + struct.unpack_from("<I", data, 8)[0]
    if head + 8 <= len(data):
        struct.pack_into("<Q", data, head, checksum64(bytes(data[:head])))
    fix_index(data)


def inside_frame(data: bytes, change: Callable[[bytes], bytes | bytearray]) -> bytes:
    """A column table whose compressed content is changed: damage that no checksum of zstd keeps away."""
    raw = zstandard.ZstdDecompressor().decompress(data[8:])
    frame = zstandard.ZstdCompressor(level=1).compress(bytes(change(raw)))
    size = zstandard.get_frame_parameters(frame).content_size
    return struct.pack("<II", size & 0xFFFFFFFF, len(frame)) + frame
