from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deltackpt.codec.registry import MEAN
from deltackpt.escape import reader
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.pack import walk_pack
from deltackpt.format.record import Record
from deltackpt.pipeline.decode import decode_one
from deltackpt.tensor.dtypes import DTYPES
from tests.codec import reference
from tests.golden.codec_v1 import Case, cases, to_bytes
from tests.golden.mean_v1 import mean_cases
from tests.golden.predictors_v1 import F32, PredictedCase, predicted_cases
from tests.golden.write_codec_v1 import FILE, record_of
from tests.golden.write_mean_v1 import FILE as MEANS
from tests.golden.write_mean_v1 import mean_record
from tests.golden.write_predictors_v1 import FILE as PREDICTORS
from tests.golden.write_predictors_v1 import predicted_record

CASES = list(cases())

# BLAKE3 of each file: they are never rewritten.
MEANS_NAME = "0e62ef0ea7fc957caa47c0ac5e977e546cf8119333fcb4c0cc3ccf57649a7725"
PREDICTORS_NAME = "9593a796e25ea2612e9846c5bf767a4c8eecb3b60972134ff7a9d6974f6ea894"
NAME = "c42eb2faee0dd6604fbee9fa4ce90abaa68d3635ff2a2c11aa0e539624a54445"


def read(file: Path) -> list[tuple[bytes, Record]]:
    """Each record of a golden pack, as bytes and read."""
    data = file.read_bytes()
    found = list(walk_pack(data, source=file.name))
    ends = [offset for offset, _ in found[1:]] + [len(data) - 16]
    return [(data[offset:end], record) for (offset, record), end in zip(found, ends, strict=True)]


@pytest.fixture(scope="module")
def records() -> list[tuple[bytes, Record]]:
    return read(FILE)


def test_the_golden_file_is_as_it_was(records: list[tuple[bytes, Record]]) -> None:
    assert blake3_digest(FILE.read_bytes()).hex() == NAME
    assert len(records) == len(CASES)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_blocks_are_read(number: int, records: list[tuple[bytes, Record]]) -> None:
    case, (_, record) = CASES[number], records[number]
    bases = {}
    if case.base is not None and record.needs:
        bases[record.needs[0].address] = np.frombuffer(to_bytes(case.base, case.dtype), np.uint8)
    assert (record.dtype, record.predictor, record.coder) == (case.dtype.code, case.predictor, case.coder)
    assert decode_one(record, bases, source=FILE.name, offset=0).tobytes() == case.data


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_blocks_are_written_the_same_where_zstd_has_no_part_in_them(
    number: int, records: list[tuple[bytes, Record]]
) -> None:
    case, (data, record) = CASES[number], records[number]
    assert zstd_planes(case, record) == 0 if case.exact else zstd_planes(case, record) > 0
    if case.exact:
        assert record_of(case) == data


def zstd_planes(case: Case | PredictedCase, record: Record) -> int:
    heads = bytes(record.payload)[: 5 * case.dtype.word_bytes : 5]
    return heads.count(1) if record.coder == 1 else 0


def test_every_predictor_coder_and_method_is_there() -> None:
    assert {(case.predictor, case.coder) for case in CASES} == {(0, 0), (0, 1), (1, 1)}
    methods = {
        method
        for case, (_, record) in zip(CASES, walk_pack(FILE.read_bytes(), source=FILE.name), strict=True)
        if case.coder == 1
        for method in bytes(record.payload)[: 5 * case.dtype.word_bytes : 5]
    }
    assert methods == {0, 1, 2}
    assert {case.dtype for case in CASES} == set(DTYPES)


# Predictors that compute with floats


def test_their_golden_file_is_as_it_was() -> None:
    assert blake3_digest(PREDICTORS.read_bytes()).hex() == PREDICTORS_NAME


@pytest.mark.parametrize("number", range(8), ids=[case.name for case in predicted_cases()])
def test_blocks_predicted_from_others(number: int) -> None:
    found = read(PREDICTORS)
    assert len(found) == 8
    case, (data, record) = list(predicted_cases())[number], found[number]
    assert (record.dtype, record.predictor, record.params) == (case.dtype.code, case.predictor, case.params)
    bases = {
        need.address: np.frombuffer(to_bytes(words, F32), np.uint8)
        for need, words in zip(record.needs, case.inputs, strict=True)
    }
    assert decode_one(record, bases, source=PREDICTORS.name, offset=0).tobytes() == case.data
    assert (zstd_planes(case, record) == 0) == case.exact
    if case.exact:
        assert predicted_record(case) == data


# The mean of two bases


def test_its_golden_file_is_as_it_was() -> None:
    assert blake3_digest(MEANS.read_bytes()).hex() == MEANS_NAME
    assert len(read(MEANS)) == len(DTYPES)


@pytest.mark.parametrize("number", range(len(DTYPES)), ids=[case.dtype.name for case in mean_cases()])
def test_blocks_between_two_others(number: int) -> None:
    case, (data, record) = list(mean_cases())[number], read(MEANS)[number]
    assert (record.dtype, record.predictor) == (case.dtype.code, MEAN)
    words = zip(record.needs, case.bases, strict=True)
    bases = {need.address: np.frombuffer(to_bytes(base, case.dtype), np.uint8) for need, base in words}
    assert decode_one(record, bases, source=MEANS.name, offset=0).tobytes() == case.data
    assert mean_record(case) == data
    # The reader that comes with every store makes the same prediction.
    dtype = reader.DTYPES[case.dtype.code]
    slots = {slot: (dtype, base) for slot, base in enumerate(bases.values())}
    found, _ = reader.predict(MEAN, dtype, len(case.data), slots, b"", "")
    expected = [reference.mean(a, b, 8 * dtype.word, dtype.kind) for a, b in zip(*case.bases, strict=True)]
    assert found.tobytes() == to_bytes(tuple(expected), case.dtype)
