"""The three hashes of the format: block addresses, object names and checksums."""

from __future__ import annotations

from typing import TypeAlias

import blake3
import xxhash

__all__ = ["ADDRESS_BYTES", "DIGEST_BYTES", "Buffer", "address", "blake3_digest", "checksum64"]

Buffer: TypeAlias = "bytes | bytearray | memoryview"

ADDRESS_BYTES = 16
DIGEST_BYTES = 32


def address(data: Buffer) -> bytes:
    """XXH3-128 (seed 0) of ``data`` as the 16 bytes of its canonical, big-endian form: the address of a block."""
    return xxhash.xxh3_128_digest(data)


def blake3_digest(data: Buffer) -> bytes:
    """BLAKE3-256 of ``data``, 32 bytes: the name of a pack or index object, the identity of an index."""
    return blake3.blake3(data).digest()


def checksum64(*parts: Buffer) -> int:
    """XXH3-64 (seed 0) of the parts one after another, below 2**64. Finds damage, not attackers."""
    state = xxhash.xxh3_64()
    for part in parts:
        state.update(part)
    return state.intdigest()
