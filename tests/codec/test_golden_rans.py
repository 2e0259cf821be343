from __future__ import annotations

import numpy as np
import pytest

from deltackpt.codec.kernels import VARIANTS, open_library
from deltackpt.codec.residual import Words
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.pack import walk_pack
from deltackpt.format.record import Record
from deltackpt.pipeline.decode import decode_one
from tests.codec.helpers import kernel_payload, kernel_words
from tests.golden.codec_rans_v1 import Case, cases, to_bytes
from tests.golden.write_codec_rans_v1 import FILE, payload_of

CASES = list(cases())
NAMES = [case.name for case in CASES]

# BLAKE3 of the file: it is never rewritten.
NAME = "7dfbfd1165bdc95a866f1962b19450039041d45338037e9c06b82ea6063776b6"


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [record for _, record in walk_pack(FILE.read_bytes(), source=FILE.name)]


def test_the_golden_file_is_as_it_was(records: list[Record]) -> None:
    assert blake3_digest(FILE.read_bytes()).hex() == NAME
    assert len(records) == len(CASES)


def words_of(case: Case) -> tuple[Words, Words | None]:
    values = np.frombuffer(to_bytes(case.words, case.dtype), case.dtype.word)
    base = None if case.base is None else np.frombuffer(to_bytes(case.base, case.dtype), case.dtype.word)
    return values, base


@pytest.mark.parametrize("number", range(len(CASES)), ids=NAMES)
def test_blocks_are_read(number: int, records: list[Record]) -> None:
    case, record = CASES[number], records[number]
    values, base = words_of(case)
    bases = {} if base is None else {record.needs[0].address: base.view(np.uint8)}
    assert (record.dtype, record.coder) == (case.dtype.code, 2)
    assert decode_one(record, bases, source=FILE.name, offset=0).tobytes() == values.tobytes()
    for variant in VARIANTS:
        kernels, _ = open_library(variant)
        if kernels is not None:
            decoded = kernel_words(kernels, memoryview(record.payload), values.size, base, None, case.dtype)
            assert decoded.tobytes() == values.tobytes()


@pytest.mark.parametrize("number", range(len(CASES)), ids=NAMES)
def test_the_choices_of_the_encoder_are_the_same_on_every_machine(number: int, records: list[Record]) -> None:
    """A version that chooses better may write other bytes: then these are its own, and the file stays."""
    case, record = CASES[number], records[number]
    values, base = words_of(case)
    assert payload_of(case) == bytes(record.payload)
    for variant in VARIANTS:
        kernels, _ = open_library(variant)
        if kernels is not None:
            assert kernel_payload(kernels, values, base, None, case.dtype) == bytes(record.payload)


def test_every_kind_of_payload_is_there(records: list[Record]) -> None:
    payloads = [bytes(record.payload) for record in records]
    coded = [payload for payload in payloads if payload[0] == 1]
    assert len(coded) < len(payloads)
    assert {payload[3] for payload in coded} == {4, 6}
    assert {part for payload in coded for part in (4, 8, 16) if payload[1] & part} == {4, 8, 16}
    assert any(payload[8:10] != bytes(2) for payload in coded)
    assert any(payload[22:26] != bytes(4) for payload in coded)
