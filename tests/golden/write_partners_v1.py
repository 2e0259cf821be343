"""Wrote ``codec-v1/partners.pack``; refuses to write over it. Run from the repository's root."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deltackpt.codec import rans, registry
from deltackpt.codec.coders.planes import Planes
from deltackpt.codec.types import Shape, Slot
from deltackpt.format.hashing import address
from deltackpt.format.pack import PackBuilder
from deltackpt.format.record import Need, Record, encode_record
from tests.golden.codec_v1 import to_bytes
from tests.golden.partners_v1 import PartnerCase, partner_cases

__all__ = ["FILE", "partner_record"]

FILE = Path(__file__).parent / "codec-v1" / "partners.pack"
PACK_ID = bytes(range(32, 48))


def partner_record(case: PartnerCase) -> bytes:
    """The record of a case as this version of the package writes it with the case's parameters and coder."""
    shape = Shape(case.dtype, len(case.words))
    inputs = {slot: Slot(dtype, np.array(words, dtype.word)) for slot, (dtype, words) in case.inputs.items()}
    needs = [
        Need(slot, dtype.code, address(to_bytes(words, dtype)), None) for slot, (dtype, words) in case.inputs.items()
    ]
    predictor = registry.predictor(case.predictor, source=case.name)
    prediction = predictor.predict(shape, inputs, case.params, source=case.name)
    values = np.frombuffer(case.data, case.dtype.word)
    if case.coder == Planes().id:
        payload = Planes().encode(values, prediction, shape, level=1)
    else:
        assert prediction.context is not None
        context = prediction.context.astype(np.uint8)
        given = (values, np.zeros_like(values), context, case.dtype)
        coded = rans.encode(*given, rans.take_survey(*given))
        assert coded is not None
        payload = coded
    return encode_record(
        Record(
            dtype=case.dtype.code,
            predictor=case.predictor,
            coder=case.coder,
            address=address(case.data),
            shape=(len(case.words),),
            needs=tuple(needs),
            params=case.params,
            payload=payload,
        )
    )


if __name__ == "__main__":
    builder = PackBuilder(PACK_ID)
    for case in partner_cases():
        builder.add(partner_record(case))
    with FILE.open("xb") as file:
        file.write(builder.finish())
