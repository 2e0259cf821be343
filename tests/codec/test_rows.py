"""Rows of a block in classes by how large their residuals are."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deltackpt.codec import Encoded, decode_block, encode_block, kernels
from deltackpt.codec.coders.rans import Rans
from deltackpt.codec.coders.rows import Rows
from deltackpt.codec.residual import Words, from_residual
from deltackpt.codec.types import Prediction, Shape
from deltackpt.codec.workspace import Workspace
from deltackpt.errors import CorruptObjectError, DeltackptError, TruncatedObjectError
from deltackpt.escape import reader
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.pack import walk_pack
from deltackpt.pipeline.decode import decode_one
from deltackpt.tensor.dtypes import DTYPES, DType, by_name
from tests.codec.helpers import OPTIONS, noise, offered
from tests.golden.codec_v1 import to_bytes
from tests.golden.rows_v1 import FILE, RowsCase, rows_cases, rows_record

CASES = list(rows_cases())
NAMES = [case.name for case in CASES]
RECORDS = [record for _, record in walk_pack(FILE.read_bytes(), source=FILE.name)]

# BLAKE3 of the golden file: it is never rewritten.
NAME = "e3a31ca3644b85c6510782cb29bc63b895e26656e410dbb7b147a5fee412ebeb"

RANS, ROWS = 2, 4
SERVED = [dtype for dtype in DTYPES if dtype.word_bytes in (2, 4)]


def moved(dtype: DType, words: int, row: int, seed: int, scales: tuple[float, ...]) -> tuple[Words, Words]:
    """Words near those of a base, each row of them by its own scale."""
    random = np.random.default_rng(seed)
    bits = 8 * dtype.word_bytes
    numbers = (random.standard_normal(words) * 0.02).astype("<f4").view("<u4")
    base: Words = (numbers >> np.uint32(32 - bits)).astype(dtype.word)
    scale = np.repeat(random.choice(scales, words // row + 1), row)[:words]
    steps = np.rint(random.standard_normal(words) * scale).astype(np.int64)
    z = ((steps << 1) ^ (steps >> 63)).astype(dtype.word)
    return from_residual(z, base, dtype.kind), base


def script_words(dtype: DType, payload: bytes, guess: Words, keys: NDArray[np.uint8] | None) -> bytes:
    """The block as the reader decodes it that every store holds."""
    cursor = reader.Cursor(payload, "block")
    known = np.ascontiguousarray(guess).view(np.uint8)
    found = reader.decode_words(ROWS, cursor, known, keys, reader.DTYPES[dtype.code])
    cursor.end()
    return found.tobytes()


def coded(coder: Rows, values: Words, guess: Prediction, dtype: DType, class_bits: int) -> bytes | None:
    shape, space = Shape(dtype, values.size), Workspace()
    out = np.empty(coder.bound(shape), np.uint8)
    survey = Rans().survey(values, guess, shape, space)
    length = coder.encode(values, guess, shape, survey, class_bits, out, space)
    return None if length is None else out[:length].tobytes()


@given(
    dtype=st.sampled_from(SERVED),
    words=st.integers(1, 3000),
    row_log2=st.integers(6, 9),
    class_bits=st.integers(1, 2),
    kind=st.sampled_from(["base", "alone", "context"]),
    scales=st.lists(st.sampled_from([0.0, 0.1, 2.0, 50.0]), min_size=1, max_size=4).map(tuple),
    seed=st.integers(0, 99),
)
def test_any_block_comes_back(
    dtype: DType, words: int, row_log2: int, class_bits: int, kind: str, scales: tuple[float, ...], seed: int
) -> None:
    values, base = moved(dtype, words, 1 << row_log2, seed, scales)
    keys = (noise(by_name("uint8"), words, seed) & np.uint8(7)) if kind == "context" else None
    guess = Prediction(base if kind == "base" else None, keys)
    payload = coded(Rows(row_log2=row_log2), values, guess, dtype, class_bits)
    if payload is None:
        return
    known = base if kind == "base" else np.zeros_like(values)
    assert script_words(dtype, payload, known, keys) == values.tobytes()
    for in_place in (False, True):
        out = base.copy() if in_place else np.empty_like(values)
        given = Prediction(out, keys) if in_place and kind == "base" else guess
        Rows().decode(memoryview(payload), given, Shape(dtype, words), out, Workspace(), source="test")
        assert out.tobytes() == values.tobytes()


@pytest.mark.parametrize(("name", "gain"), [("float32", 0.04), ("bfloat16", 0.07)])
def test_rows_that_differ_are_told_apart(name: str, gain: float) -> None:
    dtype = by_name(name)
    values, base = moved(dtype, (1 << 18) + 5, 256, 1, (1.0, 8.0, 64.0))
    shape, guess, space = Shape(dtype, values.size), Prediction(base), Workspace()
    out = np.empty(Rans().bound(shape), np.uint8)
    whole = Rans().encode(values, guess, shape, Rans().survey(values, guess, shape, space), out, space)
    assert whole is not None
    offers = offered(dtype, base.view(np.uint8))
    encoded = encode_block(values.view(np.uint8), dtype, offers, OPTIONS)
    assert encoded.coder == ROWS
    assert len(encoded.payload) < (1 - gain) * whole
    decoded = decode_block(encoded, dtype, values.nbytes, {0: (dtype, base.view(np.uint8))}, source="test")
    assert decoded.tobytes() == values.tobytes()


@pytest.mark.parametrize("scales", [(0.0, 0.01), (8.0,), (3000.0,)])
def test_rows_alike_are_left_together(scales: tuple[float, ...]) -> None:
    """One scale everywhere; and of rows of which few words change, none has statistics of its own."""
    dtype = by_name("float32")
    values, base = moved(dtype, 1 << 17, 1 if len(scales) > 1 else 256, 2, scales)
    assert encode_block(values.view(np.uint8), dtype, offered(dtype, base.view(np.uint8)), OPTIONS).coder != ROWS


@pytest.mark.parametrize("number", range(len(CASES)), ids=NAMES)
def test_the_golden_blocks(number: int) -> None:
    assert blake3_digest(FILE.read_bytes()).hex() == NAME
    assert len(RECORDS) == len(CASES)
    case, record = CASES[number], RECORDS[number]
    raw = to_bytes(case.words, case.dtype)
    bases = {}
    if case.base is not None:
        bases[record.needs[0].address] = np.frombuffer(to_bytes(case.base, case.dtype), np.uint8)
    assert record.coder == ROWS
    assert decode_one(record, bases, source=FILE.name, offset=0).tobytes() == raw
    guess = case.prediction()
    known = np.zeros(len(case.words), case.dtype.word) if guess.values is None else guess.values
    keys = None if guess.context is None else guess.context.astype(np.uint8)
    assert script_words(case.dtype, bytes(record.payload), known, keys) == raw


def test_classes_and_rows_of_all_kinds_are_golden() -> None:
    heads = {tuple(bytes(record.payload)[:2]) for record in RECORDS}
    assert {bits for _, bits in heads} == {1, 2}
    assert {row for row, _ in heads} >= {6, 7, 8}


def decode(case: RowsCase, payload: bytes) -> None:
    """An error of ours that names the file, or a block."""
    inputs = {}
    if case.base is not None:
        inputs[0] = (case.dtype, np.frombuffer(to_bytes(case.base, case.dtype), np.uint8))
    size = len(case.words) * case.dtype.word_bytes
    block = decode_block(Encoded(case.predictor, ROWS, b"", payload), case.dtype, size, inputs, source="packs/x")
    assert block.size == size


@given(
    number=st.integers(0, len(CASES) - 1),
    cut=st.integers(0, 400),
    flips=st.lists(st.tuples(st.integers(0, 120), st.integers(1, 255)), max_size=3),
)
def test_damaged_payloads_give_an_error_or_a_block(number: int, cut: int, flips: list[tuple[int, int]]) -> None:
    payload = bytearray(RECORDS[number].payload)
    for at, mask in flips:
        payload[at] ^= mask
    found: DeltackptError | None = None
    try:
        decode(CASES[number], bytes(payload[: len(payload) - cut]))
    except DeltackptError as error:
        found = error
    assert found is None or (isinstance(found, CorruptObjectError) and found.where == "packs/x")


def changed(change: Callable[[bytearray], object]) -> bytes:
    payload = bytearray(RECORDS[0].payload)
    change(payload)
    return bytes(payload)


def with_empty_class(payload: bytearray) -> None:
    """All rows in the last class, and a length for the first."""
    struct.pack_into("<4I", payload, 2, 5, 0, 0, 0)
    payload[18:30] = b"\xff" * 11 + b"\x0f"


@pytest.mark.parametrize(
    ("payload", "error", "text"),
    [
        (b"\6", TruncatedObjectError, "ends in its head"),
        (b"\5\1" + bytes(40), CorruptObjectError, "out of its range"),
        (b"\x11\1" + bytes(40), CorruptObjectError, "out of its range"),
        (b"\6\3" + bytes(40), CorruptObjectError, "out of its range"),
        (b"\6\0" + bytes(40), CorruptObjectError, "out of its range"),
        (b"\6\1" + bytes(8), TruncatedObjectError, "ends in its classes"),
        (changed(lambda p: p.append(0)), CorruptObjectError, "left over"),
        (changed(lambda p: p.pop()), TruncatedObjectError, "ends in the words of a class"),
        (changed(lambda p: p.__setitem__(29, p[29] | 0xC0)), CorruptObjectError, "beyond the last row"),
        (changed(with_empty_class), CorruptObjectError, "a class without words"),
    ],
)
def test_bad_payloads_are_named(payload: bytes, error: type[DeltackptError], text: str) -> None:
    with pytest.raises(error, match=text):
        decode(CASES[0], payload)


def test_words_of_one_byte_have_no_rows() -> None:
    with pytest.raises(CorruptObjectError, match="out of its range"):
        decode_block(Encoded(0, ROWS, b"", b"\6\1" + bytes(40)), by_name("uint8"), 64, {}, source="packs/x")


@pytest.fixture
def kernels_named(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], bool]]:
    """Takes the kernels of that name from then on; whether this processor runs them."""

    def take(name: str) -> bool:
        kernels._chosen.cache_clear()
        monkeypatch.setenv(kernels.VARIABLE, name)
        return name == "numpy" or kernels.open_library(name)[0] is not None

    yield take
    monkeypatch.undo()
    kernels._chosen.cache_clear()


def test_without_kernels_the_bytes_are_the_same(kernels_named: Callable[[str], bool]) -> None:
    # Small ones: numpy takes its time.
    few = [replace(case, words=case.words[:700], base=case.base and case.base[:700]) for case in CASES[::2]]
    with_kernels = [rows_record(case) for case in few]
    assert kernels_named("numpy")
    assert [rows_record(case) for case in few] == with_kernels


@pytest.mark.parametrize("kind", ["base", "alone"])
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_blocks_of_many_rows_are_the_same_with_every_variant(
    name: str, kind: str, kernels_named: Callable[[str], bool]
) -> None:
    """More rows than the limits of classes come from, classes of 64 lanes, and samples that are not all of them."""
    dtype = by_name(name)
    values, base = moved(dtype, 300_011, 256, 3, (0.05, 1.0, 8.0, 64.0))
    guess = Prediction(base if kind == "base" else None)
    known = base if kind == "base" else np.zeros_like(values)
    payloads = []
    for variant in ("numpy", *kernels.VARIANTS):
        if kernels_named(variant):
            payload = coded(Rows(row_log2=7), values, guess, dtype, 2)
            assert payload is not None
            out = np.empty_like(values)
            Rows().decode(memoryview(payload), guess, Shape(dtype, values.size), out, Workspace(), source="test")
            assert out.tobytes() == values.tobytes()
            payloads.append(payload)
    assert len(set(payloads)) == 1
    assert script_words(dtype, payloads[0], known, None) == values.tobytes()
