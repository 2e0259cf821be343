"""A first moment beside the second one: no prediction, but how large each value may be.

A first moment is noise at any distance beyond a step or two, and its size is that of its gradients, which is what the
second moment holds. Coded with the exponent of the second moment's root as context it takes 26.6 bits an element
where it takes 27.1 alone (``python -m benchmarks.codecs``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deltackpt.codec import kernels
from deltackpt.codec.kernels import arithmetic
from deltackpt.codec.residual import Words
from deltackpt.codec.types import Inputs, Prediction, Shape
from deltackpt.errors import CorruptObjectError

__all__ = ["Scale"]

# Their exponents have 8 bits.
_SOURCES = {"float32": 24, "bfloat16": 8}

# Elements handled at a time, so that temporaries stay in the cache.
_CHUNK = 1 << 15


@dataclass(frozen=True, slots=True)
class Scale:
    """Predicts nothing; the context is half the biased exponent of slot 0, rounded up: that of its root.

    Computed on integers alone, so it is the same on every machine, for NaNs and negative values too.
    """

    id: int = 5
    name: str = "scale"
    slots: tuple[int, ...] = (0,)
    computes: bool = True

    def applies(self, shape: Shape, inputs: Inputs) -> bool:
        return (
            shape.dtype.kind == "float"
            and shape.dtype.word_bytes in (2, 4)
            and set(inputs) == {0}
            and inputs[0].dtype.name in _SOURCES
            and inputs[0].words.size == shape.words
        )

    def fit(self, values: Words, shape: Shape, inputs: Inputs) -> bytes:
        return b""

    def predict(
        self, shape: Shape, inputs: Inputs, params: bytes, *, source: str, out: Words | None = None
    ) -> Prediction:
        if params or not self.applies(shape, inputs):
            raise CorruptObjectError(
                "predictor scale takes slot 0 in float32 or bfloat16 for floats of 2 or 4 bytes, and no parameters",
                where=source,
            )
        words = inputs[0].words
        context = np.empty(words.size, np.uint8)
        found = kernels.active()
        if found is not None:
            arithmetic.root_exponents(found, words, context)
            return Prediction(context=context)
        one, by = words.dtype.type(1), words.dtype.type(_SOURCES[inputs[0].dtype.name])
        for start in range(0, words.size, _CHUNK):
            exponents = words[start : start + _CHUNK] << one
            exponents >>= by
            exponents += one
            exponents >>= one
            context[start : start + _CHUNK] = exponents
        return Prediction(context=context)
