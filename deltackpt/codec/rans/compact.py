"""The compact form of a payload's tables, as ``kernels/compact.c`` has it: square roots of counts, each coded by how it
differs from those before it, bit by bit with adaptive probabilities. Section 5 of ``docs/format.md``."""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.rans.layout import ESCAPE, SYMBOLS, Plan
from deltackpt.codec.rans.tables import normalize
from deltackpt.errors import CorruptObjectError

__all__ = ["get_compact_tables", "put_compact_tables"]

_LONGEST, _LARGEST = 15, 16383
_LONGEST_LEVEL = 14
_MOST_TOTAL, _MOST_BYTES = 1 << 26, 20480
_ONE, _HALF, _CLOSEST, _SETTLED = 65536, 32768, 1024, 25

Frequencies = NDArray[np.int64]


class _Bit:
    """An adaptive probability of a one."""

    def __init__(self) -> None:
        self.one, self.seen = _HALF, 0

    def update(self, bit: bool) -> None:
        self.seen = min(self.seen + 1, _SETTLED)
        rate = 2 * _ONE // (2 * self.seen + 3)
        moved = self.one + ((_ONE - self.one) * rate >> 16) if bit else self.one - (self.one * rate >> 16)
        self.one = min(max(moved, _CLOSEST), _ONE - _CLOSEST)


class _Number:
    def __init__(self) -> None:
        self.unary = [_Bit() for _ in range(_LONGEST)]
        self.next = [_Bit() for _ in range(_LONGEST + 1)]


class _Signed:
    def __init__(self) -> None:
        self.zero, self.negative, self.size = _Bit(), _Bit(), _Number()


class _Coder:
    """Both directions: told the bits, it writes them to ``out``; given ``data``, it finds them."""

    def __init__(self, data: bytes | None) -> None:
        self._low, self._high, self._at = 0, 0xFFFFFFFF, 0
        self._data = data
        self._value = 0 if data is None else int.from_bytes(data[:4].ljust(4, b"\0"), "big")
        self._out = bytearray()
        self.used, self.first, self.second, self.near = _Signed(), _Signed(), _Signed(), [_Signed() for _ in range(4)]
        self.escape, self.none = _Number(), _Number()

    def even(self, bit: bool) -> bool:
        """A bit that is as likely as not."""
        return self._code(_HALF, bit)

    def bit(self, model: _Bit, bit: bool) -> bool:
        found = self._code(model.one, bit)
        model.update(found)
        return found

    def number(self, models: _Number, value: int) -> int:
        """Elias's gamma code of ``value`` + 1."""
        wanted, length, found = (value + 1).bit_length() - 1, 0, 1
        while length < _LONGEST and self.bit(models.unary[length], length < wanted):
            length += 1
        for i in reversed(range(length)):
            bit = bool((value + 1) >> i & 1)
            found = found << 1 | (self.bit(models.next[length], bit) if i == length - 1 else self.even(bit))
        return found - 1

    def signed(self, models: _Signed, value: int) -> int:
        if self.bit(models.zero, value == 0):
            return 0
        negative = self.bit(models.negative, value < 0)
        size = 1 + self.number(models.size, max(abs(value) - 1, 0))
        return -size if negative else size

    def written(self) -> bytes:
        """All that was written."""
        return bytes(self._out) + self._tail()

    def is_at_end(self) -> bool:
        """Whether what was read is what an encoder writes, to the last byte."""
        return self._data is not None and self._data[self._at :] == self._tail() and self._at <= len(self._data)

    def _code(self, one: int, bit: bool) -> bool:
        middle = self._low + ((self._high - self._low) * one >> 16)
        if self._data is not None:
            bit = self._value <= middle
        if bit:
            self._high = middle
        else:
            self._low = middle + 1
        while not (self._low ^ self._high) >> 24:
            if self._data is None:
                self._out.append(self._high >> 24)
            else:
                following = self._data[self._at + 4] if self._at + 4 < len(self._data) else 0
                self._value = (self._value << 8 & 0xFFFFFFFF) | following
            self._at += 1
            self._low = self._low << 8 & 0xFFFFFFFF
            self._high = (self._high << 8 & 0xFFFFFFFF) | 255
        return bit

    def _tail(self) -> bytes:
        """The fewest bytes that, with zeros after them, say where the coder is."""
        for count in range(5):
            below = 0xFFFFFFFF >> 8 * count
            at = (self._low + below) & ~below
            if at <= self._high:
                return at.to_bytes(4, "big")[:count]
        raise AssertionError


class _DamagedError(Exception):
    pass


def _expected(level: list[int], s: int, alternating: bool) -> int:
    """What levels before it say of symbol ``s``, in quarters."""
    if s == 2:
        return 4 * level[1]
    return 3 * level[s - 2] + level[s - 1] if alternating else 2 * (level[s - 2] + level[s - 1])


def _length_of_others(level: list[int]) -> int:
    """Of the root of the sum of squares of all levels but the first."""
    return _root(min(sum(v * v for v in level[1:]), 0xFFFFFFFF)).bit_length()


def _dropped_bits(length: int, others: int) -> int:
    """How many of a level's lowest bits are not kept: of one that has nearly all of a context, it matters little."""
    return min(max(length - others, 0), max(length - 1, 0))


def _code_long(coder: _Coder, models: _Signed, before: int, others: int, level: int) -> tuple[int, int]:
    """A level by its length, as it differs from that in the context before, and its bits. Its length, and the level."""
    length = before + coder.signed(models, level.bit_length() - before)
    if not 0 <= length <= _LONGEST_LEVEL:
        raise _DamagedError
    bits, dropped = int(length > 0), _dropped_bits(length, others)
    for left in reversed(range(dropped, max(length - 1, 0))):
        bits = bits << 1 | coder.even(bool(level >> left & 1))
    return length, bits << dropped


def _code_context(coder: _Coder, level: list[int], used: int, alternating: bool, lengths: list[int]) -> None:
    """Code or fill in the levels below ``used``."""
    if used > 1:
        lengths[1], level[1] = _code_long(coder, coder.second, lengths[1], _LONGEST_LEVEL, level[1])
    for s in range(2, used):
        quarters = _expected(level, s, alternating)
        whole = (quarters + 2) // 4
        near = coder.near[(quarters >= 6) + (quarters >= 16) + (quarters >= 48)]
        found = whole + coder.signed(near, level[s] - whole) if whole else coder.number(coder.none, level[s])
        if not 0 <= found <= _LARGEST:
            raise _DamagedError
        level[s] = found
    lengths[0], level[0] = _code_long(coder, coder.first, lengths[0], _length_of_others(level), level[0])
    if not level[used - 1]:
        raise _DamagedError


def _code_levels(coder: _Coder, plan: Plan, levels: list[list[int]]) -> None:
    before, lengths = 0, [0, 0]
    for c, level in enumerate(levels):
        used = max((s + 1 for s in range(ESCAPE) if level[s]), default=0)
        used = before = before + coder.signed(coder.used, used - before)
        if not 0 <= used <= ESCAPE:
            raise _DamagedError
        level[ESCAPE] = coder.number(coder.escape, level[ESCAPE])
        if level[ESCAPE] > _LARGEST:
            raise _DamagedError
        if used:
            alternating = plan.shift == 0 and not plan.extra >> c & 1
            _code_context(coder, level, used, alternating, lengths)


def _root(x: int) -> int:
    """The square root to the nearest."""
    root = isqrt(x)
    return root + (x - root * root > root)


def _levels(counts: NDArray[np.int64], sampled: bool) -> list[int]:
    """Square roots to the nearest, at least 1 for what occurs; of the first one only the top bits."""
    found = counts.astype(np.int64).tolist()
    if sampled:
        found[ESCAPE] += found[:ESCAPE].count(1)
    down = 0
    while sum(found) >> down > _MOST_TOTAL:
        down += 1
    out = [_root(n >> down) or int(n > 0) for n in found]
    dropped = _dropped_bits(out[0].bit_length(), _length_of_others(out))
    if dropped:
        out[0] = out[0] + (1 << dropped - 1) >> dropped << dropped
    return out


def _frequencies(levels: list[list[int]], precision: int) -> Frequencies:
    return np.stack([normalize(np.array(level, dtype=np.int64) ** 2, False, precision) for level in levels])


def put_compact_tables(counts: NDArray[np.int64], sampled: bool, plan: Plan) -> tuple[bytes, Frequencies] | None:
    """The tables of all contexts for counts of shape (contexts, 256), and the frequencies that a decoder makes of them;
    None where they are too long."""
    levels = [_levels(row, sampled) for row in counts]
    frequencies = _frequencies(levels, plan.precision)
    coder = _Coder(None)
    _code_levels(coder, plan, levels)
    data = coder.written()
    return (data, frequencies) if len(data) <= _MOST_BYTES else None


def get_compact_tables(data: memoryview, plan: Plan, *, source: str) -> Frequencies:
    """The frequencies, of shape (contexts, 256).

    Raises:
        CorruptObjectError: these are no tables of so many contexts.
    """
    levels = [[0] * SYMBOLS for _ in range(plan.contexts)]
    coder = _Coder(bytes(data))
    try:
        _code_levels(coder, plan, levels)
    except _DamagedError:
        coder = _Coder(None)
    if not coder.is_at_end():
        raise CorruptObjectError("rans payload: its tables are damaged", where=source)
    return _frequencies(levels, plan.precision)
