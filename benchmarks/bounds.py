"""The conditional entropy that a coder is measured against."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.residual import to_residual
from deltackpt.codec.types import Prediction
from deltackpt.tensor.dtypes import DType

__all__ = ["entropy_bound"]

Words = NDArray[Any]

# Symbols of so many bits below the largest residuals but one in a hundred; what is below them counts as it is.
_SYMBOL_BITS = (8, 12)


def _entropy(counts: NDArray[np.int64]) -> float:
    """Bits of all symbols by their frequencies, with Miller and Madow's term for those that a sample misses."""
    share = counts.astype(np.float64)
    return float((share * np.log2(share.sum() / share)).sum() + (counts.size - 1) / (2 * np.log(2)))


def entropy_bound(values: Words, prediction: Prediction, dtype: DType) -> float:
    """Bits an element of the residual, given the context array of a prediction or else the exponents of its values.

    Over the whole array; the tables of a block can beat it.
    """
    bits = 8 * dtype.word_bytes
    z = to_residual(values, prediction.values, dtype.kind)
    if prediction.context is not None:
        keys = prediction.context.astype(np.uint64)
    elif prediction.values is None:
        keys = np.zeros(z.size, np.uint64)
    else:
        keys = ((prediction.values << z.dtype.type(1)) >> z.dtype.type(bits - 8)).astype(np.uint64)
    contexts = _entropy(np.unique(keys, return_counts=True)[1])
    top = int(np.quantile(z, 0.99)).bit_length()
    best = float("inf")
    for shift in {0} if bits == 16 else {max(0, top - symbol) for symbol in _SYMBOL_BITS}:
        cells = keys << np.uint64(bits) | (z >> z.dtype.type(shift)).astype(np.uint64)
        best = min(best, shift * z.size + _entropy(np.unique(cells, return_counts=True)[1]) - contexts)
    return best / values.size
