"""Encode and decode one block: the seam between the codec and everything above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import registry
from deltackpt.codec.choice import Candidate, Choice, choose, slots_of, smallest_payload
from deltackpt.codec.residual import Words
from deltackpt.codec.types import Prediction, Shape
from deltackpt.errors import CorruptObjectError
from deltackpt.tensor.dtypes import DType

__all__ = ["Candidate", "Choice", "CodecOptions", "Encoded", "choose", "decode_block", "encode_block"]

Bytes = NDArray[np.uint8]

_ZERO = 0  # the predictor
_RAW, _PLANES = 0, 1  # coders


@dataclass(frozen=True, slots=True)
class CodecOptions:
    """How hard the codec tries.

    Attributes:
        level: the zstd level of byte planes.
    """

    level: int = 1


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded block, without the addresses that make it a record.

    Attributes:
        predictor, coder: ids.
        params: the predictor's parameters.
        payload: the coder's output.
        choice: which of the candidates was taken; None where no prediction was.
    """

    predictor: int
    coder: int
    params: bytes
    payload: bytes | memoryview
    choice: int | None = None


def _words(data: Bytes, dtype: DType) -> Words:
    return data.view(dtype.word)


def encode_block(
    data: Bytes,
    dtype: DType,
    candidates: Sequence[Candidate],
    options: CodecOptions,
    choice: Choice | None = None,
) -> Encoded:
    """Encode a block by the cheapest of the candidates, or without a prediction; never in more than its own bytes.

    Args:
        data: the block's bytes, 1-D.
        dtype: its element type.
        candidates: what it may be predicted from.
        options: how hard to try.
        choice: what :func:`choose` gave for the same block and candidates, where it was asked before.
    """
    shape = Shape(dtype, data.size // dtype.word_bytes)
    values = _words(data, dtype)
    taken = choose(data, dtype, candidates) if choice is None else choice
    if taken.number is None:
        predictor, prediction, spent = _ZERO, Prediction(), 0
    else:
        candidate = candidates[taken.number]
        predictor, spent = candidate.predictor, candidate.input_bytes
        inputs = slots_of(candidate.inputs)
        found = registry.predictor(predictor, source="encoder")
        prediction = found.predict(shape, inputs, taken.params, source="encoder")
    coder, payload = smallest_payload(values, prediction, shape, level=options.level)
    if len(payload) + spent >= data.size:
        return Encoded(_ZERO, _RAW, b"", data.tobytes())
    if coder == _PLANES and prediction.values is None:
        # Byte planes have no contexts, so there is nothing to need.
        return Encoded(_ZERO, _PLANES, b"", payload)
    return Encoded(predictor, coder, taken.params, payload, taken.number)


def decode_block(
    encoded: Encoded,
    dtype: DType,
    size: int,
    inputs: Mapping[int, tuple[DType, Bytes]],
    *,
    source: str,
) -> Bytes:
    """The block's bytes.

    Args:
        encoded: what :func:`encode_block` gave.
        dtype: the element type of the block.
        size: its length in bytes; nothing larger is allocated.
        inputs: the slots that the record's needs fill.
        source: what to call the record in errors.

    Raises:
        CorruptObjectError: the payload, parameters or inputs do not fit.
        UnknownVersionError: an unknown predictor or coder.
    """
    shape = Shape(dtype, size // dtype.word_bytes)
    predictor = registry.predictor(encoded.predictor, source=source)
    coder = registry.coder(encoded.coder, source=source)
    prediction = predictor.predict(shape, slots_of(inputs), encoded.params, source=source)
    values = coder.decode(memoryview(encoded.payload), prediction, shape, source=source)
    if values.size != shape.words:
        raise CorruptObjectError(f"decoded {values.size} words instead of {shape.words}", where=source)
    return values.view(np.uint8)
