"""Wrote ``codec-v1/blocks.pack``; refuses to write over it. Run from the repository's root."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deltackpt.codec import registry
from deltackpt.codec.coders.planes import Planes
from deltackpt.codec.types import Shape, Slot
from deltackpt.format.hashing import address
from deltackpt.format.pack import PackBuilder
from deltackpt.format.record import Need, Record, encode_record
from tests.golden.codec_v1 import WORDS, Case, cases, to_bytes

FILE = Path(__file__).parent / "codec-v1" / "blocks.pack"
PACK_ID = bytes(range(16))


def record_of(case: Case) -> bytes:
    """The record of a case as this version of the package writes it with the case's predictor and coder."""
    shape = Shape(case.dtype, WORDS)
    predictor = registry.predictor(case.predictor, source=case.name)
    inputs: dict[int, Slot] = {}
    needs: tuple[Need, ...] = ()
    if case.base is not None:
        base = to_bytes(case.base, case.dtype)
        inputs[0] = Slot(case.dtype, np.frombuffer(base, case.dtype.word))
        needs = (Need(0, case.dtype.code, address(base), None),)
    values = np.frombuffer(case.data, case.dtype.word)
    params = predictor.fit(values, shape, inputs)
    assert params is not None
    prediction = predictor.predict(shape, inputs, params, source=case.name)
    payload = Planes().encode(values, prediction, shape, level=1) if case.coder else values.tobytes()
    return encode_record(
        Record(
            dtype=case.dtype.code,
            predictor=predictor.id,
            coder=case.coder,
            address=address(case.data),
            shape=(len(case.data) // case.dtype.itemsize,),
            needs=needs,
            params=params,
            payload=payload,
        )
    )


def pack() -> bytes:
    """A pack with the record of every case."""
    builder = PackBuilder(PACK_ID)
    for case in cases():
        builder.add(record_of(case))
    return bytes(builder.finish())


if __name__ == "__main__":
    FILE.parent.mkdir()
    with FILE.open("xb") as file:
        file.write(pack())
