"""The base block as the prediction."""

from __future__ import annotations

from dataclasses import dataclass

from deltackpt.codec.residual import Words
from deltackpt.codec.types import Inputs, Prediction, Shape
from deltackpt.errors import CorruptObjectError

__all__ = ["Previous"]


@dataclass(frozen=True, slots=True)
class Previous:
    """Predicts every word to be the one in slot 0, the base."""

    id: int = 1
    name: str = "previous"
    slots: tuple[int, ...] = (0,)
    computes: bool = False

    def applies(self, shape: Shape, inputs: Inputs) -> bool:
        base = inputs.get(0)
        return base is not None and base.dtype == shape.dtype and base.words.size == shape.words

    def fit(self, values: Words, shape: Shape, inputs: Inputs) -> bytes:
        return b""

    def predict(
        self, shape: Shape, inputs: Inputs, params: bytes, *, source: str, out: Words | None = None
    ) -> Prediction:
        if params or set(inputs) != {0} or not self.applies(shape, inputs):
            raise CorruptObjectError(
                "predictor previous takes slot 0 of the record's own dtype, and no parameters", where=source
            )
        return Prediction(values=inputs[0].words)
