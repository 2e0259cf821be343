"""Which predictor and which coder a block gets, from samples; all is encoded twice only where it may pay."""

from __future__ import annotations

import numpy as np
import zstandard

from deltackpt.codec import registry
from deltackpt.codec.coders.planes import Planes
from deltackpt.codec.coders.rans import Rans
from deltackpt.codec.residual import Words, to_residual
from deltackpt.codec.sampling import estimate_bits
from deltackpt.codec.types import Inputs, Prediction, Predictor, Shape

__all__ = ["cheapest_predictor", "smallest_payload"]

_RANS, _PLANES = Rans(), Planes()

# A prediction has to save this share of the bits to be worth a need: it costs a decode of the base at every read.
_LEAST_GAIN = 0.01

# Blocks up to so many words are encoded by both coders: tables and states weigh there, and time does not.
_SMALL = 1 << 13

# Matches that zstd finds in so many consecutive residuals show structure that frequencies alone do not.
_RUN = 2048
_STRUCTURED = 0.9


def _estimate(values: Words, prediction: Prediction, shape: Shape) -> float:
    """About how many bits a word costs with the coder that suits the block."""
    if _RANS.serves(shape):
        return _RANS.estimate(values, prediction, shape)
    return estimate_bits(values, prediction.values, shape.dtype.kind)


def cheapest_predictor(values: Words, shape: Shape, slots: Inputs, input_bytes: int) -> Predictor:
    """The predictor with the fewest estimated bits; one with inputs only where it pays."""
    candidates = [p for p in registry.PREDICTORS if p.applies(shape, slots)]
    best = candidates[0]
    if len(candidates) == 1 or shape.words == 0:
        return best
    best_bits = _estimate(values, Prediction(), shape)
    for candidate in candidates[1:]:
        used = {number: slots[number] for number in candidate.slots}
        prediction = candidate.predict(shape, used, candidate.fit(values, shape, used), source="encoder")
        bits = _estimate(values, prediction, shape) + 8 * input_bytes / shape.words
        if bits < best_bits * (1 - _LEAST_GAIN):
            best, best_bits = candidate, bits
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
    middle = slice((shape.words - _RUN) // 2, (shape.words + _RUN) // 2)
    guess = None if prediction.values is None else prediction.values[middle]
    residual = to_residual(values[middle], guess, shape.dtype.kind)
    packed = zstandard.ZstdCompressor(level=1).compress(residual.view(np.uint8).data)
    return len(packed) * shape.words < _STRUCTURED * size * _RUN
