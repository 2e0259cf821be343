"""Rows whose residuals are larger or smaller than the context tells: the same whole numbers as ``kernels/rows.c``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.rans.layout import CONTEXT_ARRAY, Plan, contexts_of
from deltackpt.codec.residual import Words, to_residual
from deltackpt.tensor.dtypes import DType

__all__ = ["RUN", "above_mean", "bins_of", "row_sizes", "sizes_of", "spread_of"]

RUN = 64
_MOST_SPREAD = 0xFFFFFF
# Of z + 1 in quarters of an octave, by the bin of z; above it is the bin.
_SMALL_SIZES = np.array([0, 4, 4, 4, 4, 6, 6, 8, 8], dtype=np.int64)

Counts = NDArray[np.int64]


def bins_of(z: Words) -> Counts:
    """Residuals by length and the two bits after the leading one."""
    wide = z.astype(np.int64)
    length = np.frexp(wide.astype(np.float64))[1].astype(np.int64)
    bits: Counts = 4 * (length - 1) + ((wide << 2) >> np.maximum(length - 1, 0) & 3) + 1
    return np.where(length == 0, 0, bits)


def sizes_of(z: Words, bins: Counts, plan: Plan) -> Counts:
    """How large residuals are, in quarters of an octave: of z + 1; or, where the words themselves are coded and so the
    top bits of z are their exponents, of what these count."""
    if plan.key_shift == CONTEXT_ARRAY or (plan.contexts == 1 and plan.low == 0):
        found: Counts = (z >> z.dtype.type(8 * z.dtype.itemsize - 10)).astype(np.int64)
        return found
    return np.where(bins < _SMALL_SIZES.size, _SMALL_SIZES[np.minimum(bins, _SMALL_SIZES.size - 1)], bins)


def above_mean(sizes: Counts, contexts: Counts) -> Counts:
    """16 times the sizes, less the mean of their context to the nearest."""
    counts = np.bincount(contexts)
    sums = np.zeros(counts.size, dtype=np.int64)
    np.add.at(sums, contexts, sizes)
    means = (16 * sums + counts // 2) // np.maximum(counts, 1)
    found: Counts = 16 * sizes - means[contexts]
    return found


def spread_of(above: Counts) -> int:
    """1024 times the variance of runs of 64 elements over that of elements within them, less what chance alone makes of
    it (one-way analysis of variance)."""
    runs = above[: above.size // RUN * RUN].reshape(-1, RUN)
    squares, between = int((runs**2).sum()), int((runs.sum(axis=1) ** 2).sum())
    within = RUN * squares - between
    if between == 0:
        return 0
    if within == 0:
        return _MOST_SPREAD
    ratio = between * (RUN - 1) // (within // 1024 + 1)
    return min(max(ratio - 1024, 0) // RUN, _MOST_SPREAD)


def row_sizes(
    values: Words, prediction: Words, context: NDArray[np.uint8] | None, dtype: DType, plan: Plan, row_log2: int
) -> NDArray[np.int32]:
    """The size of the first 64 elements of each whole row of ``1 << row_log2`` elements, less what their contexts have
    on average; sums of 64, in sixteenths of a quarter of an octave."""
    rows = values.size >> row_log2
    guess = _heads(prediction, rows, row_log2)
    z = to_residual(_heads(values, rows, row_log2), guess, dtype.kind)
    keys = None if context is None else _heads(context, rows, row_log2).astype(np.uint8)
    c = contexts_of(plan, guess, keys)
    above = above_mean(sizes_of(z, bins_of(z), plan), c)
    found: NDArray[np.int32] = above.reshape(rows, RUN).sum(axis=1).astype(np.int32)
    return found


def _heads(array: Words, rows: int, row_log2: int) -> Words:
    return array[: rows << row_log2].reshape(rows, 1 << row_log2)[:, :RUN].reshape(-1)
