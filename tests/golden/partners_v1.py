"""The blocks behind ``codec-v1/partners.pack``: predictors 5 and 6, with each of their kinds of input and term."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from deltackpt.codec.registry import LINEAR, SCALE
from deltackpt.tensor.dtypes import DType, by_name
from tests.codec import reference
from tests.golden.codec_v1 import noise, to_bytes

__all__ = ["PartnerCase", "partner_cases"]

F32 = by_name("float32")

_TERMS: dict[str, list[reference.Term]] = {
    "momentum": [(0, 0, 0, 0.0, 0.9999), (0, 1, 0, 0.0, -0.01)],
    "squares": [(0, 0, 0, 0.0, 0.95), (1, 1, 1, 0.0, 0.75), (1, 1, 3, 0.0, -0.5)],
    "ratios": [(0, 0, 0, 0.0, 1.0), (2, 1, 2, 1e-8, -3e-4), (2, 3, 4, 1e-8, -2e-4)],
    "signs": [(0, 0, 0, 0.0, 0.999), (3, 1, 3, 0.9, -1e-3)],
}


@dataclass(frozen=True, slots=True)
class PartnerCase:
    """One block, and what it is predicted from.

    Attributes:
        inputs: by slot, the dtype and words.
        coder: the id of the one that it was written with.
    """

    name: str
    dtype: DType
    words: tuple[int, ...]
    inputs: dict[int, tuple[DType, tuple[int, ...]]]
    predictor: int
    params: bytes
    coder: int

    @property
    def data(self) -> bytes:
        return to_bytes(self.words, self.dtype)


def _values(seed: int, low: int, high: int, *, signs: bool = True) -> tuple[int, ...]:
    """Float32 words with exponents from ``low`` to ``high``; zero, infinity, a NaN and a denormal among them."""
    found = []
    for word in noise(32, seed):
        exponent = low + (word >> 23 & 0xFF) % (high - low + 1)
        found.append((word & 0x80000000 if signs else 0) | exponent << 23 | word & 0x7FFFFF)
    found[10], found[20], found[30], found[40] = 0, 0x7F800000, 0x7FC12345, 1
    return tuple(found)


def partner_cases() -> Iterator[PartnerCase]:
    """First moments beside second ones of both dtypes, and a sum of every kind of term."""
    second = _values(14, 92, 100, signs=False)
    for name, shift in (("float32", 0), ("bfloat16", 16)):
        scale = tuple(word >> shift for word in second)
        # The size of the root of the scale, with a sign and three bits of mantissa.
        sized = zip(scale, noise(32, 15), strict=True)
        first = tuple(k & 0x80700000 | (reference.scale_context(s, name) + 63) << 23 for s, k in sized)
        yield PartnerCase(f"beside {name}", F32, first, {0: (by_name(name), scale)}, SCALE, b"", 2)
    slots = {0: _values(11, 110, 126), 1: _values(12, 95, 115), 2: second, 3: _values(13, 95, 115), 4: second[::-1]}
    for name, terms in _TERMS.items():
        used = {0} | {slot for op, a, b, *_ in terms for slot in ((a, b) if op else (a,))}
        predicted = (reference.linear([slots[slot][k] for slot in range(5)], terms) for k in range(len(slots[0])))
        # Two places beside the prediction everywhere, so that the planes are constant.
        words = tuple(reference.shifted(word, 2, 32, "float") for word in predicted)
        params = bytes([len(terms)]) + b"".join(struct.pack("<BBBdd", *term) for term in terms)
        inputs = {slot: (F32, slots[slot]) for slot in sorted(used)}
        yield PartnerCase(name, F32, words, inputs, LINEAR, params, 1)
