"""Words that need fewer bits than they have, through coder rans. Section 5 of ``docs/format.md``.

float32 that holds bfloat16 values, 64-bit counts, and tensors of few distinct values, as all of one byte are: what is
left of them is words of 2 or 4 bytes, for which there are entropy coding and contexts.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.coders.rans import Rans
from deltackpt.codec.residual import Words
from deltackpt.codec.types import Prediction, Shape
from deltackpt.codec.workspace import Workspace
from deltackpt.errors import CorruptObjectError, TruncatedObjectError
from deltackpt.tensor.dtypes import DType, by_name

__all__ = ["Narrow"]

_SHIFT, _PALETTE = 1, 2
_SHIFTED = struct.Struct("<BBB")
_LISTED = struct.Struct("<BH")

_RANS = Rans()
_Q16 = 65536  # surveys count in 1/65536 bits

# A glance that rules most blocks out.
_GLANCE = 512
# Distinct values: more of them than a symbol has take more than they save.
_MOST_VALUES = 1 << 12
_FEW_VALUES = 256

# What a survey tells of a few values far apart is too much by up to so much.
_DOUBT = 1.25

# A shift within the same word size has to save at least so many bits.
_LEAST_SHIFT = 4


@dataclass(frozen=True, slots=True)
class Narrow:
    """Shifts words to fewer bytes, or numbers the values that occur."""

    id: int = 3
    name: str = "narrow"

    def encode(
        self, values: Words, prediction: Prediction, shape: Shape, limit: int, workspace: Workspace
    ) -> bytes | None:
        """The smaller payload of both ways; None where none applies, or none looks shorter than ``limit`` bytes."""
        if values.size == 0:
            return None
        taken = values[:: max(1, values.size // _GLANCE)]
        found = [self._shifted(values, taken, prediction, shape, limit, workspace)]
        if prediction.values is None and prediction.context is None and np.unique(taken).size <= _FEW_VALUES:
            found.append(self._listed(values, shape, limit, workspace))
        payloads = [payload for payload in found if payload is not None]
        return min(payloads, key=len) if payloads else None

    def decode(
        self,
        payload: memoryview,
        prediction: Prediction,
        shape: Shape,
        out: Words,
        workspace: Workspace,
        *,
        source: str,
    ) -> None:
        method = payload[0] if len(payload) else 0
        if method == _SHIFT and len(payload) >= _SHIFTED.size:
            _, shift, width = _SHIFTED.unpack(payload[: _SHIFTED.size])
            if shift >= 8 * shape.dtype.word_bytes or width not in (2, 4):
                raise CorruptObjectError("narrow payload: a field of its head is out of its range", where=source)
            inner = Shape(_shifted_dtype(shape.dtype, shift, width), shape.words)
            narrow = np.empty(shape.words, inner.dtype.word)
            guess = _shifted_prediction(prediction, shift, inner.dtype)
            _RANS.decode(payload[_SHIFTED.size :], guess, inner, narrow, workspace, source=source)
            out[:] = narrow
            out <<= out.dtype.type(shift)
        elif method == _PALETTE and len(payload) >= _LISTED.size:
            self._decode_listed(payload, prediction, shape, out, workspace, source)
        elif method in (_SHIFT, _PALETTE):
            raise TruncatedObjectError("narrow payload ends in its head", where=source)
        else:
            raise CorruptObjectError(f"narrow payload: unknown method {method}", where=source)

    def _shifted(
        self, values: Words, taken: Words, prediction: Prediction, shape: Shape, limit: int, workspace: Workspace
    ) -> bytes | None:
        if _width(taken, shape.dtype) is None:
            return None
        chosen = _width(values, shape.dtype)
        if chosen is None:
            return None
        shift, width = chosen
        dtype = _shifted_dtype(shape.dtype, shift, width)
        narrow = (values >> values.dtype.type(shift)).astype(dtype.word)
        guess = _shifted_prediction(prediction, shift, dtype)
        coded = _coded(narrow, guess, dtype, limit, workspace)
        return None if coded is None else _SHIFTED.pack(_SHIFT, shift, width) + coded

    def _listed(self, values: Words, shape: Shape, limit: int, workspace: Workspace) -> bytes | None:
        table = np.unique(values[:: max(1, values.size // (1 << 14))])
        places = np.minimum(np.searchsorted(table, values), table.size - 1)
        if table.size <= _MOST_VALUES and not np.array_equal(table[places], values):
            table, places = np.unique(values, return_inverse=True)
        if table.size > _MOST_VALUES:
            return None
        coded = _coded(places.astype("<u2"), _middle(shape, table.size), by_name("uint16"), limit, workspace)
        return None if coded is None else _LISTED.pack(_PALETTE, table.size) + table.tobytes() + coded

    def _decode_listed(
        self, payload: memoryview, prediction: Prediction, shape: Shape, out: Words, workspace: Workspace, source: str
    ) -> None:
        _, count = _LISTED.unpack(payload[: _LISTED.size])
        end = _LISTED.size + count * shape.dtype.word_bytes
        if prediction.values is not None or prediction.context is not None:
            raise CorruptObjectError("narrow payload: a list of values takes no prediction", where=source)
        if len(payload) < end:
            raise TruncatedObjectError("narrow payload ends in its list of values", where=source)
        table: NDArray[Any] = np.frombuffer(payload[_LISTED.size : end], shape.dtype.word)
        places: Words = np.empty(shape.words, "<u2")
        inner = Shape(by_name("uint16"), shape.words)
        _RANS.decode(payload[end:], _middle(shape, count), inner, places, workspace, source=source)
        if places.max(initial=0) >= count:
            raise CorruptObjectError("narrow payload: the number of a value that is not listed", where=source)
        np.take(table, places, out=out)


def _middle(shape: Shape, count: int) -> Prediction:
    """The place in the middle of a list: residuals of up to 256 places then fit a symbol."""
    return Prediction(np.full(shape.words, count >> 1, "<u2"))


def _width(values: Words, dtype: DType) -> tuple[int, int] | None:
    """How far words can be shifted down, and the bytes that are left; None where it is not worth the while."""
    used = int(np.bitwise_or.reduce(values)) if values.size else 0
    if used == 0:
        return None
    shift = (used & -used).bit_length() - 1
    bits = used.bit_length() - shift
    if bits <= 16 and dtype.word_bytes > 2:
        # Floats keep their sign at the top.
        return (8 * dtype.word_bytes - 16 if dtype.kind == "float" and shift + 16 >= 8 * dtype.word_bytes else shift), 2
    if bits <= 32 and (dtype.word_bytes > 4 or (dtype.word_bytes == 4 and shift >= _LEAST_SHIFT)):
        return shift, 4
    return None


def _shifted_dtype(dtype: DType, shift: int, width: int) -> DType:
    """What the words are called that a shift leaves."""
    whole = dtype.kind == "float" and 8 * dtype.word_bytes - shift == 8 * width
    names = {2: ("uint16", "bfloat16"), 4: ("uint32", "float32")}
    return by_name(names[width][whole])


def _shifted_prediction(prediction: Prediction, shift: int, dtype: DType) -> Prediction:
    if prediction.values is None:
        return prediction
    known = prediction.values
    return Prediction((known >> known.dtype.type(shift)).astype(dtype.word), prediction.context)


def _coded(values: Words, prediction: Prediction, dtype: DType, limit: int, workspace: Workspace) -> bytes | None:
    shape = Shape(dtype, values.size)
    survey = _RANS.survey(values, prediction, shape, workspace)
    if survey.cost / _Q16 / survey.taken * values.size >= _DOUBT * 8 * limit:
        return None
    with workspace.lend(_RANS.bound(shape)) as out:
        length = _RANS.encode(values, prediction, shape, survey, out, workspace)
        return None if length is None else out[:length].tobytes()
