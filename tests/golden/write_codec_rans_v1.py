"""Wrote ``codec-rans-v1/blocks.pack`` and, when there were compact payloads, ``codec-rans-v2/blocks.pack``; refuses to
write over them. Run from the repository's root."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deltackpt.codec import rans
from deltackpt.format.hashing import address
from deltackpt.format.pack import PackBuilder
from deltackpt.format.record import Need, Record, encode_record
from tests.golden.codec_rans_v1 import Case, cases, to_bytes

__all__ = ["COMPACT_FILE", "FILE", "payload_of"]

FILE = Path(__file__).parent / "codec-rans-v1" / "blocks.pack"
COMPACT_FILE = FILE.parent.with_name("codec-rans-v2") / "blocks.pack"
PACK_ID = bytes(range(16))


def payload_of(case: Case) -> bytes:
    """The payload of coder rans as this version of the package writes it."""
    values = np.frombuffer(to_bytes(case.words, case.dtype), case.dtype.word)
    base = np.zeros_like(values)
    if case.base is not None:
        base = np.frombuffer(to_bytes(case.base, case.dtype), case.dtype.word)
    payload = rans.encode(values, base, None, case.dtype, rans.take_survey(values, base, None, case.dtype))
    assert payload is not None, case.name
    return payload


def _record(case: Case) -> bytes:
    data = to_bytes(case.words, case.dtype)
    needs: tuple[Need, ...] = ()
    if case.base is not None:
        needs = (Need(0, case.dtype.code, address(to_bytes(case.base, case.dtype)), None),)
    return encode_record(
        Record(
            dtype=case.dtype.code,
            predictor=1 if needs else 0,
            coder=2,
            address=address(data),
            shape=(len(data) // case.dtype.itemsize,),
            needs=needs,
            params=b"",
            payload=payload_of(case),
        )
    )


if __name__ == "__main__":
    builder = PackBuilder(PACK_ID)
    for case in cases():
        builder.add(_record(case))
    COMPACT_FILE.parent.mkdir()
    with COMPACT_FILE.open("xb") as file:
        file.write(builder.finish())
