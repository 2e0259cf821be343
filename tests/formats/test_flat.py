"""Ranges of elements and boxes, against plain indexing."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.formats.flat import boxes_of_range, ranges_of_box
from deltackpt.tensor.box import Box

shapes = st.lists(st.integers(1, 5), max_size=4).map(tuple)


@given(shapes, st.data())
def test_a_range_is_boxes_in_order(shape: tuple[int, ...], data: st.DataObject) -> None:
    total = math.prod(shape)
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    elements = np.arange(total).reshape(shape)
    boxes = boxes_of_range(shape, start, stop)
    found = [number for box in boxes for number in np.asarray(elements[box.slices()]).reshape(-1).tolist()]
    assert found == list(range(start, stop))
    assert len(boxes) <= max(1, 2 * len(shape) - 1)
    for box in boxes:
        starts, _ = ranges_of_box(shape, box)
        assert len(list(starts)) == 1


@given(shapes, st.data())
def test_a_box_is_ranges_of_one_length(shape: tuple[int, ...], data: st.DataObject) -> None:
    offsets = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
    sizes = tuple(data.draw(st.integers(1, size - offset)) for size, offset in zip(shape, offsets, strict=True))
    box = Box(offsets, sizes)
    elements = np.arange(math.prod(shape)).reshape(shape)
    starts, length = ranges_of_box(shape, box)
    found = [number for start in starts for number in range(start, start + length)]
    assert found == np.asarray(elements[box.slices()]).reshape(-1).tolist()


def test_no_more_ranges_than_needed() -> None:
    starts, length = ranges_of_box((8, 4, 2), Box((2, 0, 0), (3, 4, 2)))
    assert (list(starts), length) == ([16], 24)
    starts, length = ranges_of_box((8, 4, 2), Box((2, 1, 0), (3, 2, 2)))
    assert (list(starts), length) == ([18, 26, 34], 4)
