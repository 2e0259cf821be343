"""Wrote ``codec-v1/mean.pack``; refuses to write over it. Run from the repository's root."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deltackpt.codec import registry
from deltackpt.codec.coders.planes import Planes
from deltackpt.codec.types import Shape, Slot
from deltackpt.format.hashing import address
from deltackpt.format.pack import PackBuilder
from deltackpt.format.record import Need, Record, encode_record
from tests.golden.codec_v1 import to_bytes
from tests.golden.mean_v1 import MeanCase, mean_cases

FILE = Path(__file__).parent / "codec-v1" / "mean.pack"
PACK_ID = bytes(range(32, 48))


def mean_record(case: MeanCase) -> bytes:
    """The record of a case as this version of the package writes it."""
    dtype = case.dtype
    shape = Shape(dtype, len(case.words))
    inputs = {slot: Slot(dtype, np.array(words, dtype.word)) for slot, words in enumerate(case.bases)}
    prediction = registry.predictor(registry.MEAN, source="golden").predict(shape, inputs, b"", source="golden")
    needs = [Need(slot, dtype.code, address(to_bytes(words, dtype)), None) for slot, words in enumerate(case.bases)]
    return encode_record(
        Record(
            dtype=dtype.code,
            predictor=registry.MEAN,
            coder=Planes().id,
            address=address(case.data),
            shape=(len(case.data) // dtype.itemsize,),
            needs=tuple(needs),
            params=b"",
            payload=Planes().encode(np.frombuffer(case.data, dtype.word), prediction, shape, level=1),
        )
    )


def mean_pack() -> bytes:
    """A pack with the record of every case."""
    builder = PackBuilder(PACK_ID)
    for case in mean_cases():
        builder.add(mean_record(case))
    return bytes(builder.finish())


if __name__ == "__main__":
    with FILE.open("xb") as file:
        file.write(mean_pack())
