"""Whether boxes overlap, for many boxes at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["disjoint"]

# Pairs of boxes compared at once; 2**18 pairs of 3 dimensions take about 12 MiB of temporaries.
_PAIRS = 1 << 18


def disjoint(offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> bool:
    """Whether no two of the boxes share an element. Boxes without elements share none.

    Sorts along the dimension with the most distinct offsets and compares only boxes whose ranges there meet:
    near-linear for grids and ranges of rows, quadratic for arrangements that nobody saves.

    Args:
        offsets, sizes: int64 of shape (boxes, dimensions); ``offsets + sizes`` must not overflow.
    """
    filled = (sizes > 0).all(axis=1)
    offsets, sizes = offsets[filled], sizes[filled]
    count, ndim = offsets.shape
    if count < 2:
        return True
    if ndim == 0:
        return False
    axis = max(range(ndim), key=lambda d: len(np.unique(offsets[:, d])))
    order = np.argsort(offsets[:, axis], kind="stable")
    starts, ends = offsets[order], (offsets + sizes)[order]
    # After sorting, box i can only meet the boxes i + 1 to last[i] - 1: those that start before it ends.
    last = np.searchsorted(starts[:, axis], ends[:, axis], side="left")
    rivals = last - np.arange(count) - 1
    if not rivals.any():
        return True
    # Whole boxes with their rivals, about _PAIRS pairs at a time.
    chunk = np.cumsum(rivals) // _PAIRS
    for boxes in np.split(np.arange(count), np.flatnonzero(np.diff(chunk)) + 1):
        left = np.repeat(boxes, rivals[boxes])
        first = np.cumsum(rivals[boxes]) - rivals[boxes]
        right = left + 1 + np.arange(len(left)) - np.repeat(first, rivals[boxes])
        if ((starts[left] < ends[right]) & (starts[right] < ends[left])).all(axis=1).any():
            return False
    return True
