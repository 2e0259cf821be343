"""The shared library through ctypes, which releases the GIL for the time of a call."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.rans.layout import CONTEXTS, Plan, Structure, Survey, key_shift_of
from deltackpt.codec.rans.part import Part
from deltackpt.codec.residual import Words
from deltackpt.codec.workspace import Workspace
from deltackpt.errors import CorruptObjectError, DeltackptError, TruncatedObjectError
from deltackpt.tensor.dtypes import DType

__all__ = ["LIBRARY", "VARIANTS", "Kernels", "open_library"]

_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
LIBRARY = Path(__file__).with_name("_kernels" + _SUFFIX)

# In the order of their numbers in rans.h, slowest first.
VARIANTS = ("scalar", "avx2", "avx512")

_TRUNCATED = -2
_PROBLEMS = {
    -3: "bytes are left over",
    -4: "a field of the header is out of its range",
    -5: "its tables are damaged",
    -6: "a stream does not hold what the symbols ask for",
    -7: "its states do not end where they should",
}


_POINTER, _INT, _U32, _U64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64
_DOUBLE = ctypes.c_double

# Results and arguments of all that is called. The first argument of most is the number of a variant.
_FUNCTIONS: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "dk_best_variant": (_INT, ()),
    "dk_bound": (_U64, (_U64, _U32)),
    "dk_scratch_bytes": (_U64, (_U64, _U32)),
    "dk_survey_block": (None, (_POINTER, _POINTER, _POINTER)),
    "dk_sort_rows": (None, (_INT, _POINTER, _POINTER, _U32, _U32, _POINTER, _POINTER)),
    "dk_structure_of": (None, (_POINTER, _POINTER, _POINTER)),
    "dk_encode": (ctypes.c_int64, (_INT, _POINTER, _POINTER, _POINTER, _POINTER)),
    "dk_decode": (_INT, (_INT, _POINTER, _POINTER, _U64, _POINTER, _POINTER)),
    "dk_adam_weight": (None, (_INT, *[_POINTER] * 4, _U64, _DOUBLE, _DOUBLE, _DOUBLE)),
    "dk_adam_second": (None, (_INT, *[_POINTER] * 4, _U64, _DOUBLE, _DOUBLE)),
    "dk_products_of": (None, (_INT, _POINTER, _U32, _U64, _POINTER)),
    "dk_cast": (None, (_INT, _POINTER, _POINTER, _U64, _INT)),
    "dk_root_exponents": (None, (_INT, _POINTER, _POINTER, _U64, _INT)),
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
        ("rows", ctypes.c_void_p),
        ("row_log2", ctypes.c_uint32),
        ("whole", ctypes.c_uint64),
    )


_PLAN_FIELDS = tuple(field.name for field in fields(Plan))


class _Plan(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in _PLAN_FIELDS)


class _Survey(ctypes.Structure):
    _fields_ = (
        ("cost", ctypes.c_uint64),
        ("taken", ctypes.c_uint32),
        ("spread", ctypes.c_uint32),
        ("sizes", ctypes.c_uint32 * CONTEXTS),
        ("plan", _Plan),
    )


class _Structure(ctypes.Structure):
    _fields_ = (
        ("planes", ctypes.c_uint64),
        ("taken", ctypes.c_uint32),
        ("repeats", ctypes.c_uint32),
    )


def _address(array: NDArray[np.generic] | None) -> int | None:
    if array is None:
        return None
    assert array.flags.c_contiguous
    return array.ctypes.data


def _block(
    values: Words | None,
    prediction: Words | None,
    context: NDArray[np.uint8] | None,
    count: int,
    dtype: DType,
    part: Part | None = None,
) -> _Block:
    for array in (values, prediction, context):
        assert array is None or array.size == count
    assert part is None or part.row_log2 >= 6
    return _Block(
        _address(values),
        _address(prediction),
        _address(context),
        count if part is None else part.words,
        dtype.word_bytes,
        dtype.kind == "float",
        key_shift_of(dtype),
        None if part is None else _address(part.rows),
        0 if part is None else part.row_log2,
        count,
    )


def _given(survey: Survey) -> _Survey:
    plan = _Plan(*(getattr(survey.plan, name) for name in _PLAN_FIELDS))
    return _Survey(survey.cost, survey.taken, survey.spread, survey.sizes, plan)


@dataclass(frozen=True, slots=True, eq=False)
class Kernels:
    """The entry points of the library, for one variant.

    All arrays are contiguous and of equal length: words of 2 or 4 bytes, and bytes for contexts.
    """

    library: ctypes.CDLL
    variant: str

    @property
    def number(self) -> int:
        """The variant, as the library counts them."""
        return VARIANTS.index(self.variant)

    def bound(self, dtype: DType, count: int) -> int:
        """Bytes of the buffer that :meth:`encode` writes to."""
        return int(self.library.dk_bound(count, dtype.word_bytes))

    def survey(
        self,
        values: Words,
        prediction: Words | None,
        context: NDArray[np.uint8] | None,
        dtype: DType,
        workspace: Workspace,
        part: Part | None = None,
    ) -> Survey:
        """What a sample of at least one word tells."""
        block, out = _block(values, prediction, context, values.size, dtype, part), _Survey()
        with workspace.lend(self.library.dk_scratch_bytes(0, 0)) as scratch:
            self.library.dk_survey_block(ctypes.byref(block), ctypes.byref(out), scratch.ctypes.data)
        plan = Plan(*(getattr(out.plan, name) for name in _PLAN_FIELDS))
        return Survey(plan, out.cost, out.taken, out.spread, tuple(out.sizes))

    def sort_rows(
        self,
        values: Words,
        prediction: Words | None,
        context: NDArray[np.uint8] | None,
        dtype: DType,
        survey: Survey,
        row_log2: int,
        class_bits: int,
        workspace: Workspace,
    ) -> NDArray[np.uint8]:
        """Which class each whole row is in, as :func:`deltackpt.codec.rans.sort_rows`."""
        assert row_log2 >= 6
        assert class_bits in (1, 2)
        count, word = values.size, dtype.word_bytes
        block, given = _block(values, prediction, context, count, dtype), _given(survey)
        out = np.empty(count >> row_log2, dtype=np.uint8)
        with workspace.lend(self.library.dk_scratch_bytes(count, word)) as scratch:
            self.library.dk_sort_rows(
                self.number,
                ctypes.byref(block),
                ctypes.byref(given),
                row_log2,
                class_bits,
                out.ctypes.data,
                scratch.ctypes.data,
            )
        return out

    def structure(self, values: Words, prediction: Words | None, dtype: DType, workspace: Workspace) -> Structure:
        """What byte planes may gain from, in a sample of at least one word."""
        block, out = _block(values, prediction, None, values.size, dtype), _Structure()
        with workspace.lend(self.library.dk_scratch_bytes(0, 0)) as scratch:
            self.library.dk_structure_of(ctypes.byref(block), ctypes.byref(out), scratch.ctypes.data)
        return Structure(out.planes, out.taken, out.repeats)

    def encode(
        self,
        values: Words,
        prediction: Words | None,
        context: NDArray[np.uint8] | None,
        dtype: DType,
        survey: Survey,
        out: NDArray[np.uint8],
        workspace: Workspace,
        part: Part | None = None,
    ) -> int | None:
        """The length of the payload in ``out``, or None where it would not be shorter than the words.

        Args:
            survey: of these words.
            out: :meth:`bound` bytes, of the words that are coded.
            part: which rows are coded; None for all.
        """
        count, word = values.size if part is None else part.words, dtype.word_bytes
        assert out.size >= self.bound(dtype, count)
        block = _block(values, prediction, context, values.size, dtype, part)
        given = _given(survey)
        with workspace.lend(self.library.dk_scratch_bytes(count, word)) as scratch:
            length = self.library.dk_encode(
                self.number, ctypes.byref(block), ctypes.byref(given), out.ctypes.data, scratch.ctypes.data
            )
        return None if length < 0 else int(length)

    def decode(
        self,
        payload: memoryview,
        prediction: Words | None,
        context: NDArray[np.uint8] | None,
        dtype: DType,
        out: Words,
        workspace: Workspace,
        part: Part | None = None,
        *,
        source: str,
    ) -> None:
        """Decode into ``out``, or into some rows of it; it may be the prediction itself.

        Raises:
            CorruptObjectError: the payload is not one that :meth:`encode` wrote.
        """
        block = _block(None, prediction, context, out.size, dtype, part)
        data = np.frombuffer(payload, dtype=np.uint8)
        with workspace.lend(self.library.dk_scratch_bytes(0, 0)) as scratch:
            result = self.library.dk_decode(
                self.number, ctypes.byref(block), data.ctypes.data, data.size, _address(out), scratch.ctypes.data
            )
        if result != 0:
            raise _error(result, source)


def _error(result: int, source: str) -> DeltackptError:
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
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        best = int(library.dk_best_variant())
    except (OSError, AttributeError) as error:
        return None, f"the compiled kernels do not load ({error})"
    if variant is None:
        return Kernels(library, VARIANTS[best]), ""
    if VARIANTS.index(variant) > best:
        return None, f"this processor does not run {variant}"
    return Kernels(library, variant), ""
