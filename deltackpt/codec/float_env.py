"""IEEE arithmetic whatever the caller's thread has set.

``torch.set_flush_denormal(True)`` sets flags of the processor that threads started later inherit, and a prediction
made under them would not be the one that a decoder makes elsewhere. Every floating point computation of the codec
runs inside :func:`ieee_arithmetic`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np

from deltackpt.errors import UnsupportedDataError

__all__ = ["ieee_arithmetic"]

# Larger than fenv_t of any platform (32 bytes on x86-64, 8 on aarch64).
_FENV_BYTES = 256


@lru_cache(maxsize=1)
def _libm() -> ctypes.CDLL:
    """The C library that has fegetenv and fesetenv (C99, 7.6.4)."""
    return ctypes.CDLL(ctypes.util.find_library("m"), use_errno=False)


def _default_environment(libm: ctypes.CDLL) -> ctypes.c_void_p:
    """FE_DFL_ENV: a constant address in glibc and musl, an object on macOS."""
    try:
        return ctypes.c_void_p(ctypes.addressof(ctypes.c_byte.in_dll(libm, "_FE_DFL_ENV")))
    except ValueError:
        return ctypes.c_void_p(-1)


def _keeps_denormals() -> bool:
    """Whether this thread computes with denormals now."""
    smallest = np.full(1, 5e-324)
    return bool((smallest + smallest)[0] != 0.0)


@contextmanager
def ieee_arithmetic() -> Iterator[None]:
    """Round to nearest, with denormals, inside; the thread's own setting again afterwards. Warns of nothing.

    Raises:
        UnsupportedDataError: this platform does not let the setting be changed.
    """
    libm = _libm()
    saved = ctypes.create_string_buffer(_FENV_BYTES)
    libm.fegetenv(saved)
    libm.fesetenv(_default_environment(libm))
    try:
        if not _keeps_denormals():
            raise UnsupportedDataError(
                "this thread flushes denormals and cannot be told otherwise",
                hint="call torch.set_flush_denormal(False) before you save or load",
            )
        with np.errstate(all="ignore"):
            yield
    finally:
        libm.fesetenv(saved)
