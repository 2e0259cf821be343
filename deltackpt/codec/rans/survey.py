"""The survey of a block, from a sample, in whole numbers: the same decisions as ``kernels/survey.c``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.rans.layout import (
    CODED,
    COMPACT,
    CONTEXT_ARRAY,
    CONTEXTS,
    KEYS,
    SYMBOLS,
    Plan,
    Structure,
    Survey,
    contexts_of,
    key_shift_of,
    share_of,
)
from deltackpt.codec.rans.rows import above_means, means_of, sizes_of, spread_of
from deltackpt.codec.residual import Words, to_residual
from deltackpt.tensor.dtypes import DType

__all__ = ["sample_positions", "take_structure", "take_survey"]

_ONE = 1 << 16
_RUN = 64
_SAMPLES, _LEAST_SAMPLES = 8192, 2048
_SYMBOL_BITS = 5
_COMPACT_BELOW, _FEW_BELOW, _FOUR_BELOW, _ONE_BELOW, _MOST_WITH_FOUR = 1 << 18, 1 << 16, 1 << 12, 1 << 10, 1 << 17
_BINS = 4 * 32 + 1
_WINDOWS, _WINDOW_BYTES = 2048, 8
# Of a bit that Miller and Madow's term adds for every value that occurs: 65536 / (2 ln 2).
_MISSED = 47274

Counts = NDArray[np.int64]


def sample_positions(count: int, samples: int) -> slice | NDArray[np.int64]:
    """Which elements a sample takes: all, or runs of 64, evenly spread."""
    if count <= samples:
        return slice(None)
    runs = samples // _RUN
    starts = np.arange(runs, dtype=np.int64) * (count // _RUN) // runs * _RUN
    return (starts[:, None] + np.arange(_RUN)).reshape(-1)


def _log2(x: int) -> int:
    """65536 times log2 of ``x``, by the kernels' formula."""
    k = x.bit_length() - 1
    f = ((x << 16) >> k) - _ONE
    bend = f * (_ONE - f) >> 16
    return (k << 16) + f + (bend * (28608 - (10093 * f >> 16)) >> 16)


def _weight(n: int) -> int:
    return n * _log2(n) if n else 0


def _shift_cost(bins: list[int], total: int, shift: int, bits: int) -> tuple[int, int]:
    """Cost in 1/65536 bits of what is counted in ``bins``, and how many symbols the tables get."""
    cost = _weight(total) + total * shift * _ONE
    octave = [bins[4 * k - 3 : 4 * k + 1] for k in range(1, bits + 1)]
    groups = [(bins[0] + sum(map(sum, octave[:shift])), 1)]
    for above, parts in enumerate(octave[shift : shift + 8], start=1):
        if above == 1:
            groups.append((sum(parts), 1))
        elif above == 2:
            groups += [(parts[0] + parts[1], 1), (parts[2] + parts[3], 1)]
        else:
            groups += [(n, 1 << (above - 3)) for n in parts]
    symbols = 0
    for n, width in groups:
        cost += n * (width.bit_length() - 1) * _ONE - _weight(n)
        symbols += min(n, width)
    high = sum(map(sum, octave[shift + 8 :]))
    return cost + high * bits * _ONE - _weight(high), symbols


def _top_cost(tops: list[int], total: int, shift: int, bits: int) -> tuple[int, int]:
    """The same where at most 8 bits are left above the shift."""
    merged = 1 << (shift + 8 - bits)
    groups = [n for s in range(0, SYMBOLS, merged) if (n := sum(tops[s : s + merged]))]
    return _weight(total) + total * shift * _ONE - sum(map(_weight, groups)), len(groups)


def _window(keys: Counts) -> tuple[int, int]:
    """The lowest key and the number of contexts that cover most of the sample."""
    present = np.flatnonzero(keys)
    first, last = int(present[0]), int(present[-1])
    if last - first < CONTEXTS:
        return first, last - first + 1
    total = np.concatenate(([0], np.cumsum(keys[first : last + 1])))
    inside = total[CONTEXTS:] - total[:-CONTEXTS]
    return first + int(np.argmax(inside)), CONTEXTS


def bins_of(z: Words) -> Counts:
    """Residuals by length and the two bits after the leading one."""
    wide = z.astype(np.int64)
    length = np.frexp(wide.astype(np.float64))[1].astype(np.int64)
    bits: Counts = 4 * (length - 1) + ((wide << 2) >> np.maximum(length - 1, 0) & 3) + 1
    return np.where(length == 0, 0, bits)


def take_survey(
    values: Words, prediction: Words, context: NDArray[np.uint8] | None, dtype: DType, whole: int | None = None
) -> Survey:
    """What a sample of at least one word tells.

    Args:
        whole: of how many words these are some rows.
    """
    bits, count = 8 * dtype.word_bytes, values.size
    taken = sample_positions(count, share_of(_SAMPLES, count, whole, _LEAST_SAMPLES))
    guess = prediction[taken]
    z = to_residual(values[taken], guess, dtype.kind)
    given = None if context is None else context[taken]
    key_shift = key_shift_of(dtype) if context is None else CONTEXT_ARRAY
    plain = Plan(0, 11, 6, key_shift, KEYS, 0, 0)
    low, contexts = _window(np.bincount(contexts_of(plain, guess, given), minlength=KEYS))
    c = contexts_of(Plan(0, 11, 6, key_shift, contexts, low, 0), guess, given)
    totals = np.bincount(c, minlength=contexts)
    found = bins_of(z)
    bins = np.bincount(c * _BINS + found, minlength=contexts * _BINS).reshape(contexts, _BINS)
    tops = np.bincount(c * SYMBOLS + (z >> z.dtype.type(bits - 8)), minlength=contexts * SYMBOLS)
    costs = _Costs(totals.tolist(), bins.tolist(), tops.reshape(contexts, SYMBOLS).tolist(), bits, z.size, count)
    best = min((costs.of_shift(shift) for shift in range(0, bits, 4)), key=lambda found: found[0])
    method, lanes_log2 = _form(best[0] // z.size * count >> 19, count)
    plan = Plan(best[1], 11, lanes_log2, key_shift, contexts, low, best[2], method=method)
    sizes = sizes_of(z, plan)
    means = means_of(sizes, c)
    return Survey(plan, best[0], z.size, spread_of(above_means(sizes, c, means)), tuple(means.tolist()))


def _form(size: int, count: int) -> tuple[int, int]:
    """The method, and the number of states, for a payload of about so many bytes."""
    lanes_log2 = 4 if size < _FEW_BELOW else 6
    if size < _FOUR_BELOW and count <= _MOST_WITH_FOUR:
        lanes_log2 = 0 if size < _ONE_BELOW else 2
    return (COMPACT if size < _COMPACT_BELOW else CODED), lanes_log2


def take_structure(values: Words, prediction: Words, dtype: DType) -> Structure:
    """What byte planes may gain from, in a sample of at least one word."""
    taken = sample_positions(values.size, _SAMPLES)
    z = to_residual(values[taken], prediction[taken], dtype.kind)
    return Structure(_planes_cost(z), z.size, _repeats(values, prediction, dtype))


def _planes_cost(z: Words) -> int:
    """By order 0, with Miller and Madow's term for what a sample misses; no plane takes more than its bytes."""
    total = 0
    planes = z.view(np.uint8).reshape(z.size, z.dtype.itemsize)
    for k in range(z.dtype.itemsize):
        counts = [n for n in np.bincount(planes[:, k]).tolist() if n]
        if len(counts) > 1:
            cost = _weight(z.size) - sum(map(_weight, counts)) + (len(counts) - 1) * _MISSED
            total += min(cost, z.size * 8 * _ONE)
    return total


def _repeats(values: Words, prediction: Words, dtype: DType) -> int:
    """Of consecutive residuals in the middle of the block, how many windows of 8 bytes occurred before among them."""
    length = min(values.size, _WINDOWS)
    start = (values.size - length) // 2
    z = to_residual(values[start : start + length], prediction[start : start + length], dtype.kind).astype(np.uint64)
    windows = max(0, length + 1 - _WINDOW_BYTES // dtype.word_bytes)
    found = np.zeros(windows, dtype=np.uint64)
    for k in range(_WINDOW_BYTES // dtype.word_bytes):
        found = found << np.uint64(8 * dtype.word_bytes) | z[k : k + windows]
    return windows - int(np.unique(found).size)


class _Costs:
    """What every shift would cost, by context."""

    def __init__(
        self, totals: list[int], bins: list[list[int]], tops: list[list[int]], bits: int, taken: int, count: int
    ) -> None:
        self._totals, self._bins, self._tops = totals, bins, tops
        self._bits, self._taken, self._count = bits, taken, count

    def _of_context(self, c: int, shift: int) -> int:
        if shift + 8 >= self._bits:
            plain, symbols = _top_cost(self._tops[c], self._totals[c], shift, self._bits)
        else:
            plain, symbols = _shift_cost(self._bins[c], self._totals[c], shift, self._bits)
        return plain + symbols * _SYMBOL_BITS * _ONE * self._taken // self._count

    def of_shift(self, shift: int) -> tuple[int, int, int]:
        """Cost, the shift, and which contexts keep one more byte."""
        total, extra = 0, 0
        for c in reversed(range(len(self._totals))):
            if not self._totals[c]:
                extra |= (extra >> 1) & (1 << c)
                continue
            cost = self._of_context(c, shift)
            if shift + 8 < self._bits and (more := self._of_context(c, shift + 8)) < cost:
                extra |= 1 << c
                cost = more
            total += cost
        return total, shift, extra
