"""The fixed part of a payload, and the limits that both sides keep."""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.residual import Words
from deltackpt.errors import CorruptObjectError, TruncatedObjectError
from deltackpt.tensor.dtypes import DType

__all__ = [
    "CODED",
    "COMPACT",
    "CONSTANT",
    "CONTEXTS",
    "CONTEXT_ARRAY",
    "ESCAPE",
    "LOWEST_STATE",
    "STATE_BITS",
    "SYMBOLS",
    "Plan",
    "Structure",
    "Survey",
    "contexts_of",
    "key_shift_of",
    "parse_plan",
    "put_plan",
    "share_of",
    "streams",
]

CONSTANT, CODED, COMPACT = 0, 1, 2
CONTEXTS, SYMBOLS, ESCAPE = 16, 256, 255
KEYS = 2048
STATE_BITS = 31
LOWEST_STATE = 1 << 15
CONTEXT_ARRAY = 255

_HEADER = struct.Struct("<BBBBBBHHIIII")
_COMPACT_HEADER = struct.Struct("<BBBB")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a block is coded: the fields of a payload's head.

    Attributes:
        shift: bits below the symbol that are kept raw.
        precision: the frequencies of a context sum to ``1 << precision``.
        lanes_log2: of the number of states.
        key_shift: what of the prediction is the key of a context; ``CONTEXT_ARRAY`` for a given array.
        contexts: how many contexts.
        low: the key of context 0.
        extra: bit c: context c keeps one more raw byte.
        table_bytes, words, extras, escapes: lengths of the streams, in bytes, 16-bit words, bytes and words.
        method: of the payload: CODED, or COMPACT, where head and tables are shorter.
    """

    shift: int
    precision: int
    lanes_log2: int
    key_shift: int
    contexts: int
    low: int
    extra: int
    table_bytes: int = 0
    words: int = 0
    extras: int = 0
    escapes: int = 0
    method: int = CODED

    @property
    def lanes(self) -> int:
        """The number of states."""
        return 1 << self.lanes_log2

    def shifts(self) -> NDArray[np.int64]:
        """Raw bits of each context."""
        return np.array([self.shift + 8 * (self.extra >> c & 1) for c in range(self.contexts)])


@dataclass(frozen=True, slots=True)
class Survey:
    """What a sample tells of a block and one prediction: all that a choice and encoding take.

    Attributes:
        plan: how the block is best coded, without the lengths.
        cost: of the sample by that plan, in 1/65536 bits.
        taken: elements of the sample.
        spread: 1024 times the variance between runs of 64 elements over that within them, of how large residuals are
            beside others of their context, without what chance makes of it.
        sizes: the mean size of residuals in each of 16 contexts, in sixteenths of a quarter of an octave.
    """

    plan: Plan
    cost: int
    taken: int
    spread: int
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Structure:
    """What byte planes may gain from.

    Attributes:
        planes: what the bytes of a sample cost, by how often each occurs in its plane, in 1/65536 bits.
        taken: elements of the sample.
        repeats: windows of 8 bytes of the residual, in the middle of the block, that occurred there before.
    """

    planes: int
    taken: int
    repeats: int


def share_of(samples: int, words: int, whole: int | None, least: int) -> int:
    """Of so many samples of a block of ``whole`` words those that fall on ``words`` of them, at least some; all, where
    it is None."""
    return samples if whole is None else max(samples * words // whole, least)


def key_shift_of(dtype: DType) -> int:
    """How far a prediction is shifted, after its sign was shifted out, so that its exponent is left."""
    if dtype.name in ("float16", "complex32"):
        return 11
    return 8 * dtype.word_bytes - 8


def contexts_of(plan: Plan, prediction: Words, context: NDArray[np.uint8] | None) -> NDArray[np.int64]:
    """The context of every element, below ``plan.contexts``."""
    if plan.key_shift == CONTEXT_ARRAY:
        assert context is not None
        key = context.astype(np.int64)
    else:
        one, by = prediction.dtype.type(1), prediction.dtype.type(plan.key_shift)
        key = ((prediction << one) >> by).astype(np.int64)
    return np.clip(key - plan.low, 0, plan.contexts - 1)


def put_plan(plan: Plan) -> bytes:
    """The head of a coded payload."""
    if plan.method == CODED:
        return _HEADER.pack(CODED, *astuple(plan)[:-1])
    packed = plan.shift // 4 | plan.precision - 9 << 3 | plan.lanes_log2 // 2 << 5
    head = bytearray(_COMPACT_HEADER.pack(COMPACT, packed, plan.key_shift, plan.contexts))
    extras = (plan.extras,) if plan.extra else ()
    for number in (plan.low, plan.extra, plan.table_bytes, plan.escapes, *extras):
        while number >> 7:
            head.append(number & 127 | 128)
            number >>= 7
        head.append(number)
    return bytes(head)


def _fail(message: str, source: str) -> CorruptObjectError:
    return CorruptObjectError(f"rans payload: {message}", where=source)


def parse_plan(payload: memoryview, word_bytes: int, has_context: bool, *, source: str) -> tuple[Plan, int]:
    """The head, with every field in its range, and its length."""
    if payload[0] == COMPACT:
        plan, length = _parse_compact(payload, source)
    elif len(payload) < _HEADER.size:
        raise TruncatedObjectError("rans payload ends in its header", where=source)
    else:
        plan, length = Plan(*_HEADER.unpack(payload[: _HEADER.size])[1:]), _HEADER.size
    bits = 8 * word_bytes
    good = (
        plan.shift % 4 == 0
        and plan.shift < bits
        and 9 <= plan.precision <= 12
        and plan.lanes_log2 in ((0, 2, 4, 6) if plan.method == COMPACT else (4, 6))
        and 1 <= plan.contexts <= CONTEXTS
        and plan.low < KEYS
        and plan.extra >> plan.contexts == 0
        and (plan.extra == 0 or plan.shift + 8 < bits)
    )
    if plan.key_shift == CONTEXT_ARRAY:
        good = good and has_context
    else:
        good = good and max(1, bits - 11) <= plan.key_shift < bits
    if not good:
        raise _fail("a field of the header is out of its range", source)
    return plan, length


def _parse_compact(payload: memoryview, source: str) -> tuple[Plan, int]:
    at = _COMPACT_HEADER.size
    if len(payload) < at:
        raise TruncatedObjectError("rans payload ends in its header", where=source)
    _, packed, key_shift, contexts = _COMPACT_HEADER.unpack(payload[:at])
    numbers: list[int] = []
    while len(numbers) < (5 if len(numbers) > 1 and numbers[1] else 4):
        end = next((k + 1 for k in range(at, min(at + 5, len(payload))) if payload[k] < 128), None)
        if end is None and len(payload) < at + 5:
            raise TruncatedObjectError("rans payload ends in its header", where=source)
        if end is None or (end - at > 1 and payload[end - 1] == 0):
            raise _fail("a field of the header is out of its range", source)
        number = sum((payload[k] & 127) << 7 * (k - at) for k in range(at, end))
        if packed >> 7 or number >> 32:
            raise _fail("a field of the header is out of its range", source)
        numbers.append(number)
        at = end
    fields = (4 * (packed & 7), 9 + (packed >> 3 & 3), 2 * (packed >> 5 & 3), key_shift, contexts)
    low, extra, table_bytes, escapes, *extras = numbers
    return Plan(*fields, low, extra, table_bytes, 0, sum(extras), escapes, COMPACT), at


def streams(plan: Plan, words: int, word_bytes: int) -> list[tuple[str, int]]:
    """Names and lengths in bytes of what follows the header, in order."""
    return [
        ("tables", plan.table_bytes),
        ("wide", 2 * words if plan.shift & 16 else 0),
        ("byte", words if plan.shift & 8 else 0),
        ("nibble", (words + 1) // 2 if plan.shift & 4 else 0),
        ("words", 2 * plan.words),
        ("extras", plan.extras),
        ("escapes", plan.escapes * word_bytes),
        ("states", 4 * plan.lanes),
    ]
