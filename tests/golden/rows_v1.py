"""The blocks behind ``codec-v1/rows.pack``: coder 4, with both numbers of classes, and the script that wrote it, once.

Refuses to write over it: ``python -m tests.golden.rows_v1`` from the repository's root.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deltackpt.codec import registry
from deltackpt.codec.coders.rans import Rans
from deltackpt.codec.coders.rows import Rows
from deltackpt.codec.types import Prediction, Shape, Slot
from deltackpt.codec.workspace import Workspace
from deltackpt.format.hashing import address
from deltackpt.format.pack import PackBuilder
from deltackpt.format.record import Need, Record, encode_record
from deltackpt.tensor.dtypes import DType, by_name
from tests.codec.reference import shifted
from tests.golden.codec_v1 import to_bytes

__all__ = ["FILE", "RowsCase", "rows_cases", "rows_record"]

FILE = Path(__file__).parent / "codec-v1" / "rows.pack"
PACK_ID = bytes(range(64, 80))


@dataclass(frozen=True, slots=True)
class RowsCase:
    """One block.

    Attributes:
        words: the block.
        base: what slot 0 holds, if anything.
        predictor: what becomes of slot 0: 1, previous, or 5, scale.
        row_log2: of the words of a row.
        class_bits: of the number of a class.
    """

    name: str
    dtype: DType
    words: tuple[int, ...]
    base: tuple[int, ...] | None
    predictor: int
    row_log2: int
    class_bits: int

    def prediction(self) -> Prediction:
        """What its predictor makes of the base."""
        values = np.array(() if self.base is None else self.base, self.dtype.word)
        inputs = {} if self.base is None else {0: Slot(self.dtype, values)}
        shape = Shape(self.dtype, len(self.words))
        return registry.predictor(self.predictor, source="golden").predict(shape, inputs, b"", source="golden")


def _noise(count: int, seed: int) -> list[int]:
    """Numbers below 2^64 from a multiplicative generator modulo 2^127 - 1."""
    state, found = seed, []
    for _ in range(count):
        state = state * 48271 * 0x9E3779B97F4A7C15 % ((1 << 127) - 1)
        found.append(state >> 40 & ((1 << 64) - 1))
    return found


def rows_cases() -> Iterator[RowsCase]:
    """Rows that move by 0, by 1, by some and by many places; with and without words after the last row."""
    for name, count, row_log2, class_bits in (
        ("float32", 3000, 6, 2),
        ("bfloat16", 4096, 8, 2),
        ("bfloat16", 2111, 6, 1),
        ("float16", 1500, 7, 2),
        ("int32", 2560, 8, 1),
        ("uint16", 1100, 6, 2),
    ):
        dtype, drawn = by_name(name), _noise(count, 5000 + count)
        bits = 8 * dtype.word_bytes
        exponent = 0x3C << (bits - 8)
        base = tuple((k & 1) << (bits - 1) | exponent + ((k >> 1 & 3) << (bits - 9)) | k >> 40 & 0x3F for k in drawn)
        masks = (0, 1, 7, 63)
        moved = tuple(
            shifted(p, k >> 9 & masks[(drawn[i >> row_log2] >> 5) % 4], bits, dtype.kind)
            for i, (p, k) in enumerate(zip(base, drawn, strict=True))
        )
        yield RowsCase(f"{name} {count}", dtype, moved, base, 1, row_log2, class_bits)
    count, dtype = 2500, by_name("float32")
    drawn = _noise(count, 9)
    second = tuple(
        (0x60 + 4 * (drawn[i >> 6] >> 5 & 3) + (k & 1)) << 23 | k >> 30 & 0xFFFF for i, k in enumerate(drawn)
    )
    first = tuple(
        (v >> 24) + (drawn[i >> 6] >> 9 & 3) + 0x20 << 23 | (k & 1) << 31 | k >> 20 & 0x7FFFF
        for i, (v, k) in enumerate(zip(second, drawn, strict=True))
    )
    yield RowsCase("beside a scale", dtype, first, second, 5, 6, 1)
    yield RowsCase("alone", dtype, first, None, 0, 6, 2)


def rows_record(case: RowsCase) -> bytes:
    """The record of a case as this version of the package writes it with coder 4."""
    data = to_bytes(case.words, case.dtype)
    values, guess = np.frombuffer(data, case.dtype.word), case.prediction()
    needs: tuple[Need, ...] = ()
    if case.base is not None:
        needs = (Need(0, case.dtype.code, address(to_bytes(case.base, case.dtype)), None),)
    shape, space, coder = Shape(case.dtype, values.size), Workspace(), Rows(row_log2=case.row_log2)
    survey = Rans().survey(values, guess, shape, space)
    out = np.empty(coder.bound(shape), np.uint8)
    length = coder.encode(values, guess, shape, survey, case.class_bits, out, space)
    assert length is not None, case.name
    ids = (case.dtype.code, case.predictor, coder.id)
    return encode_record(Record(*ids, address(data), (values.size,), needs, b"", out[:length].tobytes()))


if __name__ == "__main__":
    builder = PackBuilder(PACK_ID)
    for case in rows_cases():
        builder.add(rows_record(case))
    with FILE.open("xb") as file:
        file.write(builder.finish())
