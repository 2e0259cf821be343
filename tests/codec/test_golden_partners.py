"""Predictors 5 and 6 on records that were written once."""

from __future__ import annotations

import numpy as np
import pytest

from deltackpt.codec.registry import LINEAR, SCALE
from deltackpt.escape import reader
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.pack import walk_pack
from deltackpt.pipeline.decode import decode_one
from tests.golden.codec_v1 import to_bytes
from tests.golden.partners_v1 import PartnerCase, partner_cases
from tests.golden.write_partners_v1 import FILE, partner_record

CASES = list(partner_cases())
NAMES = [case.name for case in CASES]

# BLAKE3 of the file: it is never rewritten.
NAME = "b868d77cee25f7e1a9d2a6f15cd3d052c17bde209fe152e62547298cff7b47d0"


def test_the_golden_file_is_as_it_was() -> None:
    assert blake3_digest(FILE.read_bytes()).hex() == NAME
    assert {case.predictor for case in CASES} == {SCALE, LINEAR}


@pytest.mark.parametrize("number", range(len(CASES)), ids=NAMES)
def test_blocks_are_read_as_they_were(number: int) -> None:
    data = FILE.read_bytes()
    found = list(walk_pack(data, source=FILE.name))
    assert len(found) == len(CASES)
    ends = [offset for offset, _ in found[1:]] + [len(data) - 16]
    case, (offset, record) = CASES[number], found[number]
    assert (record.dtype, record.predictor, record.params) == (case.dtype.code, case.predictor, case.params)
    bases = {
        need.address: np.frombuffer(to_bytes(words, dtype), np.uint8)
        for need, (dtype, words) in zip(record.needs, case.inputs.values(), strict=True)
    }
    assert decode_one(record, bases, source=FILE.name, offset=0).tobytes() == case.data
    # Written by an encoder that had no compact tables: those of later ones are no longer.
    assert len(partner_record(case)) <= ends[number] - offset


def read_by_the_script(case: PartnerCase, payload: bytes) -> bytes:
    """The block as the reader decodes it that every store holds."""
    dtype = reader.DTYPES[case.dtype.code]
    slots = {
        slot: (reader.DTYPES[kind.code], np.frombuffer(to_bytes(words, kind), np.uint8))
        for slot, (kind, words) in case.inputs.items()
    }
    guess, keys = reader.predict(case.predictor, dtype, len(case.data), slots, case.params, "golden")
    cursor = reader.Cursor(payload, "golden")
    if case.coder == 1:
        z = reader.read_planes(cursor, len(case.data), dtype.word)
    else:
        z = reader.read_rans(cursor, guess, keys, dtype)
    cursor.end()
    return reader.add_residual(guess, z, dtype).tobytes()


@pytest.mark.parametrize("number", range(len(CASES)), ids=NAMES)
def test_the_reader_of_a_store_reads_them(number: int) -> None:
    record = list(walk_pack(FILE.read_bytes(), source=FILE.name))[number][1]
    assert read_by_the_script(CASES[number], bytes(record.payload)) == CASES[number].data
