"""Least squares for predictors: float64, exact sums, so that the result is the same on every machine."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["solve"]

Reals = NDArray[np.float64]


def solve(columns: Sequence[Reals], target: Reals) -> list[float] | None:
    """The coefficients that bring ``sum(c * column)`` closest to ``target``; None where they are not determined.

    By normal equations and elimination with pivoting; there are at most a handful of columns. Sums are exact
    (``math.fsum``), so they do not depend on how a library orders them.
    """
    size = len(columns)
    rows = [[_dot(a, b) for b in columns] + [_dot(a, target)] for a in columns]
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


def _dot(a: Reals, b: Reals) -> float:
    try:
        return math.fsum((a * b).tolist())
    except OverflowError:
        return math.inf
