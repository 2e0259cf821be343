"""Computed predictions, and the sums behind their fits, by the compiled kernels.

They set the floating-point environment of IEEE 754 for the time of a call.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.kernels.library import Kernels
from deltackpt.codec.residual import Words

__all__ = ["adam_second", "adam_weight", "cast", "products", "root_exponents"]


def _addresses(*arrays: NDArray[np.generic]) -> list[int]:
    """Of float32 words, all of one length."""
    for array in arrays:
        assert array.flags.c_contiguous
        assert array.itemsize == 4
        assert array.size == arrays[0].size
    return [array.ctypes.data for array in arrays]


def adam_weight(
    kernels: Kernels, inputs: tuple[Words, Words, Words], out: Words, rate: float, epsilon: float, decay: float
) -> None:
    """Predictor 3 of base, first and second moment, into ``out``."""
    addresses = _addresses(*inputs, out)
    kernels.library.dk_adam_weight(kernels.number, *addresses, out.size, rate, epsilon, decay)


def adam_second(kernels: Kernels, inputs: tuple[Words, Words, Words], out: Words, beta1: float, beta2: float) -> None:
    """Predictor 4 of base, first moment and the one before, into ``out``."""
    addresses = _addresses(*inputs, out)
    kernels.library.dk_adam_second(kernels.number, *addresses, out.size, beta1, beta2)


def cast(kernels: Kernels, words: Words, out: Words, *, to_bfloat16: bool) -> None:
    """Predictor 2 of float32 words, into 16-bit words."""
    assert words.flags.c_contiguous
    assert (words.itemsize, out.itemsize, out.size) == (4, 2, words.size)
    kernels.library.dk_cast(kernels.number, words.ctypes.data, out.ctypes.data, words.size, to_bfloat16)


def products(kernels: Kernels, columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """As :func:`deltackpt.codec.fitting.products`."""
    count, length = columns.shape
    held = np.ascontiguousarray(columns)
    out = np.empty((count, count))
    kernels.library.dk_products_of(kernels.number, held.ctypes.data, count, length, out.ctypes.data)
    return out


def root_exponents(kernels: Kernels, words: Words, out: NDArray[np.uint8]) -> None:
    """The contexts of predictor 5, of words of float32 or bfloat16."""
    assert words.flags.c_contiguous
    assert (out.itemsize, out.size) == (1, words.size)
    assert words.itemsize in (2, 4)
    kernels.library.dk_root_exponents(
        kernels.number, words.ctypes.data, out.ctypes.data, words.size, words.itemsize == 2
    )
