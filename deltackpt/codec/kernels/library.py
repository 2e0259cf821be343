"""The shared library through ctypes, which releases the GIL for the time of a call."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.rans.layout import key_shift_of
from deltackpt.codec.residual import Words
from deltackpt.errors import CorruptObjectError, DeltackptError, TruncatedObjectError
from deltackpt.tensor.dtypes import DType

__all__ = ["LIBRARY", "VARIANTS", "Kernels", "open_library"]

_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
LIBRARY = Path(__file__).with_name("_kernels" + _SUFFIX)

# In the order of their numbers in rans.h, slowest first.
VARIANTS = ("scalar", "avx2", "avx512")

_TOO_LARGE, _NO_MEMORY, _TRUNCATED = -1, -2, -3
_PROBLEMS = {
    -4: "bytes are left over",
    -5: "a field of the header is out of its range",
    -6: "its tables are damaged",
    -7: "a stream does not hold what the symbols ask for",
    -8: "its states do not end where they should",
}


class _Block(ctypes.Structure):
    _fields_ = (
        ("values", ctypes.c_void_p),
        ("prediction", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("count", ctypes.c_uint64),
        ("word", ctypes.c_uint32),
        ("is_float", ctypes.c_uint32),
        ("key_shift", ctypes.c_uint32),
    )


def _address(array: NDArray[np.generic] | None) -> int | None:
    if array is None:
        return None
    assert array.flags.c_contiguous
    return array.ctypes.data


def _block(
    values: Words | None, prediction: Words | None, context: NDArray[np.uint8] | None, count: int, dtype: DType
) -> _Block:
    for array in (values, prediction, context):
        assert array is None or array.size == count
    return _Block(
        _address(values),
        _address(prediction),
        _address(context),
        count,
        dtype.word_bytes,
        dtype.kind == "float",
        key_shift_of(dtype),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Kernels:
    """The entry points of the library, for one variant.

    All arrays are contiguous and of equal length: words of 2 or 4 bytes, and bytes for contexts.
    """

    library: ctypes.CDLL
    variant: str

    @property
    def _number(self) -> int:
        return VARIANTS.index(self.variant)

    def encode(
        self, values: Words, prediction: Words | None, context: NDArray[np.uint8] | None, dtype: DType
    ) -> memoryview | None:
        """The payload of at least one word, or None where it would not be smaller than the words.

        Raises:
            MemoryError: the kernel's own buffers could not be allocated.
        """
        block = _block(values, prediction, context, values.size, dtype)
        out: NDArray[np.uint8] = np.empty(self.library.dk_bound(values.size, dtype.word_bytes), dtype=np.uint8)
        length = self.library.dk_encode(self._number, ctypes.byref(block), out.ctypes.data)
        if length == _TOO_LARGE:
            return None
        if length < 0:
            raise MemoryError("no memory for the buffers of the codec")
        return out.data[:length]

    def estimate(self, values: Words, prediction: Words | None, context: NDArray[np.uint8] | None, dtype: DType) -> int:
        """About how many 1/256 bits an element costs; from a sample.

        Raises:
            MemoryError: as :meth:`encode`.
        """
        block = _block(values, prediction, context, values.size, dtype)
        cost = self.library.dk_estimate(ctypes.byref(block))
        if cost < 0:
            raise MemoryError("no memory for the buffers of the codec")
        return int(cost)

    def decode(
        self,
        payload: memoryview,
        count: int,
        prediction: Words | None,
        context: NDArray[np.uint8] | None,
        dtype: DType,
        *,
        source: str,
    ) -> Words:
        """``count`` words.

        Raises:
            CorruptObjectError: the payload is not one that :meth:`encode` wrote.
            MemoryError: as :meth:`encode`.
        """
        block = _block(None, prediction, context, count, dtype)
        out: Words = np.empty(count, dtype=dtype.word)
        data = np.frombuffer(payload, dtype=np.uint8)
        result = self.library.dk_decode(self._number, ctypes.byref(block), data.ctypes.data, data.size, out.ctypes.data)
        if result == 0:
            return out
        raise _error(result, source)


def _error(result: int, source: str) -> DeltackptError | MemoryError:
    if result == _NO_MEMORY:
        return MemoryError("no memory for the buffers of the codec")
    if result == _TRUNCATED:
        return TruncatedObjectError("rans payload ends early", where=source)
    return CorruptObjectError(f"rans payload: {_PROBLEMS[result]}", where=source)


def open_library(variant: str | None = None) -> tuple[Kernels | None, str]:
    """The kernels, or None and why there are none.

    Args:
        variant: one of ``VARIANTS``; None for the fastest that the processor runs.
    """
    if not LIBRARY.exists():
        return None, "the compiled kernels were not built"
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.dk_bound.argtypes = (ctypes.c_uint64, ctypes.c_uint32)
        library.dk_bound.restype = ctypes.c_uint64
        library.dk_encode.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        library.dk_encode.restype = ctypes.c_int64
        library.dk_estimate.argtypes = (ctypes.c_void_p,)
        library.dk_estimate.restype = ctypes.c_int64
        library.dk_decode.argtypes = (
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_uint64,
            ctypes.c_void_p,
        )
        library.dk_decode.restype = ctypes.c_int
        best = int(library.dk_best_variant())
    except (OSError, AttributeError) as error:
        return None, f"the compiled kernels do not load ({error})"
    if variant is None:
        return Kernels(library, VARIANTS[best]), ""
    if VARIANTS.index(variant) > best:
        return None, f"this processor does not run {variant}"
    return Kernels(library, variant), ""
