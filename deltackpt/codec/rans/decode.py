"""From a payload to words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.rans.compact import get_compact_tables
from deltackpt.codec.rans.lanes import decode_lanes
from deltackpt.codec.rans.layout import COMPACT, CONSTANT, ESCAPE, Plan, contexts_of, parse_plan, streams
from deltackpt.codec.rans.tables import get_tables
from deltackpt.codec.residual import Words, from_residual
from deltackpt.errors import CorruptObjectError, TruncatedObjectError
from deltackpt.tensor.dtypes import DType

__all__ = ["decode"]


def _fail(message: str, source: str) -> CorruptObjectError:
    return CorruptObjectError(f"rans payload: {message}", where=source)


def _exactly(payload: memoryview, length: int, source: str) -> None:
    if len(payload) < length:
        raise TruncatedObjectError(f"rans payload ends after {len(payload)} of {length} bytes", where=source)
    if len(payload) > length:
        raise _fail(f"{len(payload) - length} bytes left over", source)


def _split(payload: memoryview, at: int, plan: Plan, words: int, word_bytes: int, source: str) -> dict[str, memoryview]:
    parts: dict[str, memoryview] = {}
    if plan.method == COMPACT:
        # The words are what the head's numbers leave.
        left = len(payload) - at - sum(length for _, length in streams(plan, words, word_bytes))
        plan = replace(plan, words=max(left, 0) // 2)
    lengths = streams(plan, words, word_bytes)
    _exactly(payload, at + sum(length for _, length in lengths), source)
    for name, length in lengths:
        parts[name] = payload[at : at + length]
        at += length
    return parts


def _raw_bits(parts: dict[str, memoryview], shift: int, words: int, source: str) -> NDArray[np.uint64]:
    low, at = np.zeros(words, dtype=np.uint64), 0
    if shift & 16:
        low |= np.frombuffer(parts["wide"], dtype="<u2").astype(np.uint64)
        at = 16
    if shift & 8:
        low |= np.frombuffer(parts["byte"], dtype=np.uint8).astype(np.uint64) << np.uint64(at)
        at += 8
    if shift & 4:
        packed = np.frombuffer(parts["nibble"], dtype=np.uint8)
        nibbles = np.stack((packed & 15, packed >> 4), axis=1).reshape(-1)
        if words % 2 and nibbles[-1]:
            raise _fail("a bit beyond the last element", source)
        low |= nibbles[:words].astype(np.uint64) << np.uint64(at)
    return low


def _merge(target: NDArray[np.int64], where: NDArray[np.bool_], stream: NDArray[np.int64], source: str) -> None:
    if int(np.count_nonzero(where)) != stream.size:
        raise _fail("a stream does not hold what the symbols ask for", source)
    target[where] = stream


def decode(
    payload: memoryview, prediction: Words, context: NDArray[np.uint8] | None, dtype: DType, *, source: str
) -> Words:
    """The words, as many as the prediction has.

    Raises:
        CorruptObjectError: the payload is not one that :func:`~deltackpt.codec.rans.encode` wrote.
    """
    words, word_bytes = prediction.size, dtype.word_bytes
    if len(payload) < 1:
        raise TruncatedObjectError("rans payload is empty", where=source)
    if payload[0] == CONSTANT:
        _exactly(payload, 1 + word_bytes, source)
        z: Words = np.repeat(np.frombuffer(payload[1:], dtype=dtype.word), words)
        return from_residual(z, prediction, dtype.kind)
    if payload[0] > COMPACT:
        raise _fail(f"unknown method {payload[0]}", source)
    plan, head = parse_plan(payload, word_bytes, context is not None, source=source)
    parts = _split(payload, head, plan, words, word_bytes, source)
    read_tables = get_compact_tables if plan.method == COMPACT else get_tables
    frequencies = read_tables(parts["tables"], plan, source=source)
    low = _raw_bits(parts, plan.shift, words, source)
    c = contexts_of(plan, prediction, context)
    stream = np.frombuffer(parts["words"], dtype="<u2")
    states = np.frombuffer(parts["states"], dtype="<u4")
    high = decode_lanes(c, frequencies, plan, stream, states, source=source)
    _merge(high, high == ESCAPE, np.frombuffer(parts["escapes"], dtype=dtype.word).astype(np.int64), source)
    extras = np.zeros(words, dtype=np.int64)
    _merge(extras, (plan.extra >> c & 1) == 1, np.frombuffer(parts["extras"], dtype=np.uint8).astype(np.int64), source)
    top = high.astype(np.uint64) << plan.shifts()[c].astype(np.uint64)
    z = (low | extras.astype(np.uint64) << np.uint64(plan.shift) | top).astype(dtype.word)
    return from_residual(z, prediction, dtype.kind)
