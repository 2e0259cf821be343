"""How a restore is planned: what is decoded how often, in which order, with what held; and what is read together."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.api import Store
from deltackpt.backend.local import LocalBackend
from deltackpt.backend.memory import MemoryBackend
from deltackpt.codec import Workspace
from deltackpt.errors import MissingObjectError
from deltackpt.pipeline import decode_tasks
from deltackpt.pipeline.chains import chain_of, chain_of_all
from deltackpt.pipeline.decode import decode_listed
from deltackpt.pipeline.plan_decode import plan_decoding
from deltackpt.pipeline.ranges import RangeReader, RecordPlace, plan_ranges
from deltackpt.store.base import RecordRef, index_lookup
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import State, Stored, load_manifest, load_step, save_step, split, state_bytes
from deltackpt.testing.faults import Fault, FaultyBackend, RecordingBackend
from tests.pipeline.helpers import floats, near
from tests.store.helpers import index_of


class Decodes:
    """Counts how often each record is decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[RecordRef] = Counter()
        lock = threading.Lock()

        def counting(ref: RecordRef, *rest: object) -> object:
            with lock:
                self.counts[ref] += 1
            return decode_listed(ref, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(decode_tasks, "decode_listed", counting)


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> Decodes:
    return Decodes(monkeypatch)


FIRST, SECOND, WEIGHT = "optim.state.w.exp_avg", "optim.state.w.exp_avg_sq", "model.w"


def adam_like(seed: int, before: State | None, size: int = 32) -> State:
    """A weight with its moments, saved at every step."""
    arrays = {name: value.array for name, value in (before or {}).items() if isinstance(value, Stored)}
    g = floats(size, size, seed=seed)
    m = np.float32(0.9) * arrays.get(FIRST, np.zeros_like(g)) + np.float32(0.1) * g
    v = np.float32(0.99) * arrays.get(SECOND, np.zeros_like(g)) + np.float32(0.01) * g * g
    w = arrays.get(WEIGHT, floats(size, size)) - (1e-3 * m / (np.sqrt(v) + 1e-8)).astype(np.float32)
    return {
        WEIGHT: Stored(w.astype(np.float32)),
        FIRST: Stored(m.astype(np.float32), artifact="optim", role="exp_avg"),
        SECOND: Stored(v.astype(np.float32), artifact="optim", role="exp_avg_sq"),
    }


def all_refs(store: OpenStore, step: int) -> list[RecordRef]:
    manifest = load_manifest(store, step)
    pairs = zip(manifest.block_index.tolist(), manifest.block_row.tolist(), strict=True)
    return list(dict.fromkeys(RecordRef(manifest.indexes[k].identity, row) for k, row in pairs))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("layouts", [(1, 1, 1), (4, 3, 5)])
def test_every_record_is_decoded_once(decodes: Decodes, threads: int, layouts: tuple[int, ...]) -> None:
    """Also where blocks of one layout are put together from those of another."""
    store = create_store(MemoryBackend(), StoreOptions("previous", block_elements=64))
    w = floats(40, 16)
    states: list[State] = []
    for step, parts in enumerate(layouts):
        axis = step % 2 if len(set(layouts)) > 1 else 0
        states.append({"w": Stored(w, boxes=split(w.shape, parts, axis=axis)), "zero": np.zeros((40, 16), np.float32)})
        save_step(store, states[-1], step=step)
        w = near(w, seed=step)
    for step, state in enumerate(states):
        decodes.counts.clear()
        assert load_step(open_store(store.backend), step, threads=threads) == state_bytes(state)
        lookup = index_lookup(store, load_manifest(store, step))
        assert decodes.counts == Counter(dict.fromkeys(chain_of_all(all_refs(store, step), lookup), 1))


@given(st.data())
def test_plans_of_any_graph(data: st.DataObject) -> None:
    """Every task finds what it needs, all blocks are there, and nothing is decoded twice if the budget allows."""
    rows = data.draw(st.integers(1, 60))
    needs = [
        [(-1, row) for row in sorted(data.draw(st.sets(st.integers(0, number - 1), max_size=3)))] if number else []
        for number in range(rows)
    ]
    index = index_of(1, needs, [])
    lookup = {index.digest: index}.__getitem__
    refs = [RecordRef(index.digest, row) for row in range(rows)]
    blocks = [refs[row] for row in data.draw(st.lists(st.integers(0, rows - 1), unique=True))]
    available = {refs[row] for row in data.draw(st.sets(st.integers(0, rows - 1), max_size=5))}
    budget = data.draw(st.sampled_from([0, 8, 24, 1 << 20]))
    tasks = plan_decoding(blocks, lookup, budget=budget, available=available)
    shared: set[RecordRef] = set()
    counts: Counter[RecordRef] = Counter()
    for task in tasks:
        done = available | shared
        for ref, below in task.order.items():
            assert done.issuperset(below)
            done.add(ref)
            counts[ref] += 1
        assert all(blocks[number] in done for number in task.wanted)
        if task.shared is not None:
            shared.add(task.shared)
    assert sorted(number for task in tasks for number in task.wanted) == list(range(len(blocks)))
    assert counts.keys() == chain_of_all(blocks, lookup, available).keys()
    if budget == 1 << 20:
        assert set(counts.values()) <= {1}
        assert len(shared) * 8 <= budget


def test_shared_records_are_held_within_the_budget(decodes: Decodes) -> None:
    """A tensor that was dealt out by rows and then by columns needs all of the old blocks for each of the new ones."""
    store = create_store(MemoryBackend(), StoreOptions("previous", block_elements=256))
    w = floats(64, 64)
    save_step(store, {"w": Stored(w, boxes=split(w.shape, 16))}, step=0)
    save_step(store, {"w": Stored(near(w), boxes=split(w.shape, 16, axis=1))}, step=1)
    manifest = load_manifest(store, 1)
    refs = all_refs(store, 1)
    tasks = plan_decoding(refs, index_lookup(store, manifest), budget=4 * 1024)
    assert sum(task.shared is not None for task in tasks) == 4
    assert sum(len(task.order) for task in tasks) > len(chain_of_all(refs, index_lookup(store, manifest)))


# Ranges


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 300_000), st.integers(1, 9_000)), max_size=40))
def test_ranges_cover_their_records_and_little_more(found: list[tuple[str, int, int]]) -> None:
    places = [RecordPlace(*place) for place in found]
    ranges = plan_ranges(places, 100_000)
    assert set(ranges) == set(places)
    for place, whole in ranges.items():
        assert whole.pack == place.pack
        assert whole.offset <= place.offset
        assert whole.offset + whole.length >= place.offset + place.length
        assert whole.length <= 50_000 or whole == place or len({p.pack for p in places}) == 1
    for one in set(ranges.values()):
        inside = sorted(p for p, whole in ranges.items() if whole == one)
        ends = np.maximum.accumulate([p.offset + p.length for p in inside])
        assert all(p.offset - end <= 64 << 10 for p, end in zip(inside[1:], ends, strict=False))


def test_neighbours_are_read_with_one_request_and_held_until_they_are_taken() -> None:
    backend = RecordingBackend(MemoryBackend())
    backend.put("packs/a", bytes(range(100)))
    backend.clear()
    places = [RecordPlace("packs/a", start, 10) for start in (0, 10, 40)]
    reads = {places[0]: 2, places[1]: 1, places[2]: 1}
    reader = RangeReader(backend, plan_ranges(places, 1 << 20), reads, budget=1 << 20, workspace=Workspace())
    assert bytes(reader.read(places[2])) == bytes(range(40, 50))
    assert bytes(reader.read(places[0])) == bytes(reader.read(places[0])) == bytes(range(10))
    assert len(reader._live) == 1
    assert bytes(reader.read(places[1])) == bytes(range(10, 20))
    assert reader._live == {}
    assert backend.count("get") == 1


def test_a_range_that_cannot_be_read_hides_nothing() -> None:
    """What lies before the end of a pack that was cut is read on its own."""
    backend = MemoryBackend()
    backend.put("packs/a", bytes(range(30)))
    places = [RecordPlace("packs/a", start, 10) for start in (0, 10, 25)]
    reader = RangeReader(backend, plan_ranges(places, 1 << 20), Counter(places), budget=1 << 20, workspace=Workspace())
    assert bytes(reader.read(places[1])) == bytes(range(10, 20))
    with pytest.raises(Exception, match="ends"):
        reader.read(places[2])
    assert bytes(reader.read(places[0])) == bytes(range(10))


def test_ranges_beyond_the_budget_are_read_record_by_record(tmp_path: Path) -> None:
    backend = RecordingBackend(LocalBackend(tmp_path / "store", create=True))
    for name in "ab":
        backend.put(f"packs/{name}", bytes(range(200)))
    backend.clear()
    places = [RecordPlace(f"packs/{name}", start, 50) for name in "ab" for start in (0, 50, 100)]
    reader = RangeReader(backend, plan_ranges(places, 1 << 20), Counter(places), budget=150, workspace=Workspace())
    for place in [places[0], *places[3:], *places[1:3]]:
        assert bytes(reader.read(place)) == bytes(range(place.offset, place.offset + 50))
    # One range of three records was held from the first read to the last; in the meantime there was no room.
    assert backend.count("get") == 1 + 3
    assert reader._live == {}


# Walks


@pytest.mark.parametrize(("chain", "steps"), [("previous", 100), ("skip", 33), ("auto", 33), ("tree", 33)])
def test_a_walk_over_many_steps_decodes_every_record_once(decodes: Decodes, chain: str, steps: int) -> None:
    policy = "previous" if chain == "tree" else chain
    store = create_store(MemoryBackend(), StoreOptions(policy, key_every=16, block_elements=1 << 10))
    states: list[State] = []
    for step in range(steps):
        states.append(adam_like(step, states[-1] if states else None))
        save_step(store, states[-1], step=step)
    if chain == "tree":
        # In which steps are decoded from later ones, too.
        Store(store).repack(max_depth=8, memory=1 << 20)
    decodes.counts.clear()
    for step, (found, loaded) in enumerate(Store(open_store(store.backend)).iter_steps(memory=1 << 20)):
        assert found.key.step == step
        got = {fqn: tensor.numpy().tobytes() for fqn, tensor in loaded.items()}  # type: ignore[attr-defined]
        assert got == state_bytes(states[step])
    assert set(decodes.counts.values()) == {1}
    # What is left is what the walk was asked for, and with too little memory more is decoded, but nothing is wrong.
    decodes.counts.clear()
    for found, loaded in Store(store).iter_steps(range(0, steps, 9), "optim.", memory=10_000):
        assert set(loaded) == {FIRST, SECOND}
        assert loaded[FIRST].numpy().tobytes() == state_bytes(states[found.key.step])[FIRST]  # type: ignore[attr-defined]


def test_long_walks_are_planned_in_parts(decodes: Decodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltackpt.pipeline.walk._TOGETHER", 8)
    store = create_store(MemoryBackend(), StoreOptions("previous", key_every=64, block_elements=64))
    w = floats(16, 16)
    for step in range(40):
        save_step(store, {"w": w}, step=step)
        w = near(w, seed=step)
    assert len(list(Store(store).iter_steps())) == 40
    assert set(decodes.counts.values()) == {1}


def test_a_walk_backwards(decodes: Decodes) -> None:
    store = create_store(MemoryBackend(), StoreOptions("previous", key_every=64, block_elements=64))
    states: list[State] = [{"w": floats(16, 16)}]
    for step in range(12):
        save_step(store, states[-1], step=step)
        states.append({"w": near(states[-1]["w"], seed=step)})  # type: ignore[arg-type]
    for found, loaded in Store(store).iter_steps(range(11, -1, -1)):
        assert loaded["w"].numpy().tobytes() == state_bytes(states[found.key.step])["w"]  # type: ignore[attr-defined]
    assert set(decodes.counts.values()) == {1}


def test_a_failure_of_a_shared_record_is_heard_and_ends() -> None:
    backend = MemoryBackend()
    store = create_store(backend, StoreOptions("previous", block_elements=64))
    w = floats(40, 16)
    for step, parts in enumerate((5, 3)):
        save_step(store, {"w": Stored(w, boxes=split(w.shape, parts, axis=step))}, step=step)
        w = near(w)
    manifest = load_manifest(store, 1)
    for nth in (1, 2):
        faults = [Fault("get", prefix="packs/", nth=nth, times=None, error=lambda: MissingObjectError("gone"))]
        opened = open_store(FaultyBackend(backend, faults))
        with pytest.raises(MissingObjectError, match="needed for w of step main:1"):
            load_step(opened, manifest, threads=3)


def test_chain_of_all_several() -> None:
    index = index_of(1, [[], [(-1, 0)], [(-1, 1)], [(-1, 1)]], [])
    lookup = {index.digest: index}.__getitem__
    refs = [RecordRef(index.digest, row) for row in range(4)]
    assert list(chain_of_all([refs[3], refs[2]], lookup)) == refs
    assert list(chain_of_all([refs[3], refs[1]], lookup, {refs[1]})) == [refs[3]]
    assert list(chain_of(refs[2], lookup)) == refs[:3]
