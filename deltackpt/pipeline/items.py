"""What a save is given: the shards and objects of one writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import DType

__all__ = ["Place", "SaveItem"]

Place: TypeAlias = "tuple[str | int, ...]"


@dataclass(frozen=True, slots=True, eq=False)
class SaveItem:
    """One shard of a tensor, or one object, that this writer saves.

    Attributes:
        fqn, kind: its name, and ``"tensor"`` or ``"object"``.
        dtype: the element type (uint8 for an object).
        box: where it lies in its tensor.
        artifact, role: see the vocabulary in ``docs/architecture.md``.
        place: its place in the nested state; ``(fqn,)`` where that is not known.
        block_elements: the most elements of its blocks; None: as the store's options say.
        moves: whether its content may lie elsewhere in its tensor than in the step before, as chunks of a file do.
        read: gives the bytes of a box inside ``box`` (global coordinates) as a new 1-D array that nobody else changes.
    """

    fqn: str
    kind: str
    dtype: DType
    box: Box
    artifact: str
    role: str
    place: Place
    read: Callable[[Box], NDArray[np.uint8]]
    block_elements: int | None = None
    moves: bool = False
