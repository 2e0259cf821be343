from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.tensor.box import Box


@st.composite
def boxes_in_shape(draw: st.DrawFn, count: int = 2) -> tuple[tuple[int, ...], list[Box]]:
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    found = []
    for _ in range(count):
        offsets = tuple(draw(st.integers(0, n)) for n in shape)
        sizes = tuple(draw(st.integers(0, n - o)) for n, o in zip(shape, offsets, strict=True))
        found.append(Box(offsets, sizes))
    return shape, found


def elements(box: Box) -> set[tuple[int, ...]]:
    return set(itertools.product(*(range(o, o + s) for o, s in zip(box.offsets, box.sizes, strict=True))))


@given(boxes_in_shape())
def test_intersect_is_the_set_of_common_elements(drawn: tuple[tuple[int, ...], list[Box]]) -> None:
    _, (one, other) = drawn
    common = one.intersect(other)
    expected = elements(one) & elements(other)
    assert (elements(common) if common is not None else set()) == expected
    assert other.intersect(one) == common
    assert common is None or common.numel == len(expected) > 0


@given(boxes_in_shape(count=1))
def test_slices_numel_and_inside(drawn: tuple[tuple[int, ...], list[Box]]) -> None:
    shape, (box,) = drawn
    marked = np.zeros(shape, dtype=np.int64)
    marked[box.slices()] = 1
    assert {tuple(map(int, at)) for at in np.argwhere(marked)} == elements(box)
    assert box.numel == len(elements(box)) == int(marked.sum())
    assert box.inside(shape)
    assert box.ndim == len(shape)


def test_whole_covers_everything() -> None:
    assert Box.whole((2, 3)) == Box((0, 0), (2, 3))
    assert Box.whole(()) == Box((), ())
    assert Box.whole(()).numel == 1
    assert Box.whole((3, 0)).numel == 0


def test_a_scalar_meets_itself() -> None:
    assert Box((), ()).intersect(Box((), ())) == Box((), ())


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        (Box((0,), (4,)), (3,)),
        (Box((3,), (1,)), (3,)),
        (Box((-1,), (2,)), (3,)),
        (Box((4,), (0,)), (3,)),
        (Box((1,), (-1,)), (3,)),
        (Box((0, 0), (1, 1)), (3,)),
        (Box((), ()), (1,)),
    ],
)
def test_outside(box: Box, shape: tuple[int, ...]) -> None:
    assert not box.inside(shape)


def test_relative_to() -> None:
    assert Box((5, 7), (2, 1)).relative_to(Box((4, 7), (9, 9))) == Box((1, 0), (2, 1))


def test_boxes_of_different_dimensions_do_not_mix() -> None:
    for method in (Box((0,), (1,)).intersect, Box((0,), (1,)).relative_to):
        with pytest.raises(ValueError, match=r"shorter|longer"):
            method(Box((0, 0), (1, 1)))
