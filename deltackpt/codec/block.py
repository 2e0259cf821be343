"""Encode and decode one block: the seam between the codec and everything above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import registry
from deltackpt.codec.residual import Words
from deltackpt.codec.sampling import residual_bits, sample
from deltackpt.codec.types import Prediction, Shape, Slot
from deltackpt.errors import CorruptObjectError
from deltackpt.tensor.dtypes import DType

__all__ = ["Candidate", "CodecOptions", "Encoded", "decode_block", "encode_block"]

Bytes = NDArray[np.uint8]

_ZERO = 0  # the predictor
_RAW, _PLANES = 0, 1  # coders

# A prediction has to save this share of the bits to be worth a need: it costs a decode of the base at every read.
_LEAST_GAIN = 0.01

# Moments that predict a weight are read with it. A weights-only read may cost this many times what it would without
# them.
_READ_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class CodecOptions:
    """How hard the codec tries.

    Attributes:
        level: the zstd level of byte planes.
    """

    level: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A predictor, and the inputs that it may have for a block.

    Attributes:
        predictor: its id.
        inputs: for each of its slots the element type and the bytes, of as many elements as the block.
        input_bytes: what the record takes beside its payload, to say which the inputs are.
        read_bytes: what decoding reads besides, of records that a reader of this artifact would not read otherwise.
    """

    predictor: int
    inputs: Mapping[int, tuple[DType, Bytes]]
    input_bytes: int = 0
    read_bytes: int = 0


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


def _slots(inputs: Mapping[int, tuple[DType, Bytes]]) -> dict[int, Slot]:
    return {number: Slot(dtype, _words(array, dtype)) for number, (dtype, array) in inputs.items()}


def encode_block(data: Bytes, dtype: DType, candidates: Sequence[Candidate], options: CodecOptions) -> Encoded:
    """Encode a block by the cheapest of the candidates, or without a prediction; never in more than its own bytes.

    Args:
        data: the block's bytes, 1-D.
        dtype: its element type.
        candidates: what it may be predicted from.
        options: how hard to try.
    """
    shape = Shape(dtype, data.size // dtype.word_bytes)
    values = _words(data, dtype)
    coder = registry.coder(_PLANES, source="encoder")
    choice, params = _cheapest(values, shape, candidates)
    if choice is None:
        predictor, prediction, spent = _ZERO, Prediction(), 0
    else:
        spent = candidates[choice].input_bytes
        predictor = candidates[choice].predictor
        inputs = _slots(candidates[choice].inputs)
        prediction = registry.predictor(predictor, source="encoder").predict(shape, inputs, params, source="encoder")
    payload = coder.encode(values, prediction, shape, level=options.level)
    if len(payload) + spent >= data.size:
        return Encoded(_ZERO, _RAW, b"", data.tobytes())
    return Encoded(predictor, coder.id, params, payload, choice)


def _cheapest(values: Words, shape: Shape, candidates: Sequence[Candidate]) -> tuple[int | None, bytes]:
    """The number and the parameters of the candidate with the fewest estimated bits; None where none saves enough.

    Predictors go word by word, so a sample of the inputs gives a sample of the prediction.
    """
    if not candidates or shape.words == 0:
        return None, b""
    taken = sample(values)
    part = Shape(shape.dtype, taken.size)
    best: tuple[int | None, bytes] = (None, b"")
    best_bits = alone_bits = residual_bits(taken, None, shape.dtype.kind)
    for number, candidate in enumerate(candidates):
        predictor = registry.predictor(candidate.predictor, source="encoder")
        inputs = _slots(candidate.inputs)
        if not predictor.applies(shape, inputs):
            continue
        inputs = {number: Slot(slot.dtype, sample(slot.words)) for number, slot in inputs.items()}
        params = predictor.fit(taken, part, inputs)
        if params is None:
            continue
        prediction = predictor.predict(part, inputs, params, source="encoder")
        bits = residual_bits(taken, prediction.values, shape.dtype.kind) + 8 * candidate.input_bytes / shape.words
        read_bits = bits + 8 * candidate.read_bytes / shape.words
        if candidate.read_bytes and read_bits > _READ_FACTOR * alone_bits:
            continue
        if bits < best_bits * (1 - _LEAST_GAIN):
            best, best_bits = (number, params), bits
        if not candidate.read_bytes:
            alone_bits = min(alone_bits, bits)
    return best


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
    prediction = predictor.predict(shape, _slots(inputs), encoded.params, source=source)
    values = coder.decode(memoryview(encoded.payload), prediction, shape, source=source)
    if values.size != shape.words:
        raise CorruptObjectError(f"decoded {values.size} words instead of {shape.words}", where=source)
    return values.view(np.uint8)
