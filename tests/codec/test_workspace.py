from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deltackpt.codec import Candidate, Workspace, decode_block, encode_block
from deltackpt.codec.registry import PREVIOUS
from deltackpt.tensor.dtypes import by_name
from tests.codec.helpers import OPTIONS, noise

MIB = 1 << 20
F32 = by_name("float32")


def test_what_is_given_back_is_taken_again() -> None:
    space = Workspace()
    first, second = space.take(MIB), space.take(MIB)
    assert not np.shares_memory(first, second)
    space.give(first)
    assert space.take(MIB // 2) is first
    assert space.take(MIB) is not second


def test_the_smallest_that_is_large_enough() -> None:
    space = Workspace()
    large, small = space.take(3 * MIB), space.take(2 * MIB)
    space.give(small)
    space.give(large)
    assert space.take(MIB) is small
    assert space.take(4 * MIB).size == 4 * MIB
    assert space.take(MIB) is large


def test_a_loan_ends_after_an_error_too() -> None:
    space = Workspace()
    with pytest.raises(ValueError, match="of the borrower"), space.lend(MIB) as lent:
        raise ValueError("of the borrower")
    assert space.take(MIB) is lent


def test_no_more_is_kept_than_the_budget() -> None:
    space = Workspace(budget=2 * MIB)
    buffers = [space.take(MIB) for _ in range(3)]
    for buffer in buffers:
        space.give(buffer)
    assert space.take(MIB) is buffers[2]
    assert space.take(MIB) is buffers[1]
    assert not any(space.take(MIB) is buffer for buffer in buffers)
    space.give(np.empty(3 * MIB, np.uint8))
    assert space.take(3 * MIB).size == 3 * MIB


@pytest.mark.parametrize(
    "look",
    [
        lambda block: block,
        lambda block: block[5:9],
        lambda block: block.view("<u4").reshape(512, -1).T[3],
        lambda block: block.data,
        lambda block: memoryview(block)[100:],
    ],
)
def test_the_memory_of_a_block_comes_back_when_its_last_view_is_gone(look: Callable[[Any], Any]) -> None:
    space = Workspace()
    block = space.block(MIB)
    assert (block.size, block.itemsize, block.flags.c_contiguous, block.flags.writeable) == (MIB, 1, True, True)
    place = block.ctypes.data
    block[:] = 7
    view = look(block)
    del block
    other = space.block(MIB)
    assert other.ctypes.data != place
    other[:] = 1
    assert set(np.asarray(view).tobytes()) == {7}
    del view
    assert space.block(MIB).ctypes.data == place


def test_a_block_never_takes_much_more_than_its_size() -> None:
    space = Workspace()
    space.give(np.empty(4 * MIB, np.uint8))
    block = space.block(MIB)
    assert space.take(4 * MIB).size == 4 * MIB
    place = block.ctypes.data
    del block
    assert space.block(MIB - MIB // 16).ctypes.data == place


def test_a_block_outlives_its_pool() -> None:
    space = Workspace()
    block = space.block(MIB)
    block[:] = 3
    gone = weakref.ref(space)
    del space
    assert gone() is None
    assert np.all(block == 3)


def test_the_garbage_collector_may_give_blocks_back_at_any_moment() -> None:
    """A block in a cycle comes back while its thread is inside the pool."""
    space = Workspace()

    class Lock:
        """Collects garbage while it is held."""

        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __enter__(self) -> None:
            self.lock.acquire()
            cycle: list[Any] = [blocks.pop()] if blocks else []
            cycle.append(cycle)
            del cycle
            gc.collect()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    blocks = [space.block(MIB) for _ in range(3)]
    places = {block.ctypes.data for block in blocks}
    space._lock = Lock()  # type: ignore[assignment]
    held = [space.block(MIB) for _ in range(6)]
    assert len({block.ctypes.data for block in held}) == 6
    assert places <= {block.ctypes.data for block in held}


def test_what_is_cleared_is_not_taken_again() -> None:
    space = Workspace()
    buffer, block = space.take(MIB), space.block(MIB)
    gone, place = weakref.ref(buffer), weakref.ref(block)
    space.give(buffer)
    del buffer, block
    assert gone() is not None
    assert place() is None
    space.clear()
    assert gone() is None
    assert space.take(MIB).size == MIB


@pytest.mark.parametrize("kind", ["near", "noise", "constant"])
def test_what_was_in_a_buffer_does_not_matter(kind: str) -> None:
    """Encoding and decoding in buffers full of something else, and into an array of the caller's."""
    base = noise(F32, 20_000)
    values = {"near": base + np.uint32(3), "noise": noise(F32, 20_000, 1), "constant": base}[kind]
    values = values.copy()
    if kind == "near":
        values[::7] += np.uint32(900)
    data, known = values.view(np.uint8), base.view(np.uint8)
    offers = [Candidate(PREVIOUS, {0: (F32, known)})]
    results = []
    for filling in (0, 0xA5, 0xFF):
        space = Workspace()
        for buffer in [space.take(MIB) for _ in range(6)]:
            buffer[:] = filling
            space.give(buffer)
        encoded = encode_block(data, F32, offers, OPTIONS, workspace=space, room=100)
        results.append((encoded.predictor, encoded.coder, bytes(encoded.payload)))
        out = np.full(data.size, filling, np.uint8)
        used = {} if encoded.choice is None else {0: (F32, known)}
        found = decode_block(encoded, F32, data.size, used, source="test", workspace=space, out=out)
        assert found is out
        assert out.tobytes() == data.tobytes()
        assert encoded.buffer is not None
        assert encoded.buffer[100 : 100 + len(encoded.payload)].tobytes() == results[-1][2]
    assert results[0] == results[1] == results[2]
