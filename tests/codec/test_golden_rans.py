from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from deltackpt.codec.kernels import VARIANTS, open_library
from deltackpt.codec.rans.layout import COMPACT, parse_plan
from deltackpt.codec.residual import Words
from deltackpt.escape import reader
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.pack import walk_pack
from deltackpt.format.record import Record
from deltackpt.pipeline.decode import decode_one
from deltackpt.tensor.dtypes import DType
from tests.codec.helpers import kernel_payload, kernel_words
from tests.golden.codec_rans_v1 import Case, cases, to_bytes
from tests.golden.write_codec_rans_v1 import COMPACT_FILE, FILE, payload_of

CASES = list(cases())
NAMES = [case.name for case in CASES]

# BLAKE3 of the files: they are never rewritten. The first has no compact payloads.
DIGESTS = {
    FILE: "7dfbfd1165bdc95a866f1962b19450039041d45338037e9c06b82ea6063776b6",
    COMPACT_FILE: "987601baccd28b944c23255f267d806cdce28fe5f4409dfc7220164ac22d373e",
}
FILES = pytest.mark.parametrize("file", DIGESTS, ids=lambda file: file.parent.name)


@functools.cache
def records_of(file: Path) -> list[Record]:
    return [record for _, record in walk_pack(file.read_bytes(), source=file.name)]


@FILES
def test_the_golden_files_are_as_they_were(file: Path) -> None:
    assert blake3_digest(file.read_bytes()).hex() == DIGESTS[file]
    assert len(records_of(file)) == len(CASES)


def words_of(case: Case) -> tuple[Words, Words | None]:
    values = np.frombuffer(to_bytes(case.words, case.dtype), case.dtype.word)
    base = None if case.base is None else np.frombuffer(to_bytes(case.base, case.dtype), case.dtype.word)
    return values, base


def script_words(dtype: DType, payload: bytes, count: int, base: Words | None) -> bytes:
    """The block as the reader decodes it that every store holds."""
    cursor = reader.Cursor(payload, "golden")
    guess = np.zeros(count, dtype.word) if base is None else base
    found = reader.decode_words(2, cursor, guess.view(np.uint8), None, reader.DTYPES[dtype.code])
    cursor.end()
    return found.tobytes()


@FILES
@pytest.mark.parametrize("number", range(len(CASES)), ids=NAMES)
def test_blocks_are_read(number: int, file: Path) -> None:
    case, record = CASES[number], records_of(file)[number]
    values, base = words_of(case)
    bases = {} if base is None else {record.needs[0].address: base.view(np.uint8)}
    assert (record.dtype, record.coder) == (case.dtype.code, 2)
    assert decode_one(record, bases, source=file.name, offset=0).tobytes() == values.tobytes()
    assert script_words(case.dtype, bytes(record.payload), values.size, base) == values.tobytes()
    for variant in VARIANTS:
        kernels, _ = open_library(variant)
        if kernels is not None:
            decoded = kernel_words(kernels, memoryview(record.payload), values.size, base, None, case.dtype)
            assert decoded.tobytes() == values.tobytes()


@pytest.mark.parametrize("number", range(len(CASES)), ids=NAMES)
def test_the_choices_of_the_encoder_are_the_same_on_every_machine(number: int) -> None:
    """A version that chooses better may write other bytes: then these are its own, and the file stays."""
    case, record = CASES[number], records_of(COMPACT_FILE)[number]
    values, base = words_of(case)
    assert payload_of(case) == bytes(record.payload)
    for variant in VARIANTS:
        kernels, _ = open_library(variant)
        if kernels is not None:
            assert kernel_payload(kernels, values, base, None, case.dtype) == bytes(record.payload)


def test_every_kind_of_payload_is_there() -> None:
    payloads = [bytes(record.payload) for record in records_of(FILE)]
    coded = [payload for payload in payloads if payload[0] == 1]
    assert len(coded) < len(payloads)
    assert {payload[3] for payload in coded} == {4, 6}
    assert {part for payload in coded for part in (4, 8, 16) if payload[1] & part} == {4, 8, 16}
    assert any(payload[8:10] != bytes(2) for payload in coded)
    assert any(payload[22:26] != bytes(4) for payload in coded)


def test_every_kind_of_compact_payload_is_there() -> None:
    found = [(record.payload, CASES[number]) for number, record in enumerate(records_of(COMPACT_FILE))]
    plans = [
        parse_plan(memoryview(payload), case.dtype.word_bytes, False, source="golden")[0]
        for payload, case in found
        if payload[0] == COMPACT
    ]
    assert {plan.lanes_log2 for plan in plans} == {0, 2, 4}
    assert {part for plan in plans for part in (4, 8, 16) if plan.shift & part} == {4, 8, 16}
    assert any(plan.extra for plan in plans)
    assert any(plan.escapes for plan in plans)
