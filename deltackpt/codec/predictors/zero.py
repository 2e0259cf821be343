"""No prediction: all bits zero."""

from __future__ import annotations

from dataclasses import dataclass

from deltackpt.codec.residual import Words
from deltackpt.codec.types import Inputs, Prediction, Shape
from deltackpt.errors import CorruptObjectError

__all__ = ["Zero"]


@dataclass(frozen=True, slots=True)
class Zero:
    """Predicts that every word is zero; takes no inputs."""

    id: int = 0
    name: str = "zero"
    slots: tuple[int, ...] = ()
    computes: bool = False

    def applies(self, shape: Shape, inputs: Inputs) -> bool:
        return True

    def fit(self, values: Words, shape: Shape, inputs: Inputs) -> bytes:
        return b""

    def predict(
        self, shape: Shape, inputs: Inputs, params: bytes, *, source: str, out: Words | None = None
    ) -> Prediction:
        if params or inputs:
            raise CorruptObjectError("predictor zero takes neither inputs nor parameters", where=source)
        return Prediction()
