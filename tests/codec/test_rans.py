"""Coder rans: every variant of the kernels gives the bits of the numpy implementation, in both directions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deltackpt.codec import rans
from deltackpt.codec.kernels import VARIANTS, Kernels, open_library
from deltackpt.codec.rans.compact import get_compact_tables, put_compact_tables
from deltackpt.codec.rans.layout import CODED, COMPACT, CONSTANT, Plan, parse_plan
from deltackpt.codec.rans.tables import normalize
from deltackpt.codec.residual import Words, from_residual
from deltackpt.codec.workspace import Workspace
from deltackpt.errors import CorruptObjectError
from deltackpt.tensor.dtypes import DType, by_name
from tests.codec.helpers import kernel_payload, kernel_words, noise, reference_payload, special_words

NAMES = ("float32", "bfloat16", "float16", "int32", "uint16", "complex64")
KERNELS = [kernels for name in VARIANTS if (kernels := open_library(name)[0]) is not None]

# Around rows of lanes (16, 64), from where on plans are made from samples (8192), and the samples of the tables (2^16
# words of 4 bytes).
LENGTHS = [1, 2, 3, 15, 16, 17, 63, 64, 65, 127, 128, 129, 8191, 8192, 8193, 8255, 8256, 8257]

Context = NDArray[np.uint8] | None


def check(values: Words, prediction: Words | None, context: Context, dtype: DType) -> bytes | None:
    """All implementations agree and give the words back. The payload, or None where the words are kept raw."""
    guess = np.zeros_like(values) if prediction is None else prediction
    payload = reference_payload(values, guess, context, dtype)
    survey = rans.take_survey(values, guess, context, dtype)
    structure = rans.take_structure(values, guess, dtype)
    classes = [rans.sort_rows(values, guess, context, dtype, survey, 6, bits) for bits in (1, 2)]
    for kernels in KERNELS:
        assert kernel_payload(kernels, values, prediction, context, dtype) == payload, kernels.variant
        assert kernels.survey(values, prediction, context, dtype, Workspace()) == survey
        assert kernels.structure(values, prediction, dtype, Workspace()) == structure
        for bits, expected in enumerate(classes, start=1):
            found = kernels.sort_rows(values, prediction, context, dtype, survey, 6, bits, Workspace())
            assert found.tolist() == expected.tolist(), kernels.variant
    if payload is None:
        return None
    assert len(payload) < values.nbytes
    view = memoryview(payload)
    assert rans.decode(view, guess, context, dtype, source="test").tobytes() == values.tobytes()
    for kernels in KERNELS:
        decoded = kernel_words(kernels, view, values.size, prediction, context, dtype)
        assert decoded.tobytes() == values.tobytes(), kernels.variant
    return payload


def walk(dtype: DType, count: int, seed: int, scale: float) -> tuple[Words, Words]:
    """Normal numbers, and words about ``scale`` places from theirs."""
    random = np.random.default_rng(seed)
    bits = 8 * dtype.word_bytes
    numbers = (random.standard_normal(count) * 0.02).astype("<f4").view("<u4")
    base: Words = (numbers >> np.uint32(32 - bits)).astype(dtype.word)
    steps = np.clip(np.rint(random.standard_normal(count) * scale), -(2.0 ** (bits - 2)), 2.0 ** (bits - 2))
    signed = steps.astype(np.int64)
    z = ((signed << 1) ^ (signed >> 63)).astype(dtype.word)
    return from_residual(z, base, dtype.kind), base


@pytest.mark.parametrize("count", LENGTHS)
@pytest.mark.parametrize("name", ["float32", "bfloat16", "int32"])
def test_every_length(name: str, count: int) -> None:
    dtype = by_name(name)
    for scale in (0.0, 0.1, 3.0, 3000.0):
        values, base = walk(dtype, count, count, scale)
        check(values, base, None, dtype)
        check(values, None, None, dtype)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [65535, 65536, 65537 + 64, 131072 + 65])
def test_lengths_around_the_samples(name: str, count: int) -> None:
    dtype = by_name(name)
    for scale in (0.01, 5.0):
        assert check(*walk(dtype, count, 0, scale), None, dtype) is not None


@pytest.mark.parametrize("name", NAMES)
def test_special_values(name: str) -> None:
    dtype = by_name(name)
    words = np.array(special_words(dtype) * 20, dtype.word)
    for base in (None, np.roll(words, 1), np.sort(words), words):
        check(words, base, None, dtype)
        check(np.sort(words), base, None, dtype)
        check(np.repeat(words, 40), None if base is None else np.repeat(base, 40), None, dtype)


@given(
    name=st.sampled_from(NAMES),
    count=st.one_of(st.integers(1, 300), st.sampled_from(LENGTHS)),
    seed=st.integers(0, 1 << 32),
    magnitude=st.floats(-2, 34),
    changed=st.sampled_from([0.0005, 0.01, 0.3, 1.0]),
    outliers=st.sampled_from([0.0, 0.001, 0.01, 0.2]),
    contexts=st.sampled_from([0, 1, 3, 16, 17, 256]),
    predicted=st.booleans(),
)
@settings(max_examples=150)
def test_any_statistics(
    name: str,
    count: int,
    seed: int,
    magnitude: float,
    changed: float,
    outliers: float,
    contexts: int,
    predicted: bool,
) -> None:
    dtype = by_name(name)
    random = np.random.default_rng(seed)
    values, base = walk(dtype, count, seed, 2.0**magnitude)
    values = np.where(random.random(count) < changed, values, base)
    values = np.where(random.random(count) < outliers, noise(dtype, count, seed), values).astype(dtype.word)
    context = random.integers(0, contexts, count).astype(np.uint8) if contexts else None
    check(values, base if predicted else None, context, dtype)


def symbols(kind: str, count: int) -> NDArray[np.int64]:
    random = np.random.default_rng(0)
    return {
        "one": np.full(count, 3),
        "one, and another once": np.where(np.arange(count) == count // 2, 9, 3),
        "two": random.integers(0, 2, count),
        "escapes only": np.full(count, 255) + random.integers(0, 2, count),
        "all": np.arange(count) % 256,
        "all distinct": np.arange(count) * 97 % (1 << 15),
        "frequencies that round to zero": np.where(random.random(count) < 0.02, random.integers(0, 256, count), 7),
        "geometric": np.minimum(random.geometric(0.3, count), 40_000),
        "powers": 1 << random.integers(0, 15, count),
    }[kind]


KINDS = [
    "one",
    "one, and another once",
    "two",
    "escapes only",
    "all",
    "all distinct",
    "frequencies that round to zero",
    "geometric",
    "powers",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["int16", "int32", "bfloat16"])
@pytest.mark.parametrize("count", [100, 9000, 200_000])
def test_adversarial_symbols(kind: str, name: str, count: int) -> None:
    dtype = by_name(name)
    base = noise(dtype, count)
    values = from_residual(symbols(kind, count).astype(dtype.word), base, dtype.kind)
    payload = check(values, base, None, dtype)
    if kind == "one":
        assert payload is not None
        assert len(payload) == 1 + dtype.word_bytes
    context = (np.arange(count) % 20).astype(np.uint8)
    check(values, base, context, dtype)


def test_sizes_that_were_measured() -> None:
    """Against the entropy of what was drawn, tables and states included."""
    dtype = by_name("bfloat16")
    count = 1 << 18
    random = np.random.default_rng(0)
    base = noise(dtype, count) & np.uint16(0x7F) | np.uint16(0x3C00)
    z = np.where(random.random(count) < 0.01, random.integers(1, 3, count), 0).astype(np.uint16)
    payload = check(from_residual(z, base, dtype.kind), base, None, dtype)
    assert payload is not None
    entropy = -0.01 * np.log2(0.005) - 0.99 * np.log2(0.99)
    assert 8 * len(payload) / count < entropy * 1.05 + 8 * 400 / count
    assert len(payload) < 2 * count / 150


def test_random_words_are_kept_raw() -> None:
    for name in NAMES:
        dtype = by_name(name)
        for count in (1, 64, 10_000, 100_000):
            assert check(noise(dtype, count), noise(dtype, count, 1), None, dtype) is None


def test_unaligned_and_read_only_arrays() -> None:
    dtype = by_name("float32")
    values, base = walk(dtype, 9000, 0, 50.0)
    raw = bytearray(b"x" + values.tobytes())
    moved: Words = np.frombuffer(raw, dtype.word, offset=1)
    fixed = base.copy()
    fixed.setflags(write=False)
    assert check(moved, fixed, None, dtype) == check(values, base, None, dtype)


def payloads() -> list[tuple[DType, Words, Context, bytes]]:
    found = []
    for name, count, scale in (
        ("float32", 9000, 3e4),
        ("bfloat16", 8500, 40.0),
        ("bfloat16", 9000, 900.0),
        ("bfloat16", 150, 2.0),
    ):
        dtype = by_name(name)
        values, base = walk(dtype, count, 1, scale)
        values[::50] = noise(dtype, values[::50].size)
        for context in (None, (np.arange(count) % 5).astype(np.uint8)):
            payload = reference_payload(values, base, context, dtype)
            assert payload is not None
            found.append((dtype, base, context, payload))
    return found


PAYLOADS = payloads()


def other_forms() -> list[tuple[DType, Words, Context, bytes]]:
    """Payloads of all methods and numbers of states, whatever this package would choose for such blocks."""
    found: list[tuple[DType, Words, Context, bytes]] = []
    for name, count, scale in (("float32", 700, 3e4), ("bfloat16", 650, 2.0)):
        dtype = by_name(name)
        values, base = walk(dtype, count, 1, scale)
        values[::50] = noise(dtype, values[::50].size)
        survey = rans.take_survey(values, base, None, dtype)
        for method, lanes_log2 in FORMS:
            plan = replace(survey.plan, method=method, lanes_log2=lanes_log2)
            payload = rans.encode(values, base, None, dtype, replace(survey, plan=plan))
            assert payload is not None
            found.append((dtype, base, None, payload))
    return found


FORMS = [(CODED, 4), (CODED, 6), (COMPACT, 0), (COMPACT, 2), (COMPACT, 4), (COMPACT, 6)]
PAYLOADS += other_forms()


def survives(payload: bytes, base: Words, context: Context, dtype: DType) -> bool:
    """An error of ours or words, and the same of all implementations. Whether there were words."""
    view = memoryview(payload)

    def outcome(decode: Callable[[], Words]) -> bytes | None:
        try:
            return decode().tobytes()
        except CorruptObjectError as error:
            return None if error.where == "x" else b"names no object"

    results = [outcome(lambda: rans.decode(view, base, context, dtype, source="x"))]
    for kernels in KERNELS:
        decode = functools.partial(kernel_words, kernels, view, base.size, base, context, dtype, "x")
        results.append(outcome(decode))
    assert results[0] != b"names no object"
    assert all(result == results[0] for result in results)
    return results[0] is not None


@given(number=st.integers(0, len(PAYLOADS) - 1), data=st.data())
@settings(max_examples=60)
def test_damaged_payloads(number: int, data: st.DataObject) -> None:
    dtype, base, context, payload = PAYLOADS[number]
    damaged = bytearray(payload)
    # Half of the damage in the header, the tables and the states, which decide most.
    places = st.one_of(
        st.integers(0, len(payload) - 1), st.integers(0, 60), st.integers(len(payload) - 300, len(payload) - 1)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[max(0, data.draw(places))] = data.draw(st.integers(0, 255))
    survives(bytes(damaged), base, context, dtype)


@pytest.mark.parametrize("number", range(len(PAYLOADS)))
def test_escapes_that_are_too_large(number: int) -> None:
    """All implementations drop what a word does not hold."""
    dtype, base, context, payload = PAYLOADS[number]
    damaged = bytearray(payload)
    plan, _ = parse_plan(memoryview(payload), dtype.word_bytes, context is not None, source="test")
    states = 4 * plan.lanes
    assert plan.escapes
    damaged[-states - 2 : -states] = b"\xff\xff"
    assert survives(bytes(damaged), base, context, dtype)


@pytest.mark.parametrize("number", range(len(PAYLOADS)))
def test_truncated_and_longer_payloads(number: int) -> None:
    dtype, base, context, payload = PAYLOADS[number]
    for length in (*range(60), len(payload) // 2, len(payload) - 1):
        assert not survives(payload[:length], base, context, dtype)
    assert not survives(payload + b"\0", base, context, dtype)
    assert survives(payload, base, context, dtype)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [65, 700, 9000])
@pytest.mark.parametrize(("method", "lanes_log2"), FORMS)
def test_every_form_of_any_block(name: str, count: int, method: int, lanes_log2: int) -> None:
    """Also those that this package would not choose."""
    dtype = by_name(name)
    for scale, context in ((0.02, None), (40.0, (np.arange(count) % 20).astype(np.uint8))):
        values, base = walk(dtype, count, count, scale)
        survey = rans.take_survey(values, base, context, dtype)
        survey = replace(survey, plan=replace(survey.plan, method=method, lanes_log2=lanes_log2))
        payload = rans.encode(values, base, context, dtype, survey)
        for kernels in KERNELS:
            space, out = Workspace(), np.empty(kernels.bound(dtype, count), np.uint8)
            length = kernels.encode(values, base, context, dtype, survey, out, space)
            assert payload == (None if length is None else out[:length].tobytes()), kernels.variant
        if payload is not None:
            assert payload[0] in (CONSTANT, method)
            assert survives(payload, base, context, dtype)


def test_compact_tables_take_a_quarter() -> None:
    """Of what plain ones take, for much the same frequencies: what they cost in symbols is less than they save."""
    dtype = by_name("bfloat16")
    values, base = walk(dtype, 1 << 14, 0, 1.5)
    survey = rans.take_survey(values, base, None, dtype)
    assert survey.plan.method == COMPACT
    sizes = {}
    for method in (CODED, COMPACT):
        chosen = replace(survey, plan=replace(survey.plan, method=method, lanes_log2=4))
        payload = rans.encode(values, base, None, dtype, chosen)
        assert payload is not None
        plan, head = parse_plan(memoryview(payload), 2, False, source="test")
        sizes[method] = (plan.table_bytes, len(payload) - plan.table_bytes - head)
    assert 3 * sizes[COMPACT][0] < sizes[CODED][0]
    assert sizes[COMPACT][1] < sizes[CODED][1] * 1.003 + 4


@pytest.mark.parametrize("used", [0, 1, 2, 3, 255])
def test_tables_of_any_length(used: int) -> None:
    """Contexts without a symbol, with one, and with all, one after another."""
    counts = np.zeros((3, 256), np.int64)
    counts[0, :used] = 1 + np.arange(used) ** 3 % 1_000_003
    counts[2, [0, 7, 255]] = 1, 1 << 30, 9
    plan = Plan(0, 9, 4, 8, 3, 0, 0, method=COMPACT)
    for sampled in (False, True):
        found = put_compact_tables(counts, sampled, plan)
        assert found is not None
        data, frequencies = found
        assert frequencies.sum(axis=1).tolist() == [512] * 3
        assert (frequencies[counts > 0] > 0).all()
        assert (get_compact_tables(memoryview(data), plan, source="test") == frequencies).all()
        for damaged in (data + b"\0", data + b"\1", data * 2):
            with pytest.raises(CorruptObjectError, match="tables"):
                get_compact_tables(memoryview(damaged), plan, source="test")


@given(payload=st.binary(max_size=400), name=st.sampled_from(NAMES), count=st.integers(1, 200))
def test_random_bytes(payload: bytes, name: str, count: int) -> None:
    dtype = by_name(name)
    base = noise(dtype, count)
    survives(payload, base, None, dtype)
    for method in (b"\x01", b"\x02"):
        survives(method + payload, base, np.zeros(count, np.uint8), dtype)


def test_another_base_is_an_error_or_other_words() -> None:
    dtype, base, context, payload = PAYLOADS[0]
    survives(payload, np.roll(base, 1), context, dtype)
    survives(payload, base[: base.size // 2], context, dtype)


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda kernels: kernels.variant)
def test_variants_name_themselves(kernels: Kernels) -> None:
    assert kernels.variant in VARIANTS


def test_what_a_sample_hardly_shows_is_guessed_from_neighbours() -> None:
    """Of normal residuals the far ones occur once or never among 3,000; those without a frequency would be escapes."""
    shape = np.exp(-((np.arange(256) / 60.0) ** 2))
    counts = np.random.default_rng(5).multinomial(3000, shape / shape.sum())
    found = normalize(counts, True, 11)
    assert not counts[:130].all()
    assert found[:130].all()
    assert found.sum() == 1 << 11
    assert not normalize(counts, False, 11)[:130].all()


def test_symbols_that_do_not_occur_between_frequent_ones_get_no_frequency() -> None:
    counts = np.zeros(256, dtype=np.int64)
    counts[0:200:4] = 100
    counts[230] = 3
    found = normalize(counts, True, 11)
    assert np.flatnonzero(found).tolist() == [*range(0, 200, 4), 230, 255]
