"""Wrote ``codec-v1/predictors.pack``; refuses to write over it. Run from the repository's root."""

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
from tests.golden.predictors_v1 import F32, PredictedCase, predicted_cases

FILE = Path(__file__).parent / "codec-v1" / "predictors.pack"
PACK_ID = bytes(range(16, 32))
PLANES = 1


def predicted_record(case: PredictedCase) -> bytes:
    """The record of a case as this version of the package writes it with the case's parameters."""
    shape = Shape(case.dtype, len(case.words))
    inputs = {slot: Slot(F32, np.array(words, F32.word)) for slot, words in enumerate(case.inputs)}
    needs = [Need(slot, F32.code, address(to_bytes(words, F32)), None) for slot, words in enumerate(case.inputs)]
    predictor = registry.predictor(case.predictor, source=case.name)
    prediction = predictor.predict(shape, inputs, case.params, source=case.name)
    values = np.frombuffer(case.data, case.dtype.word)
    payload = Planes().encode(values, prediction, shape, level=1)
    return encode_record(
        Record(
            dtype=case.dtype.code,
            predictor=case.predictor,
            coder=PLANES,
            address=address(case.data),
            shape=(len(case.words),),
            needs=tuple(needs),
            params=case.params,
            payload=payload,
        )
    )


def predicted_pack() -> bytes:
    """A pack with the record of every case."""
    builder = PackBuilder(PACK_ID)
    for case in predicted_cases():
        builder.add(predicted_record(case))
    return bytes(builder.finish())


if __name__ == "__main__":
    with FILE.open("xb") as file:
        file.write(predicted_pack())
