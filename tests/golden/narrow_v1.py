"""The blocks behind ``codec-v1/narrow.pack``: coder 3, with both methods, and the script that wrote it, once.

Refuses to write over it: ``python -m tests.golden.narrow_v1`` from the repository's root.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deltackpt.codec.coders.narrow import Narrow
from deltackpt.codec.types import Prediction, Shape
from deltackpt.codec.workspace import Workspace
from deltackpt.format.hashing import address
from deltackpt.format.pack import PackBuilder
from deltackpt.format.record import Need, Record, encode_record
from deltackpt.tensor.dtypes import DType, by_name
from tests.codec.reference import shifted
from tests.golden.codec_v1 import noise, to_bytes

__all__ = ["FILE", "NarrowCase", "narrow_cases", "narrow_record"]

FILE = Path(__file__).parent / "codec-v1" / "narrow.pack"
PACK_ID = bytes(range(48, 64))


@dataclass(frozen=True, slots=True)
class NarrowCase:
    """One block, and the base that it is predicted from, if any."""

    name: str
    dtype: DType
    words: tuple[int, ...]
    base: tuple[int, ...] | None = None


def narrow_cases() -> Iterator[NarrowCase]:
    """Shifts to two and four bytes, of floats and integers, and lists."""
    drawn = noise(32, 21)
    halves = tuple(0x3F00 | (k & 0x8000) | k >> 16 & 0x3F for k in drawn)
    moved = tuple(
        shifted(h, (k >> 3 & 1) - (k >> 4 & 1), 16, "float") << 16 for h, k in zip(halves, drawn, strict=True)
    )
    yield NarrowCase("bfloat16 in float32", by_name("float32"), tuple(h << 16 for h in halves))
    yield NarrowCase("beside a base", by_name("float32"), moved, tuple(h << 16 for h in halves))
    yield NarrowCase("float32 of 20 bits", by_name("float32"), tuple(h << 16 | (h & 0xF) << 12 for h in halves))
    yield NarrowCase("counts", by_name("int64"), tuple(k >> 8 & 0x1F for k in drawn))
    yield NarrowCase("large counts", by_name("uint64"), tuple((k >> 8 & 0x1F) << 20 | k & 7 for k in drawn))
    values = (0x3F800000, 0xBF800000, 0, 0x7FC12345, 0x80000000)
    yield NarrowCase("few values", by_name("float32"), tuple(values[min(k % 16, 4)] for k in drawn))
    yield NarrowCase("bytes", by_name("float8_e4m3fn"), tuple(0x30 | (k & 0x80) | k >> 9 & 3 for k in drawn))


def narrow_record(case: NarrowCase) -> bytes:
    """The record of a case as this version of the package writes it with coder 3."""
    data = to_bytes(case.words, case.dtype)
    values = np.frombuffer(data, case.dtype.word)
    needs: tuple[Need, ...] = ()
    guess = Prediction()
    if case.base is not None:
        base = to_bytes(case.base, case.dtype)
        needs = (Need(0, case.dtype.code, address(base), None),)
        guess = Prediction(np.frombuffer(base, case.dtype.word))
    shape = Shape(case.dtype, values.size)
    payload = Narrow().encode(values, guess, shape, len(data), Workspace())
    assert payload is not None, case.name
    ids = (case.dtype.code, 1 if needs else 0, 3)
    return encode_record(Record(*ids, address(data), (values.size,), needs, b"", payload))


if __name__ == "__main__":
    builder = PackBuilder(PACK_ID)
    for case in narrow_cases():
        builder.add(narrow_record(case))
    with FILE.open("xb") as file:
        file.write(builder.finish())
