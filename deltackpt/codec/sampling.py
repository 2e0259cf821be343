"""Cheap estimates from a sample of a block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.residual import Words, to_residual
from deltackpt.tensor.dtypes import Kind

__all__ = ["plane_bits", "residual_bits", "sample"]

# Runs, not single elements: neighbours share cache lines, and rows of a matrix differ from each other.
_RUNS, _RUN = 32, 256


def sample(values: Words) -> Words:
    """At most 32 runs of 256 words, evenly spread; the words themselves where there are no more."""
    if values.size <= _RUNS * _RUN:
        return values
    starts = np.linspace(0, values.size - _RUN, _RUNS).astype(np.int64)
    taken: Words = values[(starts[:, None] + np.arange(_RUN)).reshape(-1)]
    return taken


def plane_bits(plane: NDArray[np.uint8]) -> float:
    """The order-0 entropy of a sample of the bytes, in bits a byte.

    The sample is small beside the 256 values a byte can have, so the estimate is corrected by Miller and Madow's term.
    """
    taken = sample(plane)
    counts = np.bincount(taken, minlength=256)
    present = counts[counts > 0]
    if present.size <= 1:
        return 0.0
    p = present / taken.size
    plugin = float(-(p * np.log2(p)).sum())
    return plugin + (present.size - 1) / (2 * taken.size * float(np.log(2)))


def residual_bits(values: Words, prediction: Words | None, kind: Kind) -> float:
    """About how many bits a word costs in byte planes, given the prediction; from samples, taken alike of both."""
    residual = to_residual(values, prediction, kind)
    planes = residual.view(np.uint8).reshape(residual.size, residual.dtype.itemsize)
    return sum(plane_bits(np.ascontiguousarray(planes[:, k])) for k in range(planes.shape[1]))
