"""Some rows of a block, coded as if they were all of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Part"]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Rows of ``1 << row_log2`` words, 64 or more.

    Attributes:
        rows: their numbers, in the order in which they are coded.
        row_log2: of the words of a row.
        words: of all of them: the last row may be the block's end, cut short.
    """

    rows: NDArray[np.uint32]
    row_log2: int
    words: int

    def positions(self) -> NDArray[np.int64]:
        """Where its words are in the block."""
        starts = self.rows.astype(np.int64) << self.row_log2
        found: NDArray[np.int64] = (starts[:, None] + np.arange(1 << self.row_log2)).reshape(-1)[: self.words]
        return found
