"""A 16-bit copy of fp32 values saved beside it: what rounding to nearest gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deltackpt.codec import kernels
from deltackpt.codec.float_env import ieee_arithmetic
from deltackpt.codec.kernels import arithmetic
from deltackpt.codec.residual import Words
from deltackpt.codec.types import Inputs, Prediction, Shape
from deltackpt.errors import CorruptObjectError

__all__ = ["Cast"]

_TARGETS = ("bfloat16", "float16")
_BF16_NAN, _FP16_NAN = 0x7FC0, 0x7E00


@dataclass(frozen=True, slots=True)
class Cast:
    """Predicts bfloat16 or float16 words to be slot 0, float32, rounded to nearest, ties to even.

    NaNs become the one quiet NaN that torch makes of them, whatever their payload.
    """

    id: int = 2
    name: str = "cast"
    slots: tuple[int, ...] = (0,)
    computes: bool = True

    def applies(self, shape: Shape, inputs: Inputs) -> bool:
        return (
            shape.dtype.name in _TARGETS
            and set(inputs) == {0}
            and inputs[0].dtype.name == "float32"
            and inputs[0].words.size == shape.words
        )

    def fit(self, values: Words, shape: Shape, inputs: Inputs) -> bytes:
        return b""

    def predict(
        self, shape: Shape, inputs: Inputs, params: bytes, *, source: str, out: Words | None = None
    ) -> Prediction:
        if params or not self.applies(shape, inputs):
            raise CorruptObjectError("predictor cast takes slot 0 in float32, and no parameters", where=source)
        words = inputs[0].words
        found = kernels.active()
        if found is not None:
            made = np.empty(shape.words, dtype="<u2") if out is None else out
            arithmetic.cast(found, words, made, to_bfloat16=shape.dtype.name == "bfloat16")
            return Prediction(values=made)
        is_nan = (words & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        if shape.dtype.name == "bfloat16":
            rounding = np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))
            rounded = ((words + rounding) >> np.uint32(16)).astype("<u2")
            rounded[is_nan] = _BF16_NAN
        else:
            with ieee_arithmetic():
                rounded = words.view("<f4").astype("<f2").view("<u2")
            rounded[is_nan] = _FP16_NAN
        if out is None:
            return Prediction(values=rounded)
        out[:] = rounded
        return Prediction(values=out)
