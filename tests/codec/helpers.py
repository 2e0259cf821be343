from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import Candidate, CodecOptions, Encoded, decode_block, encode_block, rans
from deltackpt.codec.kernels import Kernels
from deltackpt.codec.registry import PREVIOUS
from deltackpt.codec.residual import Words
from deltackpt.codec.workspace import Workspace
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


def reference_payload(
    values: Words, prediction: Words, context: NDArray[np.uint8] | None, dtype: DType
) -> bytes | None:
    """What the numpy implementation of coder rans makes of the words."""
    survey = rans.take_survey(values, prediction, context, dtype)
    return rans.encode(values, prediction, context, dtype, survey)


def kernel_payload(
    kernels: Kernels, values: Words, prediction: Words | None, context: NDArray[np.uint8] | None, dtype: DType
) -> bytes | None:
    """What compiled kernels make of the words."""
    space = Workspace()
    survey = kernels.survey(values, prediction, context, dtype, space)
    out = np.empty(kernels.bound(dtype, values.size), np.uint8)
    length = kernels.encode(values, prediction, context, dtype, survey, out, space)
    return None if length is None else out[:length].tobytes()


def kernel_words(
    kernels: Kernels,
    payload: memoryview,
    count: int,
    prediction: Words | None,
    context: NDArray[np.uint8] | None,
    dtype: DType,
    source: str = "test",
) -> Words:
    """The words that compiled kernels read from a payload, which must not depend on where they put them."""
    out, space = np.empty(count, dtype.word), Workspace()
    if prediction is not None:
        out[:] = prediction
        kernels.decode(payload, out, context, dtype, out, space, source=source)
        beside = np.empty(count, dtype.word)
        kernels.decode(payload, prediction, context, dtype, beside, space, source=source)
        assert out.tobytes() == beside.tobytes()
    else:
        kernels.decode(payload, None, context, dtype, out, space, source=source)
    return out
