"""Predictors that compute with floats against the same formulas in plain Python, bit for bit."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deltackpt.codec import registry
from deltackpt.codec.registry import ADAM_SECOND, ADAM_WEIGHT, CAST, LINEAR, SCALE
from deltackpt.codec.types import Shape, Slot
from deltackpt.tensor.dtypes import by_name
from tests.codec import reference
from tests.codec.helpers import special_words

F32 = by_name("float32")
SPECIAL = special_words(F32)

# Anything, the extremes, and numbers as they are in training.
WORDS = st.one_of(
    st.integers(0, (1 << 32) - 1),
    st.sampled_from(SPECIAL),
    st.floats(-1, 1, width=32).map(reference.to_word),
)
TRIPLES = st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=30)


def predict(number: int, name: str, slots: list[list[int]], params: bytes) -> list[int]:
    shape = Shape(by_name(name), len(slots[0]))
    inputs = {slot: Slot(F32, np.array(words, "<u4")) for slot, words in enumerate(slots)}
    found = registry.predictor(number, source="x").predict(shape, inputs, params, source="x").values
    assert found is not None
    values: NDArray[np.unsignedinteger] = found
    return [int(word) for word in values]


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@given(words=st.lists(WORDS, min_size=1, max_size=100))
def test_cast(name: str, words: list[int]) -> None:
    assert predict(CAST, name, [words], b"") == [reference.cast(word, name) for word in words]


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_cast_at_every_place_where_it_rounds(name: str) -> None:
    """All 16-bit results with what lies just below, at and above the middle to the next one."""
    shift = {"bfloat16": 16, "float16": 13}[name]
    words = [
        (high << shift | low) & 0xFFFFFFFF
        for high in range(0, 1 << (32 - shift), 7 if name == "bfloat16" else 61)
        for middle in [1 << (shift - 1)]
        for low in (0, 1, middle - 1, middle, middle + 1, (1 << shift) - 1)
    ]
    assert predict(CAST, name, [words], b"") == [reference.cast(word, name) for word in words]


@given(
    triples=TRIPLES,
    rate=st.floats(-1, 1) | st.floats(),
    epsilon=st.sampled_from([1e-8, 0.0, 1e-15]) | st.floats(),
    decay=st.floats(0.5, 1, width=32) | st.floats(width=32),
)
def test_adam_weight(triples: list[tuple[int, int, int]], rate: float, epsilon: float, decay: float) -> None:
    params = struct.pack("<ddf", rate, epsilon, decay)
    slots = [list(column) for column in zip(*triples, strict=True)]
    expected = [reference.adam_weight(w, m, v, rate, epsilon, decay) for w, m, v in triples]
    assert predict(ADAM_WEIGHT, "float32", slots, params) == expected


@given(
    triples=TRIPLES,
    beta1=st.sampled_from([0.9, 0.85, 0.0]) | st.floats(),
    beta2=st.sampled_from([0.999, 0.95, 0.0]) | st.floats(),
)
def test_adam_second(triples: list[tuple[int, int, int]], beta1: float, beta2: float) -> None:
    params = struct.pack("<dd", beta1, beta2)
    slots = [list(column) for column in zip(*triples, strict=True)]
    expected = [reference.adam_second(v, m, before, beta1, beta2) for v, m, before in triples]
    assert predict(ADAM_SECOND, "float32", slots, params) == expected


@given(
    rows=st.lists(st.tuples(*[WORDS] * 5), min_size=1, max_size=20),
    terms=st.lists(
        st.tuples(
            st.integers(1, 3),
            st.integers(0, 4),
            st.integers(0, 4),
            st.sampled_from([0.0, 1e-8, 0.9]) | st.floats(),
            st.sampled_from([1.0, -3e-4]) | st.floats(),
        )
        | st.tuples(st.just(0), st.integers(0, 4), st.just(0), st.just(0.0), st.floats()),
        min_size=1,
        max_size=8,
    ),
)
def test_linear(rows: list[tuple[int, ...]], terms: list[reference.Term]) -> None:
    params = bytes([len(terms)]) + b"".join(struct.pack("<BBBdd", *term) for term in terms)
    used = {0} | {slot for op, a, b, *_ in terms for slot in ((a, b) if op else (a,))}
    inputs = {slot: Slot(F32, np.array([row[slot] for row in rows], "<u4")) for slot in used}
    found = registry.predictor(LINEAR, source="x").predict(Shape(F32, len(rows)), inputs, params, source="x").values
    assert found is not None
    assert found.tolist() == [reference.linear(row, terms) for row in rows]


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@given(words=st.lists(WORDS, min_size=1, max_size=100))
def test_scale(name: str, words: list[int]) -> None:
    dtype = by_name(name)
    array = np.array([word >> (32 - 8 * dtype.word_bytes) for word in words], dtype.word)
    shape = Shape(by_name("float16"), len(words))
    found = registry.predictor(SCALE, source="x").predict(shape, {0: Slot(dtype, array)}, b"", source="x")
    assert found.values is None
    assert found.context is not None
    assert found.context.tolist() == [reference.scale_context(int(word), name) for word in array]


def test_adam_over_more_than_one_chunk() -> None:
    """Chunks of the computation do not see each other."""
    rng = np.random.default_rng(0)
    slots = [rng.standard_normal(40_000).astype("<f4").view("<u4").tolist() for _ in range(3)]
    for number, params in (
        (ADAM_WEIGHT, struct.pack("<ddf", -1e-3, 1e-8, 0.99)),
        (ADAM_SECOND, struct.pack("<dd", 0.9, 0.95)),
    ):
        got = predict(number, "float32", slots, params)
        for at in (0, 16_383, 16_384, 32_767, 32_768, 39_999):
            alone = [[words[at]] for words in slots]
            assert predict(number, "float32", alone, params) == [got[at]]
