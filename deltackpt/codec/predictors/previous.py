"""The base block as the prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deltackpt.codec.residual import Words
from deltackpt.codec.types import Prediction, Shape
from deltackpt.errors import CorruptObjectError

__all__ = ["Previous"]


@dataclass(frozen=True, slots=True)
class Previous:
    """Predicts every word to be the one in slot 0, the base."""

    id: int = 1
    name: str = "previous"
    slots: tuple[int, ...] = (0,)

    def applies(self, shape: Shape, inputs: Mapping[int, Words]) -> bool:
        base = inputs.get(0)
        return base is not None and base.dtype == shape.dtype.word and base.size == shape.words

    def fit(self, values: Words, shape: Shape, inputs: Mapping[int, Words]) -> bytes | None:
        return b""

    def predict(self, shape: Shape, inputs: Mapping[int, Words], params: bytes, *, source: str) -> Prediction:
        if params or set(inputs) != {0} or not self.applies(shape, inputs):
            raise CorruptObjectError(
                "predictor previous takes slot 0 of the record's own dtype, and no parameters", where=source
            )
        return Prediction(values=inputs[0])
