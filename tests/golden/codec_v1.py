"""The blocks behind ``codec-v1/blocks.pack``, computed on Python's integers so that no library can change them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deltackpt.tensor.dtypes import DTYPES, DType
from tests.codec.reference import shifted

WORDS = 256


@dataclass(frozen=True, slots=True)
class Case:
    """One block.

    Attributes:
        name: of the case, such as ``"float32 sparse"``.
        words: the block.
        base: what it is predicted from, if anything.
        predictor, coder: ids of those that it was written with.
        exact: whether it encodes to the same bytes everywhere: where no plane is a zstd frame.
    """

    name: str
    dtype: DType
    words: tuple[int, ...]
    base: tuple[int, ...] | None
    predictor: int
    coder: int
    exact: bool

    @property
    def data(self) -> bytes:
        return to_bytes(self.words, self.dtype)


def to_bytes(words: tuple[int, ...], dtype: DType) -> bytes:
    return b"".join(word.to_bytes(dtype.word_bytes, "little") for word in words)


def noise(bits: int, seed: int) -> tuple[int, ...]:
    """Words from a multiplicative generator modulo 2^127 - 1."""
    state, found = seed, []
    for _ in range(WORDS):
        state = state * 48271 * 0x9E3779B97F4A7C15 % ((1 << 127) - 1)
        found.append(state >> 40 & ((1 << bits) - 1))
    return tuple(found)


def cases() -> Iterator[Case]:
    """For every dtype: noise, one value, and three ways to differ from a base."""
    for dtype in DTYPES:
        bits = 8 * dtype.word_bytes
        base = noise(bits, 1000 + dtype.code)

        def moved(steps: list[int], base: tuple[int, ...] = base, dtype: DType = dtype) -> tuple[int, ...]:
            width = 8 * dtype.word_bytes
            return tuple(shifted(word, r, width, dtype.kind) for word, r in zip(base, steps, strict=True))

        yield Case(f"{dtype.name} noise", dtype, base, None, 0, 0, exact=True)
        yield Case(f"{dtype.name} constant", dtype, (base[0],) * WORDS, None, 0, 1, exact=True)
        yield Case(f"{dtype.name} shifted", dtype, moved([-3] * WORDS), base, 1, 1, exact=True)
        # Every residual from 0 to 255 once: the lowest plane is noise and kept raw, the others are constant.
        if bits > 8:
            steps = [(k * 77) % 256 - 128 for k in range(WORDS)]
            yield Case(f"{dtype.name} near", dtype, moved(steps), base, 1, 1, exact=True)
        sparse = [(k % 7 + 1) << (bits // 2) if k % 16 == 5 else 0 for k in range(WORDS)]
        yield Case(f"{dtype.name} sparse", dtype, moved(sparse), base, 1, 1, exact=False)
