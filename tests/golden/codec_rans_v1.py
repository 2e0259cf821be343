"""The blocks behind ``codec-rans-v1/blocks.pack``, computed on Python's integers so that no library can change them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deltackpt.tensor.dtypes import DTYPES, DType
from tests.codec.reference import shifted

__all__ = ["Case", "cases", "to_bytes"]


@dataclass(frozen=True, slots=True)
class Case:
    """One block.

    Attributes:
        name: of the case, such as ``"float32 sparse"``.
        words: the block.
        base: what it is predicted from, if anything.
    """

    name: str
    dtype: DType
    words: tuple[int, ...]
    base: tuple[int, ...] | None


def to_bytes(words: tuple[int, ...], dtype: DType) -> bytes:
    return b"".join(word.to_bytes(dtype.word_bytes, "little") for word in words)


def _noise(count: int, seed: int) -> list[int]:
    """Numbers below 2^64 from a multiplicative generator modulo 2^127 - 1."""
    state, found = seed, []
    for _ in range(count):
        state = state * 48271 * 0x9E3779B97F4A7C15 % ((1 << 127) - 1)
        found.append(state >> 40 & ((1 << 64) - 1))
    return found


def _geometric(number: int, most: int) -> int:
    """0 for half of all numbers, 1 for a quarter of them, and so on."""
    return min(most, (number & -number).bit_length() - 1 if number else most)


def cases() -> Iterator[Case]:
    """For every dtype of two and four byte words, few lanes and many: five ways to differ from a base, and none."""
    for dtype in DTYPES:
        if dtype.word_bytes not in (2, 4):
            continue
        bits = 8 * dtype.word_bytes
        for count in (300, 8302):
            drawn = _noise(count, 1000 + dtype.code)
            # Exponents of one half and below, as weights have them.
            base = tuple(
                (k & 1) << (bits - 1) | ((0x3F << (bits - 8)) - (_geometric(k >> 1, 8) << (bits - 9))) | k >> 40 & 0x3F
                for k in drawn
            )
            steps = {
                "constant": [-3] * count,
                "small": [_geometric(k >> 20, 40) * (1 - 2 * (k >> 19 & 1)) for k in drawn],
                "wide": [(k >> 30 & (1 << (bits // 4 + _geometric(k >> 1, 6))) - 1) - 9 for k in drawn],
                "sparse": [(k >> 10 & 7) - 3 if k % 100 == 0 else 0 for k in drawn],
                "outliers": [k >> 9 & (1 << bits) - 1 if k % 50 == 0 else k >> 9 & 15 for k in drawn],
            }
            for name, moved in steps.items():
                words = tuple(shifted(p, r, bits, dtype.kind) for p, r in zip(base, moved, strict=True))
                yield Case(f"{dtype.name} {count} {name}", dtype, words, base)
            yield Case(f"{dtype.name} {count} alone", dtype, base, None)
