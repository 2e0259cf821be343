"""Rows of a block in classes by how large their residuals are, each class through coder rans. Section 5 of
``docs/format.md``.

How far the rows of a matrix move differs more than the exponent of a prediction tells.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.coders.rans import Rans
from deltackpt.codec.rans import Part, Survey
from deltackpt.codec.residual import Words
from deltackpt.codec.types import Prediction, Shape
from deltackpt.codec.workspace import Workspace
from deltackpt.errors import CorruptObjectError, TruncatedObjectError

__all__ = ["Rows"]

_HEAD = struct.Struct("<BB")
_RANS = Rans()
_CLASS_BITS = (1, 2)
_LEAST_ROW, _MOST_ROW = 6, 16

# Fewer rows have no frequencies of their own.
_LEAST_ROWS = 64

# What has to be saved, by estimate, to be worth the time.
_LEAST_GAIN = 0.005

# What a set of tables takes beside those of its contexts (head and states), and each of these, in compact payloads.
_CLASS_BYTES, _CONTEXT_BYTES = 80, 14

# Bits an element that two and four classes gain, of those that runs of 64 in normal variables would; as measured.
_SHARE = {1: 0.85, 2: 1.1}

_Q16 = 65536  # surveys count in 1/65536 bits
_SPREAD = 1024  # and the spread in 1/1024

Classes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Rows:
    """Sorts rows by class, and codes the words of each by themselves.

    Attributes:
        row_log2: of the words of a row that is encoded. Longer ones hide what differs, and there is less to know about
            shorter ones than their classes take.
    """

    id: int = 4
    name: str = "rows"
    row_log2: int = 8

    def class_bits(self, shape: Shape, survey: Survey) -> int:
        """The bits of the number of a class with which the block gets smallest, by estimate; 0 where it is best left
        whole."""
        rows = shape.words >> self.row_log2
        if rows < _LEAST_ROWS:
            return 0
        bits = survey.cost / _Q16 / survey.taken
        # Of normal variables with known variances one knows half the logarithm of the ratio.
        known = 0.5 * math.log2(1 + survey.spread / _SPREAD)
        per_class = 8 * (_CLASS_BYTES + _CONTEXT_BYTES * survey.plan.contexts) / shape.words
        gains = {n: _SHARE[n] * known - ((1 << n) - 1) * per_class - n / (1 << self.row_log2) for n in _CLASS_BITS}
        best = max(gains, key=lambda n: gains[n])
        return best if gains[best] >= _LEAST_GAIN * bits else 0

    def bound(self, shape: Shape) -> int:
        """Bytes of the buffer that :meth:`encode` writes to."""
        return _RANS.bound(shape) + _body_at(2, shape.words >> self.row_log2)

    def encode(
        self,
        values: Words,
        prediction: Prediction,
        shape: Shape,
        survey: Survey,
        class_bits: int,
        out: NDArray[np.uint8],
        workspace: Workspace,
    ) -> int | None:
        """The length of the payload at the start of ``out``; None where a class would not be shorter than its words.

        Args:
            survey: of these words.
            class_bits: as :meth:`class_bits` gave it.
            out: :meth:`bound` bytes.
        """
        classes = _RANS.sort_rows(values, prediction, shape, survey, self.row_log2, class_bits, workspace)
        lengths, at = [], _body_at(class_bits, classes.size)
        for part in _parts(classes, class_bits, self.row_log2, shape.words):
            length: int | None = 0
            if part.words:
                found = _RANS.survey(values, prediction, shape, workspace, part)
                length = _RANS.encode(values, prediction, shape, found, out[at:], workspace, part)
            if length is None:
                return None
            lengths.append(length)
            at += length
        head = (
            _HEAD.pack(self.row_log2, class_bits)
            + struct.pack(f"<{len(lengths)}I", *lengths)
            + _packed(classes, class_bits)
        )
        out[: len(head)] = np.frombuffer(head, np.uint8)
        return at

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
        if len(payload) < _HEAD.size:
            raise TruncatedObjectError("rows payload ends in its head", where=source)
        row_log2, class_bits = _HEAD.unpack(payload[: _HEAD.size])
        if not _LEAST_ROW <= row_log2 <= _MOST_ROW or class_bits not in _CLASS_BITS or not _RANS.serves(shape):
            raise CorruptObjectError("rows payload: a field of its head is out of its range", where=source)
        rows = shape.words >> row_log2
        at = _body_at(class_bits, rows)
        if len(payload) < at:
            raise TruncatedObjectError("rows payload ends in its classes", where=source)
        lengths = struct.unpack_from(f"<{1 << class_bits}I", payload, _HEAD.size)
        classes = _unpacked(payload[_HEAD.size + 4 * len(lengths) : at], class_bits, rows, source)
        for part, length in zip(_parts(classes, class_bits, row_log2, shape.words), lengths, strict=True):
            body = payload[at : at + length]
            if len(body) < length:
                raise TruncatedObjectError("rows payload ends in the words of a class", where=source)
            if part.words:
                _RANS.decode(body, prediction, shape, out, workspace, part, source=source)
            elif length:
                raise CorruptObjectError("rows payload: bytes for a class without words", where=source)
            at += length
        if at != len(payload):
            raise CorruptObjectError(f"rows payload: {len(payload) - at} bytes left over", where=source)


def _parts(classes: Classes, class_bits: int, row_log2: int, words: int) -> list[Part]:
    """The rows of each class. The words after the last whole row are one more row of the last."""
    count, most = classes.size, (1 << class_bits) - 1
    rest = words - (count << row_log2)
    parts = []
    for number in range(most + 1):
        rows, more = np.flatnonzero(classes == number).astype(np.uint32), 0
        if number == most and rest:
            rows, more = np.append(rows, np.uint32(count)), rest - (1 << row_log2)
        parts.append(Part(rows, row_log2, (rows.size << row_log2) + more))
    return parts


def _body_at(class_bits: int, rows: int) -> int:
    """Where the payloads of the classes begin."""
    return _HEAD.size + (4 << class_bits) + (class_bits * rows + 7) // 8


def _packed(classes: Classes, class_bits: int) -> bytes:
    per_byte = 8 // class_bits
    columns = np.concatenate((classes, np.zeros(-classes.size % per_byte, np.uint8))).reshape(-1, per_byte)
    found = columns[:, 0].copy()
    for k in range(1, per_byte):
        found |= columns[:, k] << np.uint8(class_bits * k)
    return found.tobytes()


def _unpacked(data: memoryview, class_bits: int, rows: int, source: str) -> Classes:
    per_byte, packed = 8 // class_bits, np.frombuffer(data, np.uint8)
    columns = np.empty((packed.size, per_byte), np.uint8)
    for k in range(per_byte):
        columns[:, k] = packed >> np.uint8(class_bits * k) & np.uint8((1 << class_bits) - 1)
    found: Classes = columns.reshape(-1)
    if found[rows:].any():
        raise CorruptObjectError("rows payload: a bit beyond the last row", where=source)
    return found[:rows]
