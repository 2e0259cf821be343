from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deltackpt.codec import residual as residual_module
from deltackpt.codec.residual import from_residual, to_residual
from deltackpt.tensor.dtypes import Kind
from tests.codec import reference

CHUNK = residual_module._CHUNK
WIDTHS = (1, 2, 4, 8)
KINDS: tuple[Kind, ...] = ("int", "float")


def words(values: list[int], width: int) -> NDArray[np.unsignedinteger]:
    return np.array(values, dtype=f"<u{width}")


def check(values: list[int], predictions: list[int] | None, width: int, kind: Kind) -> None:
    given_words = words(values, width)
    base = None if predictions is None else words(predictions, width)
    z = to_residual(given_words, base, kind)
    assert z.dtype == given_words.dtype
    assert z.tolist() == reference.residuals(values, predictions, 8 * width, kind)
    assert from_residual(z.copy(), base, kind).tolist() == values
    assert given_words.tolist() == values


@pytest.mark.parametrize("kind", KINDS)
def test_all_pairs_of_bytes(kind: Kind) -> None:
    values = [v for v in range(256) for _ in range(256)]
    check(values, list(range(256)) * 256, 1, kind)
    check(list(range(256)), None, 1, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", WIDTHS)
@given(data=st.data())
@settings(max_examples=40)
def test_against_integers(width: int, kind: Kind, data: st.DataObject) -> None:
    bits = 8 * width
    edges = st.sampled_from([0, 1, (1 << bits) - 1, 1 << (bits - 1), (1 << (bits - 1)) - 1, (1 << (bits - 1)) + 1])
    pairs = data.draw(st.lists(st.tuples(*[st.integers(0, (1 << bits) - 1) | edges] * 2), max_size=20))
    values = [value for value, _ in pairs]
    check(values, [prediction for _, prediction in pairs], width, kind)
    check(values, None, width, kind)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1])
@pytest.mark.parametrize(("width", "kind"), [(2, "float"), (4, "int"), (8, "float")])
def test_at_the_borders_of_chunks(width: int, kind: Kind, size: int) -> None:
    rng = np.random.default_rng(size)
    values = np.frombuffer(rng.bytes(size * width), f"<u{width}")
    base = np.frombuffer(rng.bytes(size * width), f"<u{width}")
    for prediction in (None, base):
        z = to_residual(values, prediction, kind)
        # One chunk at a time is the same as all at once: no chunk looks at its neighbours.
        for at in {0, size // 2, max(0, size - 3), *(k for k in (CHUNK - 2, 2 * CHUNK - 2) if k < size)}:
            part = slice(at, at + 4)
            expected = None if prediction is None else prediction[part].tolist()
            assert z[part].tolist() == reference.residuals(values[part].tolist(), expected, 8 * width, kind)
        assert from_residual(z, prediction, kind).tobytes() == values.tobytes()


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_neighbours_among_the_floats_are_one_apart(name: str) -> None:
    values = np.array([0.0, 1.0, -1.0, 60000.0, 6e-8, -2.5], dtype=name)
    bits = np.dtype(f"<u{values.dtype.itemsize}")
    for toward, expected in ((np.inf, 2), (-np.inf, 1)):
        there = np.nextafter(values, values.dtype.type(toward))
        # The neighbour below 0.0 is the smallest negative number, but -0.0 comes between them in this order.
        z = to_residual(there.view(bits), values.view(bits), "float").tolist()
        assert z == [3 if toward < 0 and v == 0 else expected for v in values.tolist()]


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_the_order_of_images_is_that_of_floats(name: str) -> None:
    ordered = np.array([-np.inf, -1e4, -1.0, -1e-7, -0.0, 0.0, 1e-7, 1.0, 1e4, np.inf], dtype=name)
    bits = ordered.view(f"<u{ordered.dtype.itemsize}")
    z = to_residual(bits[1:], bits[:-1], "float")
    # A positive difference below half the range is an even residual.
    assert (z % 2 == 0).all()
    assert (z > 0).all()


def test_takes_arrays_that_are_read_only_or_not_aligned() -> None:
    data = np.frombuffer(b"\0" + np.arange(100, dtype="<f4").tobytes(), np.uint8)
    values = data[1:].view("<u4")
    assert not values.flags.writeable
    assert not values.flags.aligned
    z = to_residual(values, values, "float")
    assert not z.any()
    assert from_residual(z, values, "float").tobytes() == values.tobytes()
