from __future__ import annotations

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
