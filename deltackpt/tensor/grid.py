"""The block grid: how a shard is cut into blocks. Section 4 of ``docs/format.md``; a pure function of its arguments."""

from __future__ import annotations

import itertools
import math

from deltackpt.tensor.box import Box

__all__ = ["block_count", "cut"]


def _axis(sizes: tuple[int, ...], block_elements: int) -> tuple[int, int]:
    """The dimension along which rows are grouped, and how many rows make a block."""
    for axis in range(len(sizes)):
        inner = math.prod(sizes[axis + 1 :])
        if inner <= block_elements:
            return axis, max(1, block_elements // inner)
    raise AssertionError("a box with dimensions has a last one")


def _ranges(offset: int, size: int, rows: int) -> list[tuple[int, int]]:
    """``[offset, offset + size)`` cut at every global multiple of ``rows``, as (offset, size) pairs."""
    end = offset + size
    cuts = [offset, *range((offset // rows + 1) * rows, end, rows), end]
    return [(a, b - a) for a, b in itertools.pairwise(cuts)]


def cut(shard: Box, block_elements: int) -> list[Box]:
    """The blocks of a shard, in C order of their offsets.

    Args:
        shard: the box that was saved, in global coordinates.
        block_elements: the most elements of a block (at least 1).
    """
    if shard.numel == 0:
        return []
    if shard.ndim == 0:
        return [shard]
    axis, rows = _axis(shard.sizes, block_elements)
    outer = [range(o, o + s) for o, s in zip(shard.offsets[:axis], shard.sizes[:axis], strict=True)]
    along = _ranges(shard.offsets[axis], shard.sizes[axis], rows)
    inner_offsets, inner_sizes = shard.offsets[axis + 1 :], shard.sizes[axis + 1 :]
    return [
        Box((*index, offset, *inner_offsets), (*(1,) * axis, size, *inner_sizes))
        for index in itertools.product(*outer)
        for offset, size in along
    ]


def block_count(shard: Box, block_elements: int) -> int:
    """``len(cut(shard, block_elements))`` without making the boxes."""
    if shard.numel == 0:
        return 0
    if shard.ndim == 0:
        return 1
    axis, rows = _axis(shard.sizes, block_elements)
    offset, size = shard.offsets[axis], shard.sizes[axis]
    return math.prod(shard.sizes[:axis]) * ((offset + size - 1) // rows - offset // rows + 1)
