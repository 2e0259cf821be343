"""Which predictor and which coder a block gets, from samples; all is encoded twice only where it may pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import zstandard
from numpy.typing import NDArray

from deltackpt.codec import registry
from deltackpt.codec.coders.planes import Planes
from deltackpt.codec.coders.rans import Rans
from deltackpt.codec.residual import Words, to_residual
from deltackpt.codec.sampling import residual_bits, sample
from deltackpt.codec.types import Prediction, Shape, Slot
from deltackpt.tensor.dtypes import DType

__all__ = ["Candidate", "Choice", "choose", "slots_of", "smallest_payload"]

Bytes = NDArray[np.uint8]

_RANS, _PLANES = Rans(), Planes()

# A prediction has to save this share of the bits to be worth a need: it costs a decode of the base at every read.
_LEAST_GAIN = 0.01

# Moments that predict a weight are read with it. A weights-only read may cost this many times what it would without.
_READ_FACTOR = 2.0

# Blocks up to so many words are encoded by both coders: tables and states weigh there, and time does not.
_SMALL = 1 << 13

# Matches that zstd finds in so many consecutive residuals show structure that frequencies alone do not.
_RUN = 2048
_STRUCTURED = 0.9

# Byte planes are tried after rans where a sample says that they are so much smaller: trying them takes three times as
# long as rans alone, and without this margin it saved 0.3% of first moments.
_WORTH_TWICE = 0.98


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
class Choice:
    """What a block is predicted from.

    Attributes:
        number: of the candidate; None for no prediction.
        params: the parameters that its predictor was fitted to have.
        bits: about how many bits a word costs.
    """

    number: int | None = None
    params: bytes = b""
    bits: float = 0.0


def slots_of(inputs: Mapping[int, tuple[DType, Bytes]]) -> dict[int, Slot]:
    """The inputs as words."""
    return {number: Slot(dtype, data.view(dtype.word)) for number, (dtype, data) in inputs.items()}


def _estimate(values: Words, prediction: Prediction, shape: Shape) -> float:
    """About how many bits a word costs with the coder that suits the block."""
    if _RANS.serves(shape):
        return _RANS.estimate(values, prediction, shape)
    return residual_bits(values, prediction.values, shape.dtype.kind)


def choose(data: Bytes, dtype: DType, candidates: Sequence[Candidate]) -> Choice:
    """The candidate with the fewest estimated bits; none where none saves enough.

    Predictors go word by word, so a sample of the inputs gives a sample of the prediction.

    Args:
        data: the block's bytes, 1-D.
        dtype: its element type.
        candidates: what it may be predicted from.
    """
    values = data.view(dtype.word)
    if values.size == 0:
        return Choice()
    taken = sample(values)
    part = Shape(dtype, taken.size)
    best_bits = alone_bits = _estimate(taken, Prediction(), part)
    best = Choice(bits=best_bits)
    for number, candidate in enumerate(candidates):
        predictor = registry.predictor(candidate.predictor, source="encoder")
        inputs = slots_of(candidate.inputs)
        if not predictor.applies(Shape(dtype, values.size), inputs):
            continue
        inputs = {slot: Slot(found.dtype, sample(found.words)) for slot, found in inputs.items()}
        params = predictor.fit(taken, part, inputs)
        if params is None:
            continue
        prediction = predictor.predict(part, inputs, params, source="encoder")
        bits = _estimate(taken, prediction, part) + 8 * candidate.input_bytes / values.size
        if candidate.read_bytes:
            if bits + 8 * candidate.read_bytes / values.size > _READ_FACTOR * alone_bits:
                continue
        else:
            alone_bits = min(alone_bits, bits)
        if bits < best_bits * (1 - _LEAST_GAIN):
            best, best_bits = Choice(number, params, bits), bits
    return best


def smallest_payload(
    values: Words, prediction: Prediction, shape: Shape, *, level: int
) -> tuple[int, bytes | memoryview]:
    """The id of a coder and what it makes of the block, which may be no smaller than the block."""
    found: tuple[int, bytes | memoryview] | None = None
    if _RANS.serves(shape):
        payload = _RANS.encode(values, prediction, shape, level=level)
        found = (_RANS.id, values.view(np.uint8).data if payload is None else payload)
        if not _may_be_structured(values, prediction, shape, len(found[1])):
            return found
    planes = _PLANES.encode(values, prediction, shape, level=level)
    return found if found is not None and len(found[1]) <= len(planes) else (_PLANES.id, planes)


def _may_be_structured(values: Words, prediction: Prediction, shape: Shape, size: int) -> bool:
    """Whether byte planes may be smaller than the ``size`` bytes of the other coder."""
    if shape.words <= _SMALL:
        return size > 1 + shape.dtype.word_bytes
    taken = sample(values)
    guess = None if prediction.values is None else sample(prediction.values)
    if residual_bits(taken, guess, shape.dtype.kind) * shape.words < _WORTH_TWICE * 8 * size:
        return True
    middle = slice((shape.words - _RUN) // 2, (shape.words + _RUN) // 2)
    guess = None if prediction.values is None else prediction.values[middle]
    residual = to_residual(values[middle], guess, shape.dtype.kind)
    packed = zstandard.ZstdCompressor(level=1).compress(residual.view(np.uint8).data)
    return len(packed) * shape.words < _STRUCTURED * size * _RUN
