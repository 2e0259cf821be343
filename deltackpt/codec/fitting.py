"""Least squares for predictors: float64, sums in a stated order, so that the result is the same on every machine."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import kernels
from deltackpt.codec.kernels import arithmetic

__all__ = ["products", "solve"]

Reals = NDArray[np.float64]

# Lanes of a sum: as many as kernels with vectors of any width divide among them.
_LANES = 32


def solve(columns: Sequence[Reals], target: Reals) -> list[float] | None:
    """The coefficients that bring ``sum(c * column)`` closest to ``target``; None where they are not determined.

    By normal equations and elimination with pivoting; there are at most a handful of columns.
    """
    size = len(columns)
    rows = products(np.stack([*columns, target]))[:size].tolist()
    if not all(math.isfinite(value) for row in rows for value in row):
        return None
    for pivot in range(size):
        best = max(range(pivot, size), key=lambda r: abs(rows[r][pivot]))
        rows[pivot], rows[best] = rows[best], rows[pivot]
        if rows[pivot][pivot] == 0.0:
            return None
        for other in range(size):
            if other != pivot:
                factor = rows[other][pivot] / rows[pivot][pivot]
                rows[other] = [a - factor * b for a, b in zip(rows[other], rows[pivot], strict=True)]
    found = [rows[n][size] / rows[n][n] for n in range(size)]
    return found if all(math.isfinite(value) for value in found) else None


def products(columns: Reals) -> Reals:
    """The sums of the products of each two of at most 8 columns, of shape (columns, columns).

    A sum goes in 32 lanes, each of which takes every 32nd product and keeps what additions round away (Knuth, TAOCP
    4.2.2, theorem B); then halves of the lanes are added until one is left. As good as exact sums, and a hundred times
    as fast. To be called inside :func:`~deltackpt.codec.float_env.ieee_arithmetic`.

    Args:
        columns: of shape (columns, elements).
    """
    found = kernels.active()
    return _products(columns) if found is None else arithmetic.products(found, columns)


def _products(columns: Reals) -> Reals:
    """The same bits in numpy."""
    first, second = np.triu_indices(columns.shape[0])
    terms = columns[first] * columns[second]
    total, lost = np.zeros((first.size, _LANES)), np.zeros((first.size, _LANES))
    for start in range(0, terms.shape[1], _LANES):
        part = terms[:, start : start + _LANES]
        _add_exactly(total[:, : part.shape[1]], lost[:, : part.shape[1]], part)
    half = _LANES // 2
    while half:
        lost[:, :half] += lost[:, half : 2 * half]
        _add_exactly(total[:, :half], lost[:, :half], total[:, half : 2 * half])
        half //= 2
    out = np.empty((columns.shape[0], columns.shape[0]))
    out[first, second] = out[second, first] = total[:, 0] + lost[:, 0]
    return out


def _add_exactly(total: Reals, lost: Reals, terms: Reals) -> None:
    after = total + terms
    part = after - total
    lost += (total - (after - part)) + (terms - part)
    total[:] = after
