"""From words to a payload."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.rans.compact import put_compact_tables
from deltackpt.codec.rans.lanes import encode_lanes
from deltackpt.codec.rans.layout import COMPACT, CONSTANT, ESCAPE, SYMBOLS, Survey, contexts_of, put_plan, share_of
from deltackpt.codec.rans.survey import sample_positions
from deltackpt.codec.rans.tables import normalize, put_tables
from deltackpt.codec.residual import Words, to_residual
from deltackpt.tensor.dtypes import DType

__all__ = ["encode"]

_SPARSE_Q16 = 1 << 15
_SAMPLES = {2: 1 << 17, 4: 1 << 16}
_ROW_SAMPLES, _LEAST_SAMPLES = {2: 4, 4: 2}, 1 << 13


def _raw_streams(z: Words, shift: int) -> bytes:
    rest = z.astype(np.uint64)
    parts: list[bytes] = []
    if shift & 16:
        parts.append(rest.astype("<u2").tobytes())
        rest >>= np.uint64(16)
    if shift & 8:
        parts.append(rest.astype(np.uint8).tobytes())
        rest >>= np.uint64(8)
    if shift & 4:
        nibbles = np.zeros((z.size + 1) // 2 * 2, dtype=np.uint8)
        nibbles[: z.size] = rest.astype(np.uint8) & 15
        parts.append((nibbles[::2] | nibbles[1::2] << 4).astype(np.uint8).tobytes())
    return b"".join(parts)


def _cells(high: NDArray[np.int64], contexts: NDArray[np.int64]) -> NDArray[np.int64]:
    return contexts * SYMBOLS + np.minimum(high, ESCAPE)


def _tables(cells: NDArray[np.int64], survey: Survey, samples: int) -> tuple[bytes, NDArray[np.int64]] | None:
    """The tables, and the frequencies that they say."""
    plan = survey.plan
    if survey.cost // survey.taken < _SPARSE_Q16:
        samples = max(samples, cells.size // 2)
    counts = np.bincount(cells[sample_positions(cells.size, samples)], minlength=plan.contexts * SYMBOLS)
    rows = counts.reshape(plan.contexts, SYMBOLS)
    sampled = cells.size > samples
    if plan.method == COMPACT:
        return put_compact_tables(rows, sampled, plan)
    frequencies = np.stack([normalize(row, sampled, plan.precision) for row in rows])
    return put_tables(frequencies), frequencies


def encode(
    values: Words,
    prediction: Words,
    context: NDArray[np.uint8] | None,
    dtype: DType,
    survey: Survey,
    whole: int | None = None,
) -> bytes | None:
    """The payload, or None where it would not be smaller than the words themselves.

    Args:
        values: at least one word of 2 or 4 bytes.
        prediction: as many words.
        context: as many bytes, or None to take the prediction's exponent.
        survey: of these words.
        whole: of how many words these are some rows.
    """
    raw, word = values.nbytes, dtype.word_bytes
    z = to_residual(values, prediction, dtype.kind)
    if bool((z == z[0]).all()):
        return bytes([CONSTANT]) + z[:1].tobytes() if z.size >= 3 else None
    plan = survey.plan
    c = contexts_of(plan, prediction, context)
    more = (plan.extra >> c & 1).astype(bool)
    high = z.astype(np.int64) >> plan.shifts()[c]
    cells = _cells(high, c)
    samples = _SAMPLES[word]
    if whole is not None:
        samples = share_of(_ROW_SAMPLES[word] * samples, values.size, whole, _LEAST_SAMPLES)
    found = _tables(cells, survey, samples)
    if found is None:
        return None
    tables, frequencies = found
    escaped = (high >= ESCAPE) | (frequencies.reshape(-1)[cells] == 0)
    words, states = encode_lanes(np.where(escaped, c * SYMBOLS + ESCAPE, cells), frequencies, plan)
    extras = (z[more] >> z.dtype.type(plan.shift)).astype(np.uint8)
    escapes = high[escaped].astype(dtype.word)
    plan = replace(plan, table_bytes=len(tables), words=words.size, extras=extras.size, escapes=escapes.size)
    raw_streams = _raw_streams(z, plan.shift)
    parts = (put_plan(plan), tables, raw_streams, words.tobytes(), extras.tobytes(), escapes.tobytes())
    payload = b"".join((*parts, states.tobytes()))
    return payload if len(payload) < raw else None
