"""Computed predictions and sums of products: every variant of the kernels gives the bits of numpy."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deltackpt.codec import fitting, kernels
from deltackpt.codec.float_env import ieee_arithmetic
from deltackpt.codec.kernels import VARIANTS, Kernels, arithmetic, open_library
from deltackpt.codec.predictors.adam import AdamSecond, AdamWeight
from deltackpt.codec.predictors.cast import Cast
from deltackpt.codec.predictors.scale import Scale
from deltackpt.codec.residual import Words
from deltackpt.codec.types import Predictor, Shape, Slot
from deltackpt.tensor.dtypes import by_name
from tests.codec.helpers import noise, special_words

F32 = by_name("float32")
KERNELS = [found for name in VARIANTS if (found := open_library(name)[0]) is not None]
LENGTHS = [0, 1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000]


@pytest.fixture
def flushing() -> Iterator[None]:
    """Denormals are flushed in this thread."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush denormals")
    yield
    torch.set_flush_denormal(False)


def implementations(action: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the action gives with numpy, and with each variant of the kernels."""
    results = []
    for found in (None, *KERNELS):
        monkeypatch.setattr(kernels, "active", lambda found=found: found)
        results.append(action())
    return results


def words(count: int, seed: int) -> Words:
    """Numbers of all sizes, and special ones among them."""
    taken = noise(F32, count, seed).copy()
    special = np.array(special_words(F32), F32.word)
    random = np.random.default_rng(seed)
    return np.where(random.random(count) < 0.3, random.choice(special, count), taken).astype(F32.word)


def predicted(predictor: Predictor, name: str, inputs: list[Words], params: bytes) -> bytes:
    shape = Shape(by_name(name), inputs[0].size)
    slots = {slot: Slot(F32, array) for slot, array in enumerate(inputs)}
    values = predictor.predict(shape, slots, params, source="test").values
    assert values is not None
    return values.tobytes()


NUMBERS = st.one_of(
    st.floats(width=32), st.sampled_from([0.0, 0.9, 0.999, 1.0, 1e-8, 1e-310, 1e-45, 2.0**-126, float("nan"), 1e300])
)


@given(count=st.sampled_from(LENGTHS), seed=st.integers(0, 1 << 20), numbers=st.tuples(NUMBERS, NUMBERS, NUMBERS))
@settings(max_examples=60)
def test_adam(count: int, seed: int, numbers: tuple[float, float, float]) -> None:
    inputs = [words(count, seed + k) for k in range(3)]
    a, b, c = numbers
    decay = float(np.float32(c)) if not abs(c) > 1e38 else 1.0
    with pytest.MonkeyPatch.context() as patch:
        for predictor, params in (
            (AdamWeight(), struct.pack("<ddf", a, b, decay)),
            (AdamSecond(), struct.pack("<dd", a, b)),
        ):
            results = implementations(functools.partial(predicted, predictor, "float32", inputs, params), patch)
            assert all(result == results[0] for result in results)


def adam_like(count: int, seed: int, tiny: bool) -> list[Words]:
    """A weight and two moments as training has them; ``tiny``, of all sizes down to denormals. A few are special."""
    random = np.random.default_rng(seed)
    scale = 2.0 ** random.integers(-149, 120, (3, count)) if tiny else np.array([[2e-2], [1e-3], [1e-3]])
    numbers = random.standard_normal((3, count)) * scale
    numbers[2] = np.abs(numbers[2]) ** (1 if tiny else 2)
    found = numbers.astype(np.float32).view(F32.word)
    special = np.array(special_words(F32), F32.word)
    places = random.random((3, count)) < 0.001
    found[places] = random.choice(special, int(places.sum()))
    return list(found)


@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("epsilon", [1e-8, 0.0, 1.0, 1e-300, -1e-8])
@pytest.mark.parametrize("rate", [-1e-4, 2.0**-10, -1.0, 0.0, 1e-290, 1e30, 1e300])
def test_adam_as_in_training(rate: float, epsilon: float, tiny: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers for which kernels take a quicker way, which must not be seen."""
    inputs = adam_like(100_000, 7, tiny)
    params = struct.pack("<ddf", rate, epsilon, 0.9999)
    results = implementations(lambda: predicted(AdamWeight(), "float32", inputs, params), monkeypatch)
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("beta1", [0.9, 0.95, 0.0, 1 - 2.0**-50, 1e-300, -3.0])
@pytest.mark.parametrize("beta2", [0.999, 0.9, 0.0, 1 - 2.0**-53, 1.0, 2.0])
def test_adam_second_as_in_training(beta1: float, beta2: float, tiny: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    moment, before, second = adam_like(100_000, 11, tiny)
    inputs, params = [second, moment, before], struct.pack("<dd", beta1, beta2)
    results = implementations(lambda: predicted(AdamSecond(), "float32", inputs, params), monkeypatch)
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize("count", [*LENGTHS, 200_000])
def test_casts(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = words(count, count)
    inputs[: count // 4] = np.random.default_rng(0).integers(0x33000000 - 9, 0x48000000, count // 4, dtype="<u4")
    results = implementations(lambda: predicted(Cast(), name, [inputs], b""), monkeypatch)
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("count", LENGTHS)
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_contexts_of_roots(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = by_name(name)
    slots = {0: Slot(dtype, np.random.default_rng(count).integers(0, 256**dtype.word_bytes, count).astype(dtype.word))}

    def contexts() -> bytes:
        found = Scale().predict(Shape(F32, count), slots, b"", source="test").context
        assert found is not None
        return found.tobytes()

    results = implementations(contexts, monkeypatch)
    assert len(results[0]) == count
    assert all(result == results[0] for result in results)


def test_casts_around_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """All halves widened, half-way numbers between them, and what is beside those."""
    halves = np.arange(1 << 16, dtype="<u2").view("<f2").astype("<f4").view("<u4")
    inputs = np.concatenate([halves + np.uint32(d) for d in (0, 1, 0xFFF, 0x1000, 0x1001, 0xFFFFFFFF)])
    results = implementations(lambda: predicted(Cast(), "float16", [inputs], b""), monkeypatch)
    assert all(result == results[0] for result in results)


def sums(columns: NDArray[np.float64]) -> bytes:
    with ieee_arithmetic():
        return fitting.products(columns).tobytes()


@given(
    count=st.integers(1, 8), length=st.sampled_from(LENGTHS), seed=st.integers(0, 1 << 20), spread=st.integers(0, 600)
)
@settings(max_examples=60)
def test_sums_of_products(count: int, length: int, seed: int, spread: int) -> None:
    random = np.random.default_rng(seed)
    columns = random.standard_normal((count, length)) * 2.0 ** random.integers(-spread, spread + 1, (count, length))
    with pytest.MonkeyPatch.context() as patch:
        results = implementations(lambda: sums(columns), patch)
    assert all(result == results[0] for result in results)
    assert np.frombuffer(results[0]).size == count**2


def test_sums_are_as_good_as_exact() -> None:
    """Numbers that cancel almost entirely."""
    random = np.random.default_rng(0)
    a = random.standard_normal(9000) * 2.0 ** random.integers(-20, 20, 9000)
    b = np.concatenate((random.standard_normal(4500), np.zeros(4500)))
    b[4500:] = -a[:4500] * b[:4500] / a[4500:]
    products = a * b
    exact = sum(map(Fraction, products.tolist()))
    with ieee_arithmetic():
        found = Fraction(float(fitting.products(np.stack((a, b)))[0, 1]))
    assert exact != 0
    assert abs(found - exact) < abs(exact) / (1 << 45)


def test_overflow_gives_no_fit() -> None:
    column = np.full(100, 1e300)
    with ieee_arithmetic():
        assert fitting.solve([column], column) is None


@pytest.mark.parametrize("found", KERNELS, ids=lambda found: found.variant)
def test_the_threads_flags_do_not_matter(found: Kernels, flushing: None) -> None:
    """Nor are they other ones afterwards."""
    tiny: Words = np.arange(1, 200, dtype="<u4")
    zero, out = np.zeros(199, "<u4"), np.empty(199, "<u4")
    second = np.full(199, 1.0, "<f4").view("<u4")
    arithmetic.adam_weight(found, (tiny, zero, second), out, 0.0, 0.0, 1.0)
    assert out.tolist() == tiny.tolist()
    arithmetic.adam_second(found, (tiny, zero, zero), out, 0.0, 1.0)
    assert out.tolist() == tiny.tolist()
    columns = np.full((1, 100), 2.0**-530)
    assert any(arithmetic.products(found, columns).tobytes())
    smallest = np.full(1, 5e-324)
    assert float((smallest + smallest)[0]) == 0.0


@pytest.mark.parametrize("found", KERNELS, ids=lambda found: found.variant)
def test_unaligned_arrays(found: Kernels) -> None:
    raw = bytearray(4 * 101 + 1)
    moved = [np.frombuffer(raw, "<u4", offset=1) for _ in range(2)]
    moved[0][:] = words(101, 3)
    expected, out = np.empty(101, "<u4"), np.empty(101, "<u4")
    copy = moved[0].copy()
    arithmetic.adam_weight(found, (copy, copy, copy), expected, 0.1, 1e-8, 1.0)
    arithmetic.adam_weight(found, (moved[0], moved[1], moved[0]), out, 0.1, 1e-8, 1.0)
    assert out.tobytes() == expected.tobytes()
