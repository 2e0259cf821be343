"""The blocks behind ``codec-v1/mean.pack``: one for each dtype, 2 places beside the mean of two bases everywhere.

So their planes are constant, and they encode to the same bytes wherever they are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deltackpt.tensor.dtypes import DTYPES, DType
from tests.codec import reference
from tests.golden.codec_v1 import noise, to_bytes


@dataclass(frozen=True, slots=True)
class MeanCase:
    """One block, and the two it is predicted from."""

    dtype: DType
    words: tuple[int, ...]
    bases: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def data(self) -> bytes:
        return to_bytes(self.words, self.dtype)


def mean_cases() -> Iterator[MeanCase]:
    """A block of each dtype, of words with every pattern of bits, in the order of codes."""
    for dtype in sorted(DTYPES, key=lambda d: d.code):
        bits = 8 * dtype.word_bytes
        one, other = (tuple(noise(bits, seed)) for seed in (1, 2))
        means = (reference.mean(a, b, bits, dtype.kind) for a, b in zip(one, other, strict=True))
        yield MeanCase(dtype, tuple(reference.shifted(m, 2, bits, dtype.kind) for m in means), (one, other))
