"""The codecs that ours is measured against. Each gets what it compresses best from what a delta leaves.

A peer's XOR with the base and its split into byte planes are not in its times.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

__all__ = ["Peer", "peers"]

Words = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """One codec.

    Attributes:
        name: as in the table.
        prepare: block and base (or None) to the bytes that are compressed.
        encode, decode: of these bytes.
    """

    name: str
    prepare: Callable[[Words, Words | None], bytes]
    encode: Callable[[bytes], bytes]
    decode: Callable[[bytes], bytes]


def _xor(block: Words, base: Words | None) -> Words:
    return block if base is None else block ^ base


def _xor_bytes(block: Words, base: Words | None) -> bytes:
    return _xor(block, base).tobytes()


def _planes(block: Words, base: Words | None) -> bytes:
    mixed = _xor(block, base)
    return mixed.view(np.uint8).reshape(mixed.size, mixed.itemsize).T.tobytes()


def _zipnn(itemsize: int) -> tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]:
    import zipnn

    codec = zipnn.ZipNN(bytearray_dtype="float32" if itemsize == 4 else "bfloat16", threads=1)
    return lambda data: bytes(codec.compress(bytearray(data))), lambda data: bytes(codec.decompress(data))


def _blosc(itemsize: int) -> tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]:
    import blosc2

    blosc2.set_nthreads(1)

    def encode(data: bytes) -> bytes:
        packed: bytes = blosc2.compress2(
            data, codec=blosc2.Codec.ZSTD, clevel=1, typesize=itemsize, filters=[blosc2.Filter.SHUFFLE], nthreads=1
        )
        return packed

    def decode(data: bytes) -> bytes:
        unpacked: bytes = blosc2.decompress2(data, nthreads=1)
        return unpacked

    return encode, decode


def peers(itemsize: int) -> Iterator[Peer]:
    """All peers that are installed, for words of so many bytes."""
    for level in (1, 3):
        pack, unpack = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
        yield Peer(f"zstd-{level} on XOR planes", _planes, pack.compress, unpack.decompress)
    if importlib.util.find_spec("zipnn") is not None:
        encode, decode = _zipnn(itemsize)
        yield Peer("ZipNN", lambda block, base: block.tobytes(), encode, decode)
        yield Peer("ZipNN on XOR", _xor_bytes, encode, decode)
    if importlib.util.find_spec("blosc2") is not None:
        encode, decode = _blosc(itemsize)
        yield Peer("blosc2 shuffle on XOR", _xor_bytes, encode, decode)
