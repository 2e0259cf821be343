from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import Candidate, CodecOptions, Encoded, decode_block, encode_block
from deltackpt.codec.registry import PREVIOUS
from deltackpt.codec.residual import Words
from deltackpt.tensor.dtypes import DType

Bytes = NDArray[np.uint8]

OPTIONS = CodecOptions()


def special_words(dtype: DType) -> list[int]:
    """Zeros, ones, both signs of the smallest and largest, and all that surrounds them; among them, for every float
    format, infinities, NaNs with payloads, denormals and -0.0, wherever its exponent ends."""
    bits = 8 * dtype.word_bytes
    found = {0, 1, (1 << bits) - 1}
    for mantissa in range(bits):
        for low in (0, 1, (1 << mantissa) - 1, (1 << mantissa) >> 1, 0x55555555 & ((1 << mantissa) - 1)):
            exponent = ((1 << bits) - 1) >> (mantissa + 1) << mantissa
            found |= {word & ((1 << bits) - 1) for word in (low, exponent | low, exponent - (1 << mantissa) | low)}
    top = 1 << (bits - 1)
    return sorted(found | {word ^ top for word in found})


def noise(dtype: DType, words: int, seed: int = 0) -> Words:
    data = np.random.default_rng(seed).bytes(words * dtype.word_bytes)
    found: Words = np.frombuffer(data, dtype.word)
    return found


def as_bytes(words: Words | list[int], dtype: DType) -> Bytes:
    """Words as a block's bytes that nobody may write to."""
    data = np.array(words, dtype=dtype.word).view(np.uint8)
    data.setflags(write=False)
    return data


def inputs_of(dtype: DType, base: Bytes | None) -> dict[int, tuple[DType, Bytes]]:
    return {} if base is None else {0: (dtype, base)}


def offered(dtype: DType, base: Bytes | None, **options: Any) -> list[Candidate]:
    """The base as the only thing that a block may be predicted from."""
    return [] if base is None else [Candidate(PREVIOUS, inputs_of(dtype, base), **options)]


def round_trip(data: Bytes, dtype: DType, base: Bytes | None = None, **options: Any) -> Encoded:
    """Encode and decode; the bytes must come back. Gives what was encoded."""
    encoded = encode_block(data, dtype, offered(dtype, base, **options), OPTIONS)
    assert len(encoded.payload) <= data.size
    used = {} if encoded.choice is None else inputs_of(dtype, base)
    decoded = decode_block(encoded, dtype, data.size, used, source="test")
    assert decoded.dtype == np.uint8
    assert decoded.tobytes() == data.tobytes()
    return encoded
