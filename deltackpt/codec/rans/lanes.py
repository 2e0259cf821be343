"""Interleaved static rANS: element i is coded by state i mod lanes, forward; decoded backward."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.rans.layout import LOWEST_STATE, STATE_BITS, SYMBOLS, Plan
from deltackpt.errors import CorruptObjectError

__all__ = ["decode_lanes", "encode_lanes"]


def encode_lanes(
    cells: NDArray[np.int64], frequencies: NDArray[np.int64], plan: Plan
) -> tuple[NDArray[np.uint16], NDArray[np.uint32]]:
    """The words and the last states for symbols given as ``context * 256 + symbol``, none of frequency 0."""
    starts = np.cumsum(frequencies, axis=1) - frequencies
    f_of, start_of = frequencies.reshape(-1)[cells], starts.reshape(-1)[cells]
    limit_of = f_of << (STATE_BITS - plan.precision)
    states = np.full(plan.lanes, LOWEST_STATE, dtype=np.int64)
    words: list[NDArray[np.int64]] = []
    for at in range(0, cells.size, plan.lanes):
        f, limit = f_of[at : at + plan.lanes], limit_of[at : at + plan.lanes]
        x = states[: f.size]
        full = x >= limit
        words.append(x[full] & 0xFFFF)
        x = np.where(full, x >> 16, x)
        quotient = x // f
        states[: f.size] = (quotient << plan.precision) + (x - quotient * f) + start_of[at : at + plan.lanes]
    return np.concatenate(words).astype("<u2"), states.astype("<u4")


def decode_lanes(
    contexts: NDArray[np.int64],
    frequencies: NDArray[np.int64],
    plan: Plan,
    words: NDArray[np.uint16],
    states: NDArray[np.uint32],
    *,
    source: str,
) -> NDArray[np.int64]:
    """The symbols.

    Raises:
        CorruptObjectError: the words are too few or too many, or the states do not end where the encoder began.
    """
    slots = 1 << plan.precision
    cell = np.repeat(np.arange(frequencies.size), frequencies.reshape(-1))
    f_of = frequencies.reshape(-1)[cell]
    starts = (np.cumsum(frequencies, axis=1) - frequencies).reshape(-1)[cell]
    symbol_of = cell % SYMBOLS
    bias_of = np.tile(np.arange(slots), plan.contexts) - starts
    first = contexts << plan.precision
    out = np.empty(contexts.size, dtype=np.int64)
    stream, left = words.astype(np.int64), words.size
    lanes = states.astype(np.int64)
    if bool(((lanes < LOWEST_STATE) | (lanes >> STATE_BITS > 0)).any()):
        raise CorruptObjectError("rans payload: a state is out of its range", where=source)
    for at in reversed(range(0, contexts.size, plan.lanes)):
        base = first[at : at + plan.lanes]
        x = lanes[: base.size]
        entry = base + (x & (slots - 1))
        out[at : at + plan.lanes] = symbol_of[entry]
        x = f_of[entry] * (x >> plan.precision) + bias_of[entry]
        empty = x < LOWEST_STATE
        taken = int(np.count_nonzero(empty))
        if taken > left:
            raise CorruptObjectError("rans payload: its words end early", where=source)
        x[empty] = x[empty] << 16 | stream[left - taken : left]
        left -= taken
        lanes[: base.size] = x
    if left or bool((lanes != LOWEST_STATE).any()):
        raise CorruptObjectError("rans payload: its states do not end where they should", where=source)
    return out
