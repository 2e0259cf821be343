from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.errors import CorruptObjectError, UnknownVersionError
from deltackpt.format.layout import EntryShapes, ShardColumns, check_layout, grid_counts
from deltackpt.format.origin import Origin
from deltackpt.tensor.box import Box
from deltackpt.tensor.grid import block_count
from deltackpt.testing.strategies import shapes, tilings

Drawn = tuple[tuple[int, ...], list[Box], int]


def check(tensors: Sequence[Drawn], dtype: int = 12, extra: int = 0) -> list[int]:
    boxes = [(box, limit) for _, found, limit in tensors for box in found]
    counts = np.array([block_count(box, max(limit, 1)) for box, limit in boxes], np.int64)
    entries = EntryShapes(
        names=[f"t{number}" for number in range(len(tensors))],
        dtype=np.full(len(tensors), dtype, np.int64),
        block_elements=np.array([limit for _, _, limit in tensors], np.int64),
        ndim=np.array([len(shape) for shape, _, _ in tensors], np.int64),
        shards=np.array([len(found) for _, found, _ in tensors], np.int64),
        shape=np.array([size for shape, _, _ in tensors for size in shape], np.int64),
    )
    shards = ShardColumns(
        np.array([o for box, _ in boxes for o in box.offsets], np.int64),
        np.array([s for box, _ in boxes for s in box.sizes], np.int64),
        counts,
    )
    lengths = check_layout(entries, shards, int(counts.sum()) + extra, Origin("some/object", 7))
    return [int(length) for length in lengths]


@st.composite
def tensors(draw: st.DrawFn, most: int = 5) -> list[Drawn]:
    chosen = draw(st.lists(shapes(), max_size=most))
    return [(shape, draw(tilings(shape, max_cuts=5)), draw(st.integers(1, 9))) for shape in chosen]


@given(tensors())
def test_tilings_are_accepted_and_lengths_computed(drawn: list[Drawn]) -> None:
    assert check(drawn) == [4 * math.prod(shape) for shape, _, _ in drawn]


@given(tensors(), st.data())
def test_any_change_of_a_tiling_is_refused(drawn: list[Drawn], data: st.DataObject) -> None:
    choices = [t for t, (shape, _, _) in enumerate(drawn) if 0 not in shape]
    if not choices:
        return
    at = data.draw(st.sampled_from(choices))
    shape, boxes, limit = drawn[at]
    number = data.draw(st.integers(0, len(boxes) - 1))
    changes = ["drop", "repeat", *(f"{what}{d}" for d in range(len(shape)) for what in "+-<>")]
    change = data.draw(st.sampled_from(changes))
    box = boxes[number]
    if change == "drop":
        changed = [*boxes[:number], *boxes[number + 1 :]]
    elif change == "repeat":
        changed = [*boxes, box]
    else:
        d = int(change[1])
        offsets, sizes = list(box.offsets), list(box.sizes)
        sizes[d] += {"+": 1, "-": -1}.get(change[0], 0)
        offsets[d] += {">": 1, "<": -1}.get(change[0], 0)
        if offsets[d] < 0:
            return
        changed = [*boxes[:number], Box(tuple(offsets), tuple(sizes)), *boxes[number + 1 :]]
    with pytest.raises(CorruptObjectError, match=f"entry 't{at}' has"):
        check([*drawn[:at], (shape, changed, limit), *drawn[at + 1 :]])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=4), st.integers(1, 2000), st.integers(0, 5))
def test_grid_counts_agree_with_the_grid(dims: list[tuple[int, int]], limit: int, scale: int) -> None:
    box = Box(
        tuple(o * 7**scale for o, _ in dims), tuple(s * 5**scale if d == 0 else s for d, (_, s) in enumerate(dims))
    )
    offsets = np.array([box.offsets], np.int64).reshape(1, len(dims))
    sizes = np.array([box.sizes], np.int64).reshape(1, len(dims))
    assert grid_counts(offsets, sizes, np.array([limit])).tolist() == [block_count(box, limit)]


def test_meshes_of_shards_are_accepted() -> None:
    mesh = [Box((i * 3, j * 5), (3, 5)) for j in range(20) for i in range(30)]
    assert check([((90, 100), mesh, 8)]) == [36_000]
    with pytest.raises(CorruptObjectError, match="overlap or do not cover"):
        check([((90, 100), [*mesh[:-1], mesh[0]], 8)])


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (((3,), [], 4), "overlap or do not cover"),
        (((), [], 4), "overlap or do not cover"),
        (((), [Box((), ()), Box((), ())], 4), "overlap or do not cover"),
        (((3,), [Box((0,), (2,)), Box((1,), (2,))], 4), "overlap or do not cover"),
        (((2, 2), [Box((0, 0), (1, 1)), Box((1, 1), (1, 1))], 4), "overlap or do not cover"),
        (((2, 2), [Box((0, 0), (1, 2)), Box((1, 0), (1, 1)), Box((0, 1), (1, 1))], 4), "overlap or do not cover"),
        (((3,), [Box((1,), (3,))], 4), "not inside its shape"),
        (((3,), [Box((2**63 - 1,), (3,))], 1 << 62), "not inside its shape"),
        (((2**62,), [], 4), "more than 2\\*\\*62 bytes"),
        (((2**40,) * 40, [], 4), "more than 2\\*\\*62 bytes"),
        (((3,), [Box.whole((3,))], 0), "the size of blocks is 0"),
        (((1,) * 65, [Box.whole((1,) * 65)], 1), "a number of dimensions is 65"),
    ],
)
def test_each_rule(drawn: Drawn, message: str) -> None:
    with pytest.raises(CorruptObjectError, match=message) as caught:
        check([((2,), [Box.whole((2,))], 4), drawn])
    assert (caught.value.where, caught.value.offset) == ("some/object", 7)


def test_huge_shapes_without_elements_are_taken() -> None:
    shape = (2**40, 0, *(2**40,) * 40)
    assert check([(shape, [Box.whole(shape)], 4), (shape, [], 4)]) == [0, 0]


def test_counts_must_add_up() -> None:
    with pytest.raises(CorruptObjectError, match="blocks of the shards do not add up"):
        check([((2,), [Box.whole((2,))], 4)], extra=1)
    with pytest.raises(UnknownVersionError, match="dtype code 99"):
        check([((2,), [Box.whole((2,))], 4)], dtype=99)


def test_a_wrong_number_of_blocks_is_refused() -> None:
    entries = EntryShapes(["w"], *(np.array([n]) for n in (12, 4, 1, 1, 10)))
    for blocks in (2, 4):
        shards = ShardColumns(np.array([0]), np.array([10]), np.array([blocks]))
        with pytest.raises(CorruptObjectError, match="'w' has a shard whose number of blocks"):
            check_layout(entries, shards, blocks, Origin("some/object"))
