"""Reading a part of a tensor reads the records of the blocks that it touches, and nothing else of the packs."""

from __future__ import annotations

from types import EllipsisType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltackpt.api import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import IncompleteStepError, InvalidArgumentError, TensorNotFoundError
from deltackpt.format.manifest import Manifest
from deltackpt.pipeline.chains import chain_of
from deltackpt.pipeline.load import DECODE_MEMORY, load_bytes, load_wanted
from deltackpt.pipeline.plan_load import Wanted, plan_load
from deltackpt.pipeline.ranges import RecordPlace, plan_ranges
from deltackpt.store.base import RecordRef, index_lookup
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.tensor.box import Box
from deltackpt.tensor.grid import cut
from deltackpt.testing.arrays import State, Stored, load_manifest, save_step, split, state_bytes
from deltackpt.testing.faults import RecordingBackend
from deltackpt.testing.strategies import shapes, tilings
from tests.pipeline.helpers import floats, near

LIMIT = 64


def ranges(store: OpenStore, manifest: Manifest, fqn: str, box: Box) -> set[tuple[str, int, int]]:
    """The ranges of packs that decoding a box takes: the chains of all blocks that it touches, put together."""
    lookup = index_lookup(store, manifest)
    number = manifest.find(fqn)
    found = set()
    for shard, place in enumerate(manifest.shard_boxes(number)):
        blocks = zip(
            cut(place, manifest.entries[number].block_elements), manifest.block_range(number, shard), strict=True
        )
        for part, block in blocks:
            if part.intersect(box) is None:
                continue
            identity = manifest.indexes[int(manifest.block_index[block])].identity
            for ref in chain_of(RecordRef(identity, int(manifest.block_row[block])), lookup):
                found.add(RecordPlace.of(ref, lookup))
    together = plan_ranges(found, DECODE_MEMORY // 2).values()
    return {(place.pack, place.offset, place.length) for place in together}


def no_write(place: Box, elements: object) -> None:
    raise AssertionError("a plan does not write")


@pytest.fixture(scope="module")
def chained() -> tuple[OpenStore, dict[int, State]]:
    store = create_store(MemoryBackend(), StoreOptions(block_elements=LIMIT))
    states: dict[int, State] = {}
    w = floats(40, 16)
    for step, parts in enumerate((1, 3, 3)):
        states[step] = {"w": Stored(w, boxes=split(w.shape, parts)), "other": floats(300, seed=step)}
        save_step(store, states[step], step=step)
        w = near(w, seed=step)
    return store, states


INDEXES: dict[str, tuple[int | slice | EllipsisType | tuple[int | slice | EllipsisType, ...], Box]] = {
    "one row": (5, Box((5, 0), (1, 16))),
    "one element": ((39, 15), Box((39, 15), (1, 1))),
    "rows": (slice(3, 9), Box((3, 0), (6, 16))),
    "a column": ((..., -1), Box((0, 15), (40, 1))),
    "to the end": (slice(-3, None), Box((37, 0), (3, 16))),
    "a corner": ((slice(20, 21), slice(4, 5)), Box((20, 4), (1, 1))),
    "nothing": (slice(7, 7), Box((7, 0), (0, 16))),
    "nothing, backwards": ((slice(9, 2), 3), Box((9, 3), (0, 1))),
    "everything": (..., Box((0, 0), (40, 16))),
}


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("name", INDEXES)
def test_only_the_records_of_the_blocks_are_read(
    chained: tuple[OpenStore, dict[int, State]], name: str, step: int
) -> None:
    store, states = chained
    index, box = INDEXES[name]
    expected = ranges(store, load_manifest(store, step), "w", box)
    recorder = RecordingBackend(store.backend)
    opened = open_store(recorder)
    recorder.clear()
    part = Store(opened).step(step).tensor("w", index=index)
    values = states[step]["w"].array  # type: ignore[union-attr]
    assert torch.equal(part, torch.from_numpy(values)[index])
    read = [(done.key, done.start, done.size) for done in recorder.operations if done.key.startswith("packs/")]
    assert set(read) == expected
    assert len(read) == len(expected)
    indexes = {done.key for done in recorder.operations if done.key.startswith("indexes/")}
    assert len(indexes) <= step + 1
    if step == 0:
        assert recorder.bytes_read("packs/") == sum(length for _, _, length in expected)


@given(st.data())
@settings(max_examples=60)
def test_any_box_of_any_layout(data: st.DataObject) -> None:
    limit = data.draw(st.integers(1, 12))
    store = create_store(MemoryBackend(), StoreOptions(block_elements=limit))
    shape = data.draw(shapes(max_size=7))
    values = np.arange(int(np.prod(shape, dtype=int)), dtype=np.int32).reshape(shape)
    save_step(store, {"w": Stored(values, boxes=data.draw(tilings(shape)))}, step=1)
    manifest = load_manifest(store, 1)
    offsets = tuple(data.draw(st.integers(0, n)) for n in shape)
    box = Box(offsets, tuple(data.draw(st.integers(0, n - o)) for n, o in zip(shape, offsets, strict=True)))
    recorder = RecordingBackend(store.backend)
    opened = OpenStore(recorder, store.config)
    got = load_bytes(opened, manifest, "w", box, threads=1)
    assert got.tobytes() == values[box.slices()].tobytes()
    read = [(done.key, done.start, done.size) for done in recorder.operations if done.key.startswith("packs/")]
    assert sorted(read) == sorted(ranges(store, manifest, "w", box))


def test_a_shared_record_is_decoded_once_for_all_who_want_it(store: OpenStore) -> None:
    w = floats(8, 16)
    state: State = {"a": w, "b": w.copy(), "c": w.view(np.int32)}
    save_step(store, state, step=1)
    manifest = load_manifest(store, 1)
    got: dict[str, list[tuple[Box, bytes]]] = {}

    def want(fqn: str, box: Box) -> Wanted:
        return Wanted(fqn, box, lambda place, e: got.setdefault(fqn, []).append((place, e.tobytes())))

    boxes = {"a": Box((0, 0), (8, 16)), "b": Box((2, 0), (4, 16)), "c": Box((3, 3), (1, 2))}
    plan = plan_load(manifest, [want(fqn, box) for fqn, box in boxes.items()])
    assert [sorted(copy.wanted.fqn for copy in read.copies) for read in plan] == [["a", "b", "c"], ["a", "b"]]
    assert got == {}


def test_reads_are_planned_in_the_order_of_records(store: OpenStore) -> None:
    state: State = {name: floats(8, 16, seed=n) for n, name in enumerate("dacb")}
    save_step(store, state, step=1)
    manifest = load_manifest(store, 1)
    plan = plan_load(manifest, [Wanted(name, Box((0, 0), (8, 16)), no_write) for name in "abcd"])
    assert [read.ref.row for read in plan] == list(range(8))


def test_plans_of_what_is_not_there(store: OpenStore) -> None:
    save_step(store, {"weight": floats(4, 4)}, step=1)
    manifest = load_manifest(store, 1)
    with pytest.raises(TensorNotFoundError, match="did you mean 'weight'"):
        plan_load(manifest, [Wanted("weights", Box((0, 0), (1, 1)), no_write)])
    for box in (Box((0, 0), (5, 4)), Box((0,), (4,)), Box((-1, 0), (1, 1)), Box((), ())):
        with pytest.raises(InvalidArgumentError, match=r"weight: .* lies outside the shape \[4, 4\]"):
            plan_load(manifest, [Wanted("weight", box, no_write)])
    assert plan_load(manifest, [Wanted("weight", Box((2, 2), (0, 1)), no_write)]) == []
    assert plan_load(manifest, []) == []


def test_a_part_that_no_shard_has(store: OpenStore) -> None:
    """Such a manifest is refused when it is read; a plan does not rely on that."""
    values = floats(4, 4)
    save_step(store, {"w": Stored(values, boxes=split(values.shape, 2))}, step=1)
    manifest = load_manifest(store, 1)
    manifest.shards.sizes[2] = 1
    with pytest.raises(IncompleteStepError, match=r"w: only 12 of 16 elements are in the step"):
        plan_load(manifest, [Wanted("w", Box((0, 0), (4, 4)), no_write)])


def test_loading_everything_reads_neighbours_with_one_request(store: OpenStore) -> None:
    state: State = {"a": floats(40, 16), "b": floats(100, seed=1)}
    save_step(store, state, step=1)
    recorder = RecordingBackend(store.backend)
    loaded = Store(open_store(recorder)).step(1).load()
    assert {k: v.numpy().tobytes() for k, v in loaded.items()} == state_bytes(state)  # type: ignore[attr-defined]
    read = [(done.key, done.start) for done in recorder.operations if done.key.startswith("packs/")]
    assert len(read) == 1


def test_errors_of_the_receiver_come_through(store: OpenStore) -> None:
    save_step(store, {"w": floats(100)}, step=1)
    manifest = load_manifest(store, 1)
    for threads in (1, 3):
        with pytest.raises(AssertionError, match="a plan does not write"):
            load_wanted(store, manifest, [Wanted("w", Box((0,), (100,)), no_write)], threads=threads)
