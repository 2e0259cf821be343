from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import CorruptObjectError
from deltackpt.format.hashing import address
from deltackpt.format.keys import index_key
from deltackpt.store.base import BaseView, index_lookup
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_name
from deltackpt.tensor.grid import cut
from deltackpt.testing.arrays import Stored, load_manifest, save_step, split
from deltackpt.testing.faults import flip_bits
from deltackpt.testing.strategies import shapes, tilings

F32 = by_name("float32").code


def array(shape: tuple[int, ...], seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@given(shapes(), st.integers(1, 12), st.data())
def test_finds_the_blocks_that_overlap(shape: tuple[int, ...], limit: int, data: st.DataObject) -> None:
    store = create_store(MemoryBackend(), StoreOptions(block_elements=limit))
    values = array(shape)
    boxes = data.draw(tilings(shape))
    save_step(store, {"w": Stored(values, boxes=boxes)}, step=1)
    view = BaseView(store, load_manifest(store, 1))
    blocks = [block for box in boxes for block in cut(box, limit)]
    offsets = tuple(data.draw(st.integers(0, n)) for n in shape)
    asked = Box(offsets, tuple(data.draw(st.integers(0, n - o + 2)) for n, o in zip(shape, offsets, strict=True)))

    found = view.blocks("w", "tensor", F32, asked)
    assert [b.box for b in found] == [b for b in blocks if b.intersect(asked) is not None]
    for block in found:
        assert block.address == address(values[block.box.slices()].tobytes())
        assert block.depth == 1
    for place in blocks:
        assert [b.box for b in view.blocks("w", "tensor", F32, place)] == [place]


def test_another_thing_of_the_same_name_is_no_base(store: OpenStore) -> None:
    save_step(store, {"w": array((4, 4)), "o": Stored(np.zeros(9, np.uint8), kind="object")}, step=1)
    view = BaseView(store, load_manifest(store, 1))
    box = Box((0, 0), (4, 4))
    assert len(view.blocks("w", "tensor", F32, box)) == 1
    assert view.blocks("v", "tensor", F32, box) == []
    assert view.blocks("w", "object", F32, box) == []
    assert view.blocks("w", "tensor", by_name("int32").code, box) == []
    assert view.blocks("w", "tensor", F32, Box((0,), (16,))) == []
    assert view.blocks("o", "tensor", 2, Box((0,), (9,))) == []
    assert len(view.blocks("o", "object", 2, Box((0,), (9,)))) == 1


def test_blocks_whose_chain_of_indexes_is_broken_are_left_out(
    store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the broken index is not that of the block, but one that it builds on."""
    values = array((8, 16))
    boxes = split(values.shape, 2)
    frozen = array((8,), seed=1)
    save_step(store, {"w": Stored(values, boxes=boxes), "v": frozen}, step=1, writers=2)
    save_step(store, {"w": Stored(values * np.float32(1.0001), boxes=boxes), "v": frozen}, step=2, writers=2)
    first, manifest = load_manifest(store, 1), load_manifest(store, 2)
    assert (len(first.indexes), len(manifest.indexes)) == (2, 4)
    # The second half of w was written by the second writer; all else by the first.
    broken = first.indexes[int(first.block_index[first.block_range(first.find("w"), 1)[0]])]
    flip_bits(store.backend, index_key(broken.object), 60)

    view = BaseView(open_store(store.backend), manifest)
    with caplog.at_level(logging.WARNING, "deltackpt"):
        assert len(view.blocks("w", "tensor", F32, boxes[0])) == 1
        assert len(view.blocks("v", "tensor", F32, Box((0,), (8,)))) == 1
        assert view.blocks("w", "tensor", F32, boxes[1]) == []
        assert view.blocks("w", "tensor", F32, boxes[1]) == []
        assert [b.box for b in view.blocks("w", "tensor", F32, Box((0, 0), (8, 16)))] == [boxes[0]]
    assert len(caplog.records) == 1
    assert index_key(broken.object) in caplog.text


def test_indexes_that_a_step_does_not_list(store: OpenStore) -> None:
    save_step(store, {"w": array((4, 4))}, step=1)
    lookup = index_lookup(store, load_manifest(store, 1))
    with pytest.raises(CorruptObjectError, match=r"index 0101.* is needed but not in the step's closure"):
        lookup(b"\1" * 32)
