from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.format import boxes
from deltackpt.format.boxes import disjoint
from deltackpt.tensor.box import Box
from deltackpt.testing.strategies import shapes, tilings


def arrays(found: list[Box], ndim: int) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.int64]], ...]:
    offsets = np.array([box.offsets for box in found], np.int64).reshape(len(found), ndim)
    sizes = np.array([box.sizes for box in found], np.int64).reshape(len(found), ndim)
    return offsets, sizes


BOXES = st.integers(0, 3).flatmap(
    lambda ndim: st.lists(
        st.builds(
            Box,
            st.tuples(*[st.integers(0, 5)] * ndim),
            st.tuples(*[st.integers(0, 3)] * ndim),
        ),
        max_size=6,
    ).map(lambda found: (ndim, found))
)


@given(BOXES)
def test_it_agrees_with_pairwise_intersection(drawn: tuple[int, list[Box]]) -> None:
    ndim, found = drawn
    pairs = [(a, b) for i, a in enumerate(found) for b in found[i + 1 :]]
    apart = all(a.numel == 0 or b.numel == 0 or a.intersect(b) is None for a, b in pairs)
    assert disjoint(*arrays(found, ndim)) == apart


@given(st.data())
def test_tilings_are_disjoint(data: st.DataObject) -> None:
    shape = data.draw(shapes())
    assert disjoint(*arrays(data.draw(tilings(shape)), len(shape)))


@pytest.mark.parametrize("pairs", [1, 7, 1 << 18])
def test_it_does_not_depend_on_how_pairs_are_grouped(monkeypatch: pytest.MonkeyPatch, pairs: int) -> None:
    monkeypatch.setattr(boxes, "_PAIRS", pairs)
    mesh = [Box((i * 4, j * 4), (4, 4)) for i in range(9) for j in range(7)]
    assert disjoint(*arrays(mesh, 2))
    for at in (0, 31, 62):
        moved = Box((mesh[at].offsets[0] + (1 if at == 0 else -1), mesh[at].offsets[1]), (4, 4))
        assert not disjoint(*arrays([*mesh[:at], moved, *mesh[at + 1 :]], 2))


def test_many_boxes_with_one_range_in_common() -> None:
    columns = [Box((0, j), (100, 1)) for j in range(5000)]
    assert disjoint(*arrays(columns, 2))
    assert not disjoint(*arrays([*columns, Box((50, 4999), (1, 1))], 2))
