from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.tensor.box import Box
from deltackpt.tensor.grid import block_count, cut

SHARDS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=4).map(
    lambda dims: Box(tuple(o for o, _ in dims), tuple(s for _, s in dims))
)
LIMITS = st.integers(1, 100)


def by_the_page(shard: Box, limit: int) -> list[Box]:
    """Section 4 of docs/format.md, word by word, element by element."""
    if shard.numel == 0:
        return []
    if shard.ndim == 0:
        return [shard]
    inner = [math.prod(shard.sizes[d + 1 :]) for d in range(shard.ndim)]
    axis = next(d for d in range(shard.ndim) if inner[d] <= limit)
    rows = max(1, limit // inner[axis])
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in np.ndindex(*shard.sizes[: axis + 1]):
        place = [o + i for o, i in zip(shard.offsets, index, strict=False)]
        groups.setdefault((*place[:axis], place[axis] // rows), []).append(place[axis])
    return sorted(
        (
            Box(
                (*group[:axis], min(found), *shard.offsets[axis + 1 :]),
                (*(1,) * axis, len(found), *shard.sizes[axis + 1 :]),
            )
            for group, found in groups.items()
        ),
        key=lambda box: box.offsets,
    )


@given(SHARDS, LIMITS)
def test_the_grid_is_that_of_the_format(shard: Box, limit: int) -> None:
    assert cut(shard, limit) == by_the_page(shard, limit)


@given(SHARDS, LIMITS)
def test_blocks_partition_the_shard(shard: Box, limit: int) -> None:
    seen = np.zeros(shard.sizes, dtype=np.int64)
    for block in cut(shard, limit):
        assert 0 < block.numel <= limit
        seen[block.relative_to(shard).slices()] += 1
    assert (seen == 1).all()


@given(SHARDS, LIMITS)
def test_blocks_are_in_c_order_and_counted(shard: Box, limit: int) -> None:
    blocks = cut(shard, limit)
    assert [b.offsets for b in blocks] == sorted(b.offsets for b in blocks)
    assert block_count(shard, limit) == len(blocks)


@given(
    st.lists(st.integers(1, 8), max_size=2),
    st.integers(1, 60),
    LIMITS,
    st.lists(st.integers(0, 60), max_size=4),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_shardings_along_the_first_dimension_share_all_blocks_but_those_at_the_borders(
    inner: list[int], rows: int, limit: int, one: list[int], other: list[int]
) -> None:
    def blocks(cuts: list[int]) -> set[Box]:
        edges = sorted({0, rows, *(c for c in cuts if c < rows)})
        shards = [Box((a, *(0,) * len(inner)), (b - a, *inner)) for a, b in itertools.pairwise(edges)]
        return {block for shard in shards for block in cut(shard, limit)}

    borders = {c for c in (*one, *other) if c < rows}
    for block in blocks(one) ^ blocks(other):
        first, last = block.offsets[0], block.offsets[0] + block.sizes[0]
        assert any(first <= border <= last for border in borders)


@pytest.mark.parametrize("limit", [1, 7, 1 << 20])
def test_a_scalar_is_one_block_and_an_empty_shard_none(limit: int) -> None:
    assert cut(Box((), ()), limit) == [Box((), ())]
    assert cut(Box((3, 0), (2, 0)), limit) == []
    assert (block_count(Box((), ()), limit), block_count(Box((3, 0), (2, 0)), limit)) == (1, 0)


def test_cuts_are_at_multiples_in_global_coordinates() -> None:
    # 3 columns, blocks of at most 10 elements: 3 rows each, so cuts at 6, 9 and 12, wherever the shard starts.
    assert [(b.offsets[0], b.sizes[0]) for b in cut(Box((5, 2), (8, 3)), 10)] == [(5, 1), (6, 3), (9, 3), (12, 1)]


def test_rows_above_the_limit_are_cut_inside() -> None:
    blocks = cut(Box((4, 0), (2, 10)), 4)
    assert [(b.offsets, b.sizes) for b in blocks[:3]] == [((4, 0), (1, 4)), ((4, 4), (1, 4)), ((4, 8), (1, 2))]
    assert len(blocks) == 6
