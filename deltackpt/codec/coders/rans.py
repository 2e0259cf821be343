"""Symbols in the context of the prediction through rANS, noise bits raw. Section 5 of ``docs/format.md``.

The work is done by the compiled kernels or, with the same bits, by ``deltackpt.codec.rans``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import kernels, rans
from deltackpt.codec.residual import Words
from deltackpt.codec.types import Prediction, Shape
from deltackpt.errors import CorruptObjectError

__all__ = ["Rans"]


@dataclass(frozen=True, slots=True)
class Rans:
    """Codes blocks of words of 2 or 4 bytes."""

    id: int = 2
    name: str = "rans"

    def serves(self, shape: Shape) -> bool:
        """Whether the format defines this coder for such a block."""
        return shape.words > 0 and shape.dtype.word_bytes in (2, 4)

    def encode(self, values: Words, prediction: Prediction, shape: Shape, *, level: int) -> memoryview | None:
        found = kernels.active()
        context = _context(prediction, shape, "encoder")
        if found is not None:
            return found.encode(values, prediction.values, context, shape.dtype)
        payload = rans.encode(values, _values(prediction, shape), context, shape.dtype)
        return None if payload is None else memoryview(payload)

    def estimate(self, values: Words, prediction: Prediction, shape: Shape) -> float:
        """About how many bits a word costs; from a sample."""
        found = kernels.active()
        context = _context(prediction, shape, "encoder")
        if found is not None:
            return found.estimate(values, prediction.values, context, shape.dtype) / 256
        return rans.estimate(values, _values(prediction, shape), context, shape.dtype) / 256

    def decode(self, payload: memoryview, prediction: Prediction, shape: Shape, *, source: str) -> Words:
        if not self.serves(shape):
            raise CorruptObjectError(f"coder rans is not defined for {shape.words} {shape.dtype.name}", where=source)
        found = kernels.active()
        context = _context(prediction, shape, source)
        if found is not None:
            return found.decode(payload, shape.words, prediction.values, context, shape.dtype, source=source)
        return rans.decode(payload, _values(prediction, shape), context, shape.dtype, source=source)


def _values(prediction: Prediction, shape: Shape) -> Words:
    return np.zeros(shape.words, dtype=shape.dtype.word) if prediction.values is None else prediction.values


def _context(prediction: Prediction, shape: Shape, source: str) -> NDArray[np.uint8] | None:
    context = prediction.context
    if context is None:
        return None
    if context.size != shape.words:
        raise CorruptObjectError(f"{context.size} contexts for {shape.words} words", where=source)
    if context.dtype != np.uint8:
        context = np.minimum(context, 255).astype(np.uint8)
    return np.ascontiguousarray(context)
