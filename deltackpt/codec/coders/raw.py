"""The block's bytes as they are: the bound that no record exceeds by more than its header."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deltackpt.codec.residual import Words
from deltackpt.codec.types import Prediction, Shape
from deltackpt.codec.workspace import Workspace
from deltackpt.errors import CorruptObjectError

__all__ = ["Raw"]


@dataclass(frozen=True, slots=True)
class Raw:
    """Stores words verbatim; needs no prediction."""

    id: int = 0
    name: str = "raw"

    def decode(
        self,
        payload: memoryview,
        prediction: Prediction,
        shape: Shape,
        out: Words,
        workspace: Workspace,
        *,
        source: str,
    ) -> None:
        if prediction.values is not None or prediction.context is not None:
            raise CorruptObjectError("coder raw takes no prediction", where=source)
        if len(payload) != shape.words * shape.dtype.word_bytes:
            raise CorruptObjectError(
                f"raw payload of {len(payload)} bytes for {shape.words} words of {shape.dtype.word_bytes}", where=source
            )
        out[:] = np.frombuffer(payload, dtype=shape.dtype.word)
