"""The compiled inner loops of the codec, and which of them this process uses.

One shared library, built from the C files beside this one when the package is installed, with a variant for each
kind of processor. Without it the numpy implementation in ``deltackpt.codec.rans`` gives the same bits, slowly.
``DELTACKPT_KERNELS`` forces one: ``numpy``, ``scalar``, ``avx2`` or ``avx512``.
"""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass

from deltackpt.codec.kernels.library import LIBRARY, VARIANTS, Kernels, open_library
from deltackpt.errors import InvalidArgumentError

__all__ = ["VARIABLE", "VARIANTS", "KernelStatus", "Kernels", "active", "open_library", "status"]

VARIABLE = "DELTACKPT_KERNELS"
_NUMPY = "numpy"


@dataclass(frozen=True, slots=True)
class KernelStatus:
    """Which path the codec takes.

    Attributes:
        path: ``numpy``, ``scalar``, ``avx2`` or ``avx512``.
        library: the shared library, or None where numpy is used.
        reason: why it is this path, in words.
    """

    path: str
    library: str | None
    reason: str


@functools.cache
def _chosen() -> tuple[Kernels | None, KernelStatus]:
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", _NUMPY, *VARIANTS):
        raise InvalidArgumentError(
            f"{VARIABLE}={wanted} names no kernels", hint=f"one of {', '.join((_NUMPY, *VARIANTS))}, or unset it"
        )
    if wanted == _NUMPY:
        return None, KernelStatus(_NUMPY, None, f"{VARIABLE} asks for it")
    kernels, problem = open_library(wanted or None)
    if kernels is not None:
        reason = f"{VARIABLE} asks for it" if wanted else "the fastest that this processor runs"
        return kernels, KernelStatus(kernels.variant, str(LIBRARY), reason)
    if wanted:
        raise InvalidArgumentError(f"{VARIABLE}={wanted}, but {problem}", hint=f"unset {VARIABLE}, or reinstall")
    logging.getLogger("deltackpt").warning(
        "%s; encoding and decoding fall back to numpy, which is some hundred times slower. "
        "Reinstall deltackpt where a C compiler is found.",
        problem,
    )
    return None, KernelStatus(_NUMPY, None, problem)


def active() -> Kernels | None:
    """The kernels of this process, or None for numpy; decided, and warned about, once.

    Raises:
        InvalidArgumentError: the environment asks for kernels that are not there.
    """
    return _chosen()[0]


def status() -> KernelStatus:
    """Which path is in use, and why.

    Raises:
        InvalidArgumentError: as :func:`active`.
    """
    return _chosen()[1]
