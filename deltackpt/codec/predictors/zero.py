"""No prediction: all bits zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deltackpt.codec.residual import Words
from deltackpt.codec.types import Prediction, Shape
from deltackpt.errors import CorruptObjectError

__all__ = ["Zero"]


@dataclass(frozen=True, slots=True)
class Zero:
    """Predicts that every word is zero; takes no inputs."""

    id: int = 0
    name: str = "zero"
    slots: tuple[int, ...] = ()

    def applies(self, shape: Shape, inputs: Mapping[int, Words]) -> bool:
        return True

    def fit(self, values: Words, shape: Shape, inputs: Mapping[int, Words]) -> bytes | None:
        return b""

    def predict(self, shape: Shape, inputs: Mapping[int, Words], params: bytes, *, source: str) -> Prediction:
        if params or inputs:
            raise CorruptObjectError("predictor zero takes neither inputs nor parameters", where=source)
        return Prediction()
