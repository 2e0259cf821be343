"""Rows whose residuals are larger or smaller than the context tells: the same whole numbers as the kernels."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.rans.layout import CONTEXT_ARRAY, CONTEXTS, Plan, Survey, contexts_of
from deltackpt.codec.residual import Words, to_residual
from deltackpt.tensor.dtypes import DType

__all__ = ["RUN", "above_means", "means_of", "sizes_of", "sort_rows", "spread_of"]

RUN = 64
_MOST_SPREAD = 0xFFFFFF
# Of a residual; larger ones would be negative as integers of 32 bits.
_MOST = 0x7FFFFFFE
# Of a float32: its exponent and two bits more, and what these are of 1.0.
_SHIFT, _ONE = 21, 127 << 2
# From so many rows come the limits between classes, which are moved so many times.
_LIMIT_ROWS, _ROUNDS = 1024, 12

Counts = NDArray[np.int64]


def sizes_of(z: Words, plan: Plan) -> Counts:
    """How large residuals are, in quarters of an octave: of z + 1, by the bits of a float that is rounded to the
    nearest; or, where the words themselves are coded and so the top bits of z are their exponents, of what these
    count."""
    if plan.key_shift == CONTEXT_ARRAY or (plan.contexts == 1 and plan.low == 0):
        found: Counts = (z >> z.dtype.type(8 * z.dtype.itemsize - 10)).astype(np.int64)
        return found
    above = (np.minimum(z, min(_MOST, np.iinfo(z.dtype).max)).astype(np.int64) + 1).astype(np.float32)
    return (above.view(np.uint32) >> np.uint32(_SHIFT)).astype(np.int64) - _ONE


def means_of(sizes: Counts, contexts: Counts) -> Counts:
    """16 times the mean size in each of 16 contexts, to the nearest; 0 where there is none."""
    counts = np.bincount(contexts, minlength=CONTEXTS)
    sums = np.zeros(CONTEXTS, dtype=np.int64)
    np.add.at(sums, contexts, sizes)
    found: Counts = (16 * sums + counts // 2) // np.maximum(counts, 1)
    return found


def above_means(sizes: Counts, contexts: Counts, means: Counts) -> Counts:
    """16 times the sizes, less the mean of their contexts."""
    return 16 * sizes - means[contexts]


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


def sort_rows(
    values: Words,
    prediction: Words,
    context: NDArray[np.uint8] | None,
    dtype: DType,
    survey: Survey,
    row_log2: int,
    class_bits: int,
) -> NDArray[np.uint8]:
    """Which of ``1 << class_bits`` classes each whole row of ``1 << row_log2`` elements is in, by the sizes of its
    first 64 elements, less what their contexts have on average in the survey."""
    rows = values.size >> row_log2
    guess = _heads(prediction, rows, row_log2)
    z = to_residual(_heads(values, rows, row_log2), guess, dtype.kind)
    keys = None if context is None else _heads(context, rows, row_log2).astype(np.uint8)
    contexts = contexts_of(survey.plan, guess, keys)
    above = above_means(sizes_of(z, survey.plan), contexts, np.array(survey.sizes, dtype=np.int64))
    return _classes(above.reshape(rows, RUN).sum(axis=1), class_bits)


def _heads(array: Words, rows: int, row_log2: int) -> Words:
    return array[: rows << row_log2].reshape(rows, 1 << row_log2)[:, :RUN].reshape(-1)


def _means(sizes: Counts, limits: list[int]) -> list[int]:
    """Mean sizes of classes, in whole numbers; of those without a row, a limit."""
    classes = np.searchsorted(limits, sizes, side="right")
    means = []
    for number in range(len(limits) + 1):
        members = sizes[classes == number]
        means.append(int(members.sum()) // members.size if members.size else limits[max(number - 1, 0)])
    return means


def _classes(sizes: Counts, class_bits: int) -> NDArray[np.uint8]:
    """Rows by size, in groups around their means (Lloyd's algorithm). The first limits are the mean, and the means of
    both sides."""
    if not sizes.size:
        return np.zeros(0, dtype=np.uint8)
    taken = min(sizes.size, _LIMIT_ROWS)
    known = sizes[np.arange(taken) * sizes.size // taken]
    limits = _means(known, [])
    for _ in range(1, class_bits):
        limits = sorted(limits + _means(known, limits))
    for _ in range(_ROUNDS):
        means = _means(known, limits)
        moved = [(low + high) // 2 for low, high in itertools.pairwise(means)]
        if moved == limits:
            break
        limits = moved
    return np.searchsorted(limits, sizes, side="right").astype(np.uint8)
