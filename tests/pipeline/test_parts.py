"""The small parts of the pipeline on their own: the ordered map, the pack sink, needs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.backend.memory import MemoryBackend
from deltackpt.codec import Workspace
from deltackpt.errors import BackendError
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.keys import pack_key
from deltackpt.format.pack import walk_pack
from deltackpt.format.record import encode_record
from deltackpt.pipeline.ordered import ordered_map
from deltackpt.pipeline.pack_sink import PackSink
from deltackpt.pipeline.plan_save import base_needs
from deltackpt.store.base import BaseBlock, RecordRef
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_name
from deltackpt.testing.faults import Fault, FaultyBackend, RecordingBackend
from tests.pipeline.test_decode import raw_record

# The ordered map


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 30))
def test_results_come_in_order_with_a_window_in_work(threads: int, window: int, count: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(count):
            taken += 1
            yield number

    with ThreadPoolExecutor(threads) as executor:
        for number, result in enumerate(ordered_map(executor, lambda n: n * n, items(), window=window)):
            assert result == number * number
            assert taken <= number + window
    assert taken == count


def test_the_first_error_comes_where_its_result_would() -> None:
    started = []

    def work(number: int) -> int:
        started.append(number)
        if number >= 3:
            raise ValueError(f"item {number}")
        return number

    found: list[int] = []
    with ThreadPoolExecutor(1) as executor, pytest.raises(ValueError, match="item 3"):
        found.extend(ordered_map(executor, work, range(100), window=4))
    assert found == [0, 1, 2]
    assert max(started) <= 7


def test_what_waits_is_dropped_when_nobody_asks_any_more() -> None:
    started: list[int] = []
    gate = threading.Event()

    def work(number: int) -> int:
        started.append(number)
        if number:
            gate.wait(10)
        return number

    with ThreadPoolExecutor(1) as executor:
        results = ordered_map(executor, work, range(100), window=5)
        assert next(results) == 0
        results.close()  # type: ignore[attr-defined]
        gate.set()
    assert started in ([0], [0, 1])


# The pack sink


def record(size: int, value: int) -> bytes:
    return encode_record(raw_record(bytes([value]) * size))


def test_records_lie_where_the_sink_says_in_packs_of_one_artifact() -> None:
    backend = MemoryBackend()
    placed = []
    with PackSink(backend, 1024, Workspace()) as sink:
        for number in range(40):
            data = record(10 * number, number)
            placed.append((("optim", "model")[number >= 25], data, sink.add(("optim", "model")[number >= 25], data)))
        packs = sink.finish()
    assert len(packs) > 4
    assert len(list(backend.list())) == len(packs)
    for artifact, data, (number, offset) in placed:
        pack = backend.get(pack_key(packs[number].name))
        assert packs[number].artifact == artifact
        assert pack[offset : offset + len(data)] == data
    for info in packs:
        pack = backend.get(pack_key(info.name))
        assert blake3_digest(pack) == info.name
        assert len(pack) == info.size <= 1024
        assert list(walk_pack(pack, source="x"))
    # No pack could have taken the first record of the next one.
    for (before, _, (full, _)), (artifact, data, (_, offset)) in pairwise(placed):
        if offset == 24 and before == artifact:
            assert packs[full].size + len(data) > 1024


def test_packs_of_an_artifact_grow_to_their_size() -> None:
    """So that there is something to put early."""
    with PackSink(MemoryBackend(), 4096, Workspace(), 1024) as sink:
        for artifact in ("a", "b"):
            for number in range(120):
                sink.add(artifact, record(40, number))
        packs = sink.finish()
    for artifact in ("a", "b"):
        sizes = [pack.size for pack in packs if pack.artifact == artifact]
        assert [limit for size, limit in zip(sizes[:-1], (1024, 2048, 4096, 4096), strict=False) if size > limit] == []
        assert [limit for size, limit in zip(sizes[:-1], (1024, 2048, 4096), strict=True) if size < limit - 110] == []


def test_an_empty_sink_and_one_record() -> None:
    backend = RecordingBackend(MemoryBackend())
    with PackSink(backend, 1024, Workspace()) as sink:
        assert sink.finish() == ()
    assert backend.operations == ()
    with PackSink(backend, 1024, Workspace()) as sink:
        assert sink.add("a", record(5000, 1)) == (0, 24)
        (pack,) = sink.finish()
    assert pack.size > 5000


def test_a_failed_put_is_told_at_the_next_pack_or_at_the_end() -> None:
    backend = FaultyBackend(MemoryBackend(), [Fault("put", nth=2)])
    added: list[int] = []

    def add(number: int) -> None:
        sink.add("a", record(700, number))
        added.append(number)

    with PackSink(backend, 1024, Workspace()) as sink, pytest.raises(BackendError, match="injected"):
        any(map(add, range(100)))
    assert added in ([0, 1, 2], [0, 1, 2, 3])
    backend = FaultyBackend(MemoryBackend(), [Fault("put")])
    with PackSink(backend, 1024, Workspace()) as sink:
        sink.add("a", record(10, 1))
        with pytest.raises(BackendError, match="injected"):
            sink.finish()


def test_one_pack_is_put_while_the_next_one_fills() -> None:
    entered, gate = threading.Event(), threading.Event()

    class Slow(MemoryBackend):
        def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
            entered.set()
            assert gate.wait(10)
            super().put(key, data)

    with PackSink(Slow(), 1024, Workspace()) as sink:
        sink.add("a", record(800, 1))
        sink.add("a", record(800, 2))
        assert entered.wait(10)
        sink.add("a", record(10, 3))
        gate.set()
        assert len(sink.finish()) == 2


def test_packs_take_over_the_memory_of_earlier_ones_once_those_are_put() -> None:
    backend, places = MemoryBackend(), []

    class Watched(MemoryBackend):
        def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
            places.append(np.frombuffer(data, np.uint8).ctypes.data)
            backend.put(key, data)

    with PackSink(Watched(), 4096, Workspace()) as sink:
        added = [(number, *sink.add("a", record(3000, number))) for number in range(5)]
        packs = sink.finish()
    assert len(places) == 5
    # How many depends on how long a put takes; that of the first is free before the last is begun.
    assert len(set(places)) < 5
    for number, pack, offset in added:
        data = backend.get(pack_key(packs[pack].name))
        assert blake3_digest(data) == packs[pack].name
        stored = record(3000, number)
        assert data[offset : offset + len(stored)] == stored


# Needs


def base(offsets: tuple[int, ...], sizes: tuple[int, ...], value: int) -> BaseBlock:
    return BaseBlock(RecordRef(b"i" * 32, value), bytes([value]) * 16, Box(offsets, sizes), 1, True)


def test_a_twin_is_needed_whole_and_others_by_their_boxes() -> None:
    dtype = by_name("bfloat16")
    box = Box((4, 0), (4, 6))
    (need,) = base_needs(box, dtype, [base((4, 0), (4, 6), 1)])
    assert (need.slot, need.dtype, need.address, need.tile) == (0, dtype.code, b"\1" * 16, None)

    second, first, outside = base((4, 3), (9, 4), 2), base((0, 0), (9, 3), 1), base((8, 0), (2, 6), 3)
    needs = base_needs(box, dtype, [second, outside, first])
    assert [n.address[0] for n in needs] == [1, 2]
    tiles = [n.tile for n in needs]
    one, two = (tile for tile in tiles if tile is not None)
    assert (one.source_shape, one.source_offsets, one.sizes, one.offsets) == ((9, 3), (4, 0), (4, 3), (0, 0))
    assert (two.source_shape, two.source_offsets, two.sizes, two.offsets) == ((9, 4), (0, 0), (4, 3), (0, 3))
    assert base_needs(box, dtype, []) == ()
