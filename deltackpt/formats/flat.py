"""Ranges of a tensor's elements in C order as boxes, and boxes as ranges. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from deltackpt.tensor.box import Box

__all__ = ["boxes_of_range", "ranges_of_box"]


def boxes_of_range(shape: tuple[int, ...], start: int, stop: int) -> list[Box]:
    """The elements ``[start, stop)`` of a tensor, in C order, as boxes in that order; each is one range by itself.

    At most ``2 * ndim - 1`` of them.
    """
    if stop <= start:
        return []
    if not shape:
        return [Box((), ())]
    inner = math.prod(shape[1:])
    first, begin = divmod(start, inner)
    last, end = divmod(stop, inner)
    if first == last:
        return _inside_row(shape, first, begin, end)
    boxes: list[Box] = []
    if begin:
        boxes += _inside_row(shape, first, begin, inner)
        first += 1
    if last > first:
        boxes.append(Box((first, *(0,) * (len(shape) - 1)), (last - first, *shape[1:])))
    return boxes + _inside_row(shape, last, 0, end)


def _inside_row(shape: tuple[int, ...], row: int, start: int, stop: int) -> list[Box]:
    return [Box((row, *box.offsets), (1, *box.sizes)) for box in boxes_of_range(shape[1:], start, stop)]


def ranges_of_box(shape: tuple[int, ...], box: Box) -> tuple[Iterator[int], int]:
    """The ranges of elements, in C order, that a box of a tensor covers.

    Returns:
        Where each of them starts, in the order of the box's elements, and how many elements every one of them has.
    """
    whole = len(shape)
    while whole > 0 and box.sizes[whole - 1] == shape[whole - 1]:
        whole -= 1
    # Dimensions from `whole` on are covered; one more joins into the range.
    axis = max(whole - 1, 0)
    strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    base = sum(o * s for o, s in zip(box.offsets, strides, strict=True))
    outer = itertools.product(*(range(box.sizes[d]) for d in range(axis)))
    starts = (base + sum(i * s for i, s in zip(index, strides[:axis], strict=True)) for index in outer)
    return starts, math.prod(box.sizes[axis:])
