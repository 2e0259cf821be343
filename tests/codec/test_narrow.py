"""Structured blocks: words that need fewer bits than they have."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deltackpt.codec import Encoded, decode_block, encode_block
from deltackpt.codec.kernels import VARIABLE
from deltackpt.codec.residual import Words
from deltackpt.errors import CorruptObjectError, DeltackptError, TruncatedObjectError
from deltackpt.escape import reader
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.pack import walk_pack
from deltackpt.format.record import decode_record
from deltackpt.pipeline.decode import decode_one
from deltackpt.tensor.dtypes import DTYPES, DType, by_name
from tests.codec.helpers import OPTIONS, Bytes, as_bytes, inputs_of, noise, offered, round_trip
from tests.golden.codec_v1 import to_bytes
from tests.golden.narrow_v1 import FILE, NarrowCase, narrow_cases, narrow_record

CASES = list(narrow_cases())
NAMES = [case.name for case in CASES]

# BLAKE3 of the golden file: it is never rewritten.
NAME = "c996ab4ec148639c13ff1b20d0b51dd78aa2c7319f8024845705668270402abc"

NARROW = 3
N = 1 << 16
RNG = np.random.default_rng(0)
NORMAL = RNG.standard_normal(N).astype("<f4")
BRAIN = NORMAL.view("<u4") & np.uint32(0xFFFF0000)


def entropy(values: NDArray[np.generic]) -> float:
    share = np.unique(values, return_counts=True)[1] / values.size
    return float(-(share * np.log2(share)).sum())


@pytest.mark.parametrize(
    ("dtype", "values", "most"),
    [
        ("float32", np.full(N, 1.5, "<f4"), 0.01),
        ("float32", BRAIN, 1.02 * entropy(BRAIN)),
        ("float32", NORMAL.astype("<f2").astype("<f4"), 15.0),
        ("float32", (RNG.integers(-127, 128, N) * np.float32(0.0123)).astype("<f4"), 8.3),
        ("float32", RNG.choice(np.array([0, 1, -1], "<f4"), N), 1.65),
        ("float32", np.tile(NORMAL[:512], N // 512), 0.4),
        ("float64", RNG.choice(np.array([0.5, math.pi], "<f8"), N), 1.05),
        ("float8_e5m2", (NORMAL.astype("<f2").view("<u2") >> np.uint16(8)).astype("u1"), 5.7),
        ("int32", RNG.poisson(5, N).astype("<i4"), 3.3),
        ("int64", RNG.poisson(5, N).astype("<i8"), 3.3),
        ("int64", RNG.integers(-100, 100, N).astype("<i8"), 7.95),
        ("int64", np.arange(N, dtype="<i8"), 0.5),
        ("bool", RNG.random(N) < 0.05, 0.33),
        ("bool", np.tril(np.ones((256, 256), bool)).reshape(-1), 0.06),
        ("uint8", np.tile(RNG.integers(0, 256, 1024).astype("u1"), N // 1024), 0.2),
    ],
)
def test_structure_is_found(dtype: str, values: NDArray[np.generic], most: float) -> None:
    data = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
    encoded = round_trip(data, by_name(dtype))
    assert 8 * len(encoded.payload) / values.size <= most


def test_noise_is_kept_as_it_is() -> None:
    state = RNG.integers(0, 256, 5056).astype("u1")
    encoded = round_trip(state, by_name("uint8"))
    assert (encoded.coder, len(encoded.payload)) == (0, state.size)


def test_a_difference_is_narrow_too() -> None:
    """float32 that holds bfloat16 values, one unit beside those of its base for a part of them."""
    step = ((RNG.random(N) < 0.1).astype("<u4")) << np.uint32(16)
    encoded = round_trip((BRAIN + step).view(np.uint8), by_name("float32"), BRAIN.view(np.uint8))
    assert (encoded.predictor, encoded.coder) == (1, NARROW)
    assert 8 * len(encoded.payload) / N < 0.65


STRUCTURED = st.one_of(
    st.tuples(st.just(0), st.integers(1, 5)),  # so many distinct words
    st.tuples(st.just(1), st.integers(0, 63)),  # so many zeros at the end of each
    st.tuples(st.just(2), st.integers(1, 63)),  # no more bits than so many
)


@given(
    dtype=st.sampled_from(DTYPES),
    words=st.integers(0, 300),
    kind=STRUCTURED,
    seed=st.integers(0, 99),
    has_base=st.booleans(),
)
def test_any_structure_comes_back(dtype: DType, words: int, kind: tuple[int, int], seed: int, has_base: bool) -> None:
    drawn: Words = noise(dtype, words * dtype.itemsize // dtype.word_bytes, seed)
    shape, number = kind
    bits = np.array(number % (8 * dtype.word_bytes), dtype.word)
    if shape == 0:
        drawn = drawn[:number][drawn % np.array(min(number, max(1, drawn.size)), drawn.dtype)] if drawn.size else drawn
    elif shape == 1:
        drawn = drawn >> bits << bits
    else:
        drawn = drawn & np.array((1 << int(bits)) - 1, dtype.word)
    base = as_bytes(noise(dtype, drawn.size, seed + 1), dtype) if has_base else None
    data = as_bytes(drawn, dtype)
    encoded = round_trip(data, dtype, base)
    used = None if encoded.choice is None else base
    assert read_by_the_script(dtype, bytes(encoded.payload), data.size, used, encoded.coder) == data.tobytes()


def read_by_the_script(dtype: DType, payload: bytes, size: int, base: Bytes | None, coder: int = NARROW) -> bytes:
    """The block as the reader decodes it that every store holds."""
    if coder == 0:
        return payload
    cursor = reader.Cursor(payload, "block")
    guess = np.zeros(size, np.uint8) if base is None else base
    found = reader.decode_words(coder, cursor, guess, None, reader.DTYPES[dtype.code])
    cursor.end()
    return found.tobytes()


@pytest.mark.parametrize("number", range(len(CASES)), ids=NAMES)
def test_the_golden_blocks(number: int) -> None:
    data = FILE.read_bytes()
    assert blake3_digest(data).hex() == NAME
    found = list(walk_pack(data, source=FILE.name))
    assert len(found) == len(CASES)
    case, (_, record) = CASES[number], found[number]
    raw = to_bytes(case.words, case.dtype)
    base = None if case.base is None else np.frombuffer(to_bytes(case.base, case.dtype), np.uint8)
    bases = {} if base is None else {record.needs[0].address: base}
    assert record.coder == NARROW
    # What is written now has other tables, and is no longer.
    written = decode_record(narrow_record(case), source="test", offset=0)
    assert len(written.payload) <= len(record.payload)
    for version in (record, written):
        assert decode_one(version, bases, source=FILE.name, offset=0).tobytes() == raw
        assert read_by_the_script(case.dtype, bytes(version.payload), len(raw), base) == raw


def test_both_methods_and_all_widths_are_golden() -> None:
    heads = [bytes(record.payload)[:3] for _, record in walk_pack(FILE.read_bytes(), source=FILE.name)]
    assert {head[0] for head in heads} == {1, 2}
    assert {head[2] for head in heads if head[0] == 1} == {2, 4}


def payload_of(case: NarrowCase) -> bytes:
    found = {
        case.name: record for case, (_, record) in zip(CASES, walk_pack(FILE.read_bytes(), source="x"), strict=True)
    }
    return bytes(found[case.name].payload)


@given(
    case=st.sampled_from([case for case in CASES if case.base is None]),
    cut=st.integers(0, 400),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), max_size=3),
)
def test_damaged_payloads_give_an_error_or_a_block(case: NarrowCase, cut: int, flips: list[tuple[int, int]]) -> None:
    payload = bytearray(payload_of(case))
    for at, mask in flips:
        payload[at % len(payload)] ^= mask
    damaged = bytes(payload[: len(payload) - cut % len(payload)])
    size = len(case.words) * case.dtype.itemsize
    found: DeltackptError | None = None
    try:
        block = decode_block(Encoded(0, NARROW, b"", damaged), case.dtype, size, {}, source="packs/x")
        assert block.size == size
    except DeltackptError as error:
        found = error
    assert found is None or (isinstance(found, CorruptObjectError) and found.where == "packs/x")


FLOATS = by_name("float32")


def changed(name: str, change: Callable[[bytearray], None]) -> bytes:
    payload = bytearray(payload_of(next(case for case in CASES if case.name == name)))
    change(payload)
    return bytes(payload)


def put(at: int, value: int) -> Callable[[bytearray], None]:
    return lambda payload: payload.__setitem__(at, value)


@pytest.mark.parametrize(
    ("payload", "error", "text"),
    [
        (b"", CorruptObjectError, "unknown method 0"),
        (b"\3\0\2", CorruptObjectError, "unknown method 3"),
        (b"\1\0", TruncatedObjectError, "ends in its head"),
        (b"\2\1", TruncatedObjectError, "ends in its head"),
        (changed("bfloat16 in float32", put(1, 32)), CorruptObjectError, "out of its range"),
        (changed("bfloat16 in float32", put(2, 3)), CorruptObjectError, "out of its range"),
        (b"\2\2\0" + bytes(7), TruncatedObjectError, "ends in its list"),
        # A constant 2 beside the middle of one value.
        (b"\2\1\0" + bytes(4) + b"\0\4\0", CorruptObjectError, "not listed"),
    ],
)
def test_bad_payloads_are_named(payload: bytes, error: type[DeltackptError], text: str) -> None:
    with pytest.raises(error, match=text):
        decode_block(Encoded(0, NARROW, b"", payload), FLOATS, 4 * 256, {}, source="packs/x")


def test_a_list_takes_no_prediction() -> None:
    case = next(case for case in CASES if case.name == "few values")
    inputs = inputs_of(FLOATS, as_bytes(list(case.words), FLOATS))
    with pytest.raises(CorruptObjectError, match="takes no prediction"):
        decode_block(Encoded(1, NARROW, b"", payload_of(case)), FLOATS, 4 * 256, inputs, source="packs/x")


@given(
    dtype=st.sampled_from(DTYPES),
    words=st.lists(st.integers(0, (1 << 64) - 1), max_size=60),
    base=st.lists(st.integers(0, (1 << 64) - 1), max_size=60),
)
def test_no_record_is_longer_than_raw(dtype: DType, words: list[int], base: list[int]) -> None:
    per_element = dtype.itemsize // dtype.word_bytes
    size = min(len(words), len(base)) // per_element * per_element
    ones = (1 << (8 * dtype.word_bytes)) - 1
    data, known = (as_bytes([w & ones for w in part[:size]], dtype) for part in (words, base))
    encoded = encode_block(data, dtype, offered(dtype, known, input_bytes=18), OPTIONS)
    assert len(encoded.payload) + (18 if encoded.choice is not None else 0) <= data.size


def test_without_kernels_the_bytes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from deltackpt.codec import kernels

    with_kernels = [narrow_record(case) for case in CASES]
    monkeypatch.setenv(VARIABLE, "numpy")
    kernels._chosen.cache_clear()
    try:
        assert [narrow_record(case) for case in CASES] == with_kernels
    finally:
        monkeypatch.undo()
        kernels._chosen.cache_clear()
