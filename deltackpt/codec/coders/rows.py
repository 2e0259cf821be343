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
from deltackpt.codec.rans import Survey
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

# What a set of tables takes beside those of its contexts, and each of these.
_CLASS_BYTES, _CONTEXT_BYTES = 282, 48

# Bits an element that two and four classes gain, of those that runs of 64 in normal variables would; as measured.
_SHARE = {1: 0.85, 2: 1.1}

_Q16 = 65536  # surveys count in 1/65536 bits
_SPREAD = 1024  # and the spread in 1/1024

# Rounds of moving the limits between classes to the middle between their means.
_ROUNDS = 12

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
        classes = _classes(_RANS.row_sizes(values, prediction, shape, survey, self.row_log2, workspace), class_bits)
        order, sizes = _order(classes, class_bits, shape.words, self.row_log2)
        lengths, at = [], _body_at(class_bits, classes.size)
        with workspace.lend(values.nbytes) as one, workspace.lend(values.nbytes) as other:
            sorted_values = _sorted(values, order, self.row_log2, one)
            guess = _sorted_prediction(prediction, order, self.row_log2, other)
            for part, start, size in _parts(shape, guess, sizes):
                taken = sorted_values[start : start + size]
                length = 0
                if size:
                    found = _RANS.survey(taken, part, Shape(shape.dtype, size), workspace)
                    coded = _RANS.encode(taken, part, Shape(shape.dtype, size), found, out[at:], workspace)
                    if coded is None:
                        return None
                    length = coded
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
        order, sizes = _order(classes, class_bits, shape.words, row_log2)
        with workspace.lend(out.nbytes) as one, workspace.lend(out.nbytes) as other:
            words = one[: out.nbytes].view(out.dtype)
            guess = _sorted_prediction(prediction, order, row_log2, other)
            for (part, start, size), length in zip(_parts(shape, guess, sizes), lengths, strict=True):
                body = payload[at : at + length]
                if len(body) < length:
                    raise TruncatedObjectError("rows payload ends in the words of a class", where=source)
                if size:
                    here = words[start : start + size]
                    _RANS.decode(body, part, Shape(shape.dtype, size), here, workspace, source=source)
                elif length:
                    raise CorruptObjectError("rows payload: bytes for a class without words", where=source)
                at += length
            if at != len(payload):
                raise CorruptObjectError(f"rows payload: {len(payload) - at} bytes left over", where=source)
            back = np.empty_like(order)
            back[order] = np.arange(order.size)
            _take(words, back, row_log2, out)


def _body_at(class_bits: int, rows: int) -> int:
    """Where the payloads of the classes begin."""
    return _HEAD.size + (4 << class_bits) + (class_bits * rows + 7) // 8


def _classes(sizes: NDArray[np.int32], class_bits: int) -> Classes:
    """Rows by size, in groups around their means (Lloyd's algorithm), in whole numbers."""
    ranked = np.sort(sizes)
    sums = np.concatenate(([0], np.cumsum(ranked, dtype=np.int64)))
    ends = np.arange((1 << class_bits) + 1) * ranked.size >> class_bits
    limits = ranked[:0].astype(np.int64)
    for _ in range(_ROUNDS):
        means = (sums[ends[1:]] - sums[ends[:-1]]) // np.maximum(1, ends[1:] - ends[:-1])
        limits = np.sort(means[1:] + means[:-1]) // 2
        moved = np.searchsorted(ranked, limits, side="left")
        if np.array_equal(moved, ends[1:-1]):
            break
        ends[1:-1] = moved
    return np.searchsorted(limits, sizes, side="right").astype(np.uint8)


def _order(classes: Classes, class_bits: int, words: int, row_log2: int) -> tuple[NDArray[np.int64], list[int]]:
    """The rows sorted by class, and the words of each class; those after the last whole row are the last class's."""
    order = np.argsort(classes, kind="stable").astype(np.int64)
    sizes = np.bincount(classes, minlength=1 << class_bits) << row_log2
    sizes[-1] += words - (classes.size << row_log2)
    return order, sizes.tolist()


def _parts(shape: Shape, prediction: Prediction, sizes: list[int]) -> list[tuple[Prediction, int, int]]:
    """For each class its prediction, where its words begin, and how many they are."""
    found, start = [], 0
    for size in sizes:
        here = slice(start, start + size)
        values = None if prediction.values is None else prediction.values[here]
        context = None if prediction.context is None else prediction.context[here]
        found.append((Prediction(values, context), start, size))
        start += size
    return found


def _take(array: Words, order: NDArray[np.int64], row_log2: int, out: Words) -> None:
    """Rows of ``array`` in this order, and what follows the last whole one."""
    whole = order.size << row_log2
    rows = array[:whole].reshape(order.size, 1 << row_log2)
    # Other modes go through a buffer.
    np.take(rows, order, axis=0, out=out[:whole].reshape(rows.shape), mode="clip")
    out[whole:] = array[whole:]


def _sorted(array: Words, order: NDArray[np.int64], row_log2: int, buffer: NDArray[np.uint8]) -> Words:
    out: Words = buffer[: array.nbytes].view(array.dtype)
    _take(array, order, row_log2, out)
    return out


def _sorted_prediction(
    prediction: Prediction, order: NDArray[np.int64], row_log2: int, buffer: NDArray[np.uint8]
) -> Prediction:
    values, context = prediction.values, prediction.context
    return Prediction(
        None if values is None else _sorted(values, order, row_log2, buffer),
        None if context is None else _sorted(context, order, row_log2, np.empty(context.nbytes, np.uint8)),
    )


def _packed(classes: Classes, class_bits: int) -> bytes:
    bits = classes[:, None] >> np.arange(class_bits, dtype=np.uint8) & np.uint8(1)
    return np.packbits(bits.reshape(-1), bitorder="little").tobytes()


def _unpacked(data: memoryview, class_bits: int, rows: int, source: str) -> Classes:
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if bits[class_bits * rows :].any():
        raise CorruptObjectError("rows payload: a bit beyond the last row", where=source)
    pairs = bits[: class_bits * rows].reshape(rows, class_bits)
    found: Classes = np.bitwise_or.reduce(pairs << np.arange(class_bits, dtype=np.uint8), axis=1)
    return found
