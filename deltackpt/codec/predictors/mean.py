"""The mean of two bases: a step between two others, where both are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deltackpt.codec.residual import Words, from_image, to_image
from deltackpt.codec.types import Inputs, Prediction, Shape
from deltackpt.errors import CorruptObjectError

__all__ = ["Mean"]


@dataclass(frozen=True, slots=True)
class Mean:
    """Predicts every word to lie halfway between those in slots 0 and 1, in the order of images, rounded down.

    A weight that drifts like a random walk is as well predicted by the steps at some distance on both sides as by a
    single one at half that distance (``docs/design/chains.md``). Computed on integers alone, so it is the same on every
    machine.
    """

    id: int = 7
    name: str = "mean"
    slots: tuple[int, ...] = (0, 1)
    computes: bool = True

    def applies(self, shape: Shape, inputs: Inputs) -> bool:
        return set(inputs) == {0, 1} and all(
            slot.dtype == shape.dtype and slot.words.size == shape.words for slot in inputs.values()
        )

    def fit(self, values: Words, shape: Shape, inputs: Inputs) -> bytes:
        return b""

    def predict(
        self, shape: Shape, inputs: Inputs, params: bytes, *, source: str, out: Words | None = None
    ) -> Prediction:
        if params or not self.applies(shape, inputs):
            raise CorruptObjectError(
                "predictor mean takes slots 0 and 1 of the record's own dtype, and no parameters", where=source
            )
        kind = shape.dtype.kind
        mean = to_image(inputs[0].words, kind, out)
        other = to_image(inputs[1].words, kind)
        # (a + b) >> 1 without the carry: what both have, and half of what one has.
        half = mean ^ other
        half >>= half.dtype.type(1)
        np.bitwise_and(mean, other, out=mean)
        mean += half
        return Prediction(values=from_image(mean, kind))
