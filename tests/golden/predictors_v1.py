"""The blocks behind ``codec-v1/predictors.pack``: two for each predictor that computes with floats.

One lies 2 places beside the prediction everywhere, so that its planes are constant and it encodes to the same bytes
wherever it is written; the other one does so at every ninth word only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from deltackpt.codec.registry import ADAM_SECOND, ADAM_WEIGHT, CAST
from deltackpt.tensor.dtypes import DType, by_name
from tests.codec import reference
from tests.golden.codec_v1 import noise, to_bytes

F32 = by_name("float32")
RATE, EPSILON, DECAY = -0.00125, 1e-8, 0.9990000128746033
BETA1, BETA2 = 0.9, 0.95


@dataclass(frozen=True, slots=True)
class PredictedCase:
    """One block, and what it is predicted from.

    Attributes:
        inputs: float32 words of each slot.
        exact: whether it encodes to the same bytes everywhere.
    """

    name: str
    dtype: DType
    words: tuple[int, ...]
    inputs: tuple[tuple[int, ...], ...]
    predictor: int
    params: bytes
    exact: bool

    @property
    def data(self) -> bytes:
        return to_bytes(self.words, self.dtype)


def _values(seed: int, low: int, high: int, *, signs: bool = True) -> tuple[int, ...]:
    """Float32 words with exponents from ``low`` to ``high``; zero, infinity and a NaN among them."""
    found = []
    for word in noise(32, seed):
        exponent = low + (word >> 23 & 0xFF) % (high - low + 1)
        found.append((word & 0x80000000 if signs else 0) | exponent << 23 | word & 0x7FFFFF)
    found[10], found[20], found[30], found[40] = 0, 0x7F800000, 0x7FC12345, 1
    return tuple(found)


def predicted_cases() -> Iterator[PredictedCase]:
    """Casts to both formats, and both halves of Adam."""
    weight, first, before = _values(1, 110, 126), _values(2, 95, 115), _values(3, 95, 115)
    second = _values(4, 80, 100, signs=False)
    for name in ("bfloat16", "float16"):
        copy = tuple(reference.cast(word, name) for word in weight)
        yield from _pair(f"cast to {name}", by_name(name), copy, (weight,), CAST, b"")
    moved = [reference.adam_weight(*w, RATE, EPSILON, DECAY) for w in zip(weight, first, second, strict=True)]
    params = struct.pack("<ddf", RATE, EPSILON, DECAY)
    yield from _pair("adam_weight", F32, tuple(moved), (weight, first, second), ADAM_WEIGHT, params)
    moved = [reference.adam_second(*v, BETA1, BETA2) for v in zip(second, first, before, strict=True)]
    params = struct.pack("<dd", BETA1, BETA2)
    yield from _pair("adam_second", F32, tuple(moved), (second, first, before), ADAM_SECOND, params)


def _pair(
    name: str,
    dtype: DType,
    prediction: tuple[int, ...],
    inputs: tuple[tuple[int, ...], ...],
    predictor: int,
    params: bytes,
) -> Iterator[PredictedCase]:
    bits = 8 * dtype.word_bytes
    for kind, every in (("beside", 1), ("sparse", 9)):
        words = tuple(
            reference.shifted(word, 2 if k % every == 0 else 0, bits, dtype.kind) for k, word in enumerate(prediction)
        )
        yield PredictedCase(f"{name}, {kind}", dtype, words, inputs, predictor, params, exact=every == 1)
