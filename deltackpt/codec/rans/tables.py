"""Frequency tables: from counts, and to bytes and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.rans.layout import ESCAPE, SYMBOLS, Plan
from deltackpt.errors import CorruptObjectError

__all__ = ["get_tables", "normalize", "put_tables"]

_LONGEST_UNARY, _PLAIN_BITS = 16, 14
# As in ``kernels/tables.c``: how often a symbol is often enough to be as frequent as that; parts of 1 that others are
# counted in; and in how many the least frequency has to be worth one, for each of them.
_FEW, _PARTS, _WORTH = 8, 16, 8

Frequencies = NDArray[np.int64]


def _smooth(counts: Frequencies, total: int, precision: int) -> Frequencies:
    """Runs of symbols that a sample has seldom or not at all, up to ``_FEW`` in all, become equally frequent: what
    neighbours have is a better guess. In sixteenths."""
    out, plain = _PARTS * counts, counts.tolist()
    present = np.flatnonzero(counts[:ESCAPE])
    end, s = int(present[-1]) + 1, 0
    while s < end:
        last, among = s, 0
        while last < end and plain[last] < _FEW and among < _FEW:
            among += plain[last]
            last += 1
        if last > s and (_WORTH * among << precision) >= (last - s) * total:
            out[s:last] = max(1, _PARTS * among // (last - s))
        s = max(last, s + 1)
    return out


def normalize(counts: NDArray[np.int64], sampled: bool, precision: int) -> Frequencies:
    """Frequencies of one context: at least 1 for what occurs and for the escape; the sum is ``1 << precision``."""
    whole = 1 << precision
    found = counts.astype(np.int64).copy()
    if not found[:ESCAPE].any():
        out = np.zeros(SYMBOLS, dtype=np.int64)
        out[0], out[ESCAPE] = 1, whole - 1
        return out
    if sampled:
        # As many symbols are still unseen, by Good and Turing, as were seen once.
        found[ESCAPE] += int((found[:ESCAPE] == 1).sum())
        found = _smooth(found, int(found.sum()), precision)
    total = int(found.sum())
    out = np.maximum((found * whole + total // 2) // total, found > 0)
    out[ESCAPE] = max(1, out[ESCAPE])
    left = whole - int(out.sum())
    while left:
        best = int(np.argmax(out))
        most = max(1, int(out[best]) // 8)
        step = max(-most, min(most, left))
        out[best] += step
        left -= step
    return out


class _Rice:
    """Rice codes whose parameter follows the mean of what was coded before, as in JPEG-LS."""

    def __init__(self) -> None:
        self._sum, self._count = 4, 1

    @property
    def parameter(self) -> int:
        k = 0
        while self._count << k < self._sum:
            k += 1
        return k

    def update(self, value: int) -> None:
        self._sum += value
        self._count += 1
        if self._count == 8:
            self._sum >>= 1
            self._count >>= 1


def _bits(value: int, count: int) -> list[int]:
    return [value >> i & 1 for i in range(count)]


def put_tables(frequencies: Frequencies) -> bytes:
    """The tables of all contexts, of shape (contexts, 256), as a bit string, least significant bits first."""
    out: list[int] = []
    for row in frequencies:
        used = int(np.flatnonzero(row[:ESCAPE])[-1]) + 1
        out += _bits(used, 8)
        rice, before = _Rice(), 0
        for f in row[:used].tolist():
            difference, before = f - before, f
            value = -2 * difference - 1 if difference < 0 else 2 * difference
            k = rice.parameter
            quotient = value >> k
            if quotient < _LONGEST_UNARY:
                out += [1] * quotient + [0] + _bits(value, k)
            else:
                out += [1] * _LONGEST_UNARY + _bits(value, _PLAIN_BITS)
            rice.update(value)
    return np.packbits(np.array(out, dtype=np.uint8), bitorder="little").tobytes()


class _Reader:
    def __init__(self, data: memoryview, source: str) -> None:
        self._bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little").tolist()
        self._at, self._source = 0, source

    def fail(self) -> CorruptObjectError:
        return CorruptObjectError("rans payload: its tables are damaged", where=self._source)

    def bits(self, count: int) -> int:
        if self._at + count > len(self._bits):
            raise self.fail()
        taken = self._bits[self._at : self._at + count]
        self._at += count
        return sum(bit << i for i, bit in enumerate(taken))

    def finish(self) -> None:
        rest = self._bits[self._at :]
        if len(rest) > 7 or any(rest):
            raise self.fail()


def get_tables(data: memoryview, plan: Plan, *, source: str) -> Frequencies:
    """The inverse of :func:`put_tables`.

    Raises:
        CorruptObjectError: these are no tables of so many contexts.
    """
    out = np.zeros((plan.contexts, SYMBOLS), dtype=np.int64)
    reader = _Reader(data, source)
    for row in out:
        used = reader.bits(8)
        rice, before, left = _Rice(), 0, 1 << plan.precision
        for s in range(used):
            k, quotient = rice.parameter, 0
            while quotient < _LONGEST_UNARY and reader.bits(1):
                quotient += 1
            value = quotient << k | reader.bits(k) if quotient < _LONGEST_UNARY else reader.bits(_PLAIN_BITS)
            rice.update(value)
            before += -((value + 1) // 2) if value & 1 else value // 2
            if not 0 <= before < left:
                raise reader.fail()
            left -= before
            row[s] = before
        if not used or row[used - 1] == 0:
            raise reader.fail()
        row[ESCAPE] = left
    reader.finish()
    return out
