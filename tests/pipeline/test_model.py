"""A store against a model of it: whatever is done to the one, all its steps are those of the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import DeltackptError
from deltackpt.format.keys import StepKey
from deltackpt.pipeline.load import load_bytes
from deltackpt.pipeline.verify import verify_store
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.catalog import visible_steps
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import CHAINS, StoreOptions
from deltackpt.tensor.box import Box
from deltackpt.testing.arrays import Stored, load_step, save_step, state_bytes
from deltackpt.testing.faults import Fault, FaultyBackend, Kind, flip_bits
from deltackpt.testing.strategies import tilings
from tests.pipeline.helpers import audit

Arrays = dict[str, NDArray[Any]]

BRANCHES = st.sampled_from(["main", "rl"])
NAMES = st.sampled_from(["a", "b", "c"])
SHAPES = st.sampled_from([(), (0, 3), (7,), (8, 12), (12, 8), (96,), (3, 8, 4)])
DTYPES = st.sampled_from([np.float32, np.int16, np.complex128])
KINDS: tuple[Kind, ...] = ("put", "put_if_absent", "get", "list")

# A weight, its moments and its copy in half precision, which may be predicted from each other.
WEIGHT, FIRST, SECOND, COPY = "model.w", "optim.state.w.exp_avg", "optim.state.w.exp_avg_sq", "half.w"
ROLES = {FIRST: "exp_avg", SECOND: "exp_avg_sq"}


def adam_step(arrays: Arrays, seed: int) -> None:
    """One step of Adam on float32 arrays, and a new copy."""
    gradient = np.random.default_rng(seed).standard_normal(arrays[WEIGHT].shape).astype(np.float32)
    arrays[FIRST] = np.float32(0.9) * arrays[FIRST] + np.float32(0.1) * gradient
    arrays[SECOND] = np.float32(0.99) * arrays[SECOND] + np.float32(0.01) * gradient * gradient
    step = arrays[FIRST].astype(np.float64) / (np.sqrt(arrays[SECOND].astype(np.float64)) + 1e-8)
    arrays[WEIGHT] = arrays[WEIGHT] - (1e-3 * step).astype(np.float32)
    arrays[COPY] = arrays[WEIGHT].astype(np.float16)


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.backend = MemoryBackend()
        self.cache = BaseCache(0)
        # What each branch has in memory, and what each generation of each step was given.
        self.now: dict[str, Arrays] = {"main": {}, "rl": {}}
        self.frozen: dict[str, set[str]] = {"main": set(), "rl": set()}
        self.saved: dict[StepKey, dict[str, bytes]] = {}
        self.store: OpenStore

    @initialize(
        chain=st.sampled_from(CHAINS),
        key_every=st.sampled_from([1, 2, 4, 16]),
        max_depth=st.sampled_from([2, 5, 64]),
        block_elements=st.sampled_from([50, 200, 1000]),
    )
    def create(self, chain: str, key_every: int, max_depth: int, block_elements: int) -> None:
        options = StoreOptions(chain, key_every, max_depth, block_elements, pack_bytes=1024)
        self.store = create_store(self.backend, options)
        for branch in self.now:
            self.new_tensor(branch, "a", (12, 8), np.float32)
            for name in (WEIGHT, FIRST, SECOND):
                self.now[branch][name] = np.ones((16, 12), np.float32)
            adam_step(self.now[branch], seed=len(branch))

    # What happens between saves

    @rule(branch=BRANCHES, name=NAMES, shape=SHAPES, dtype=DTYPES)
    def new_tensor(self, branch: str, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        count = int(np.prod(shape, dtype=int))
        self.now[branch][name] = (np.arange(count) * 100 + len(self.saved)).reshape(shape).astype(dtype)

    @rule(branch=BRANCHES, other=BRANCHES, name=NAMES, twin=NAMES)
    def same_as_another(self, branch: str, other: str, name: str, twin: str) -> None:
        if twin in self.now[other]:
            self.now[branch][name] = self.now[other][twin]

    @rule(branch=BRANCHES, name=NAMES)
    def drop_tensor(self, branch: str, name: str) -> None:
        self.now[branch].pop(name, None)

    @rule(branch=BRANCHES, every=st.integers(1, 6))
    def train(self, branch: str, every: int) -> None:
        if WEIGHT not in self.frozen[branch]:
            adam_step(self.now[branch], seed=every)
        for name in {"a", "b", "c"} & self.now[branch].keys() - self.frozen[branch]:
            changed = self.now[branch][name].copy()
            changed.reshape(-1)[::every] += changed.dtype.type(1)
            self.now[branch][name] = changed

    @rule(branch=BRANCHES, name=NAMES | st.just(WEIGHT))
    def freeze(self, branch: str, name: str) -> None:
        self.frozen[branch] ^= {name}

    @rule(cold=st.booleans())
    def restart(self, cold: bool) -> None:
        self.store = open_store(self.backend)
        if cold:
            self.cache = BaseCache(0)

    # Saves

    def save(self, store: OpenStore, data: st.DataObject, branch: str, step: int) -> None:
        # What belongs together is sharded alike.
        shapes = sorted({array.shape for array in self.now[branch].values()})
        boxes = {shape: data.draw(tilings(shape, max_cuts=1), label=f"layout of {shape}") for shape in shapes}
        state = {
            name: Stored(
                array,
                boxes=boxes[array.shape],
                artifact="optim" if name in ROLES else "model",
                role=ROLES.get(name, "weight"),
            )
            for name, array in self.now[branch].items()
        }
        header = save_step(
            store,
            state,
            step=step,
            branch=branch,
            writers=data.draw(st.integers(1, 2), label="writers"),
            threads=data.draw(st.integers(1, 2), label="threads"),
            cache=self.cache,
            base_memory=data.draw(st.sampled_from([0, 200, 1 << 20]), label="base memory"),
        )
        self.saved[header.key] = state_bytes(state)

    def newest(self, branch: str) -> dict[int, StepKey]:
        return {key.step: key for key in sorted(self.saved) if key.branch == branch}

    @rule(branch=BRANCHES, gaps=st.lists(st.integers(1, 3), min_size=1, max_size=5), data=st.data())
    def train_and_save(self, branch: str, gaps: list[int], data: st.DataObject) -> None:
        for gap in gaps:
            self.save(self.store, data, branch, max(self.newest(branch), default=0) + gap)
            self.train(branch, data.draw(st.integers(1, 6), label="every"))

    @rule(branch=BRANCHES, step=st.integers(0, 12), data=st.data())
    def save_between(self, branch: str, step: int, data: st.DataObject) -> None:
        """Before others, or over one that is there."""
        before = self.newest(branch).get(step)
        self.save(self.store, data, branch, step)
        assert self.newest(branch)[step].generation == (1 if before is None else before.generation + 1)

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def overwrite(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.saved)), label="step")
        self.save_between(key.branch, key.step, data)

    @rule(branch=BRANCHES, kind=st.sampled_from(KINDS), nth=st.integers(1, 12), data=st.data())
    def save_with_a_fault(self, branch: str, kind: Kind, nth: int, data: st.DataObject) -> None:
        faulty = FaultyBackend(self.backend, [Fault(kind, nth=nth)])
        step = max(self.newest(branch), default=0) + 1
        failed = False
        try:
            self.save(OpenStore(faulty, self.store.config), data, branch, step)
        except DeltackptError:
            failed = True
        assert failed == bool(faulty.struck)

    # Reading

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def load_any_generation(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.saved)), label="step")
        assert load_step(self.store, self.store.manifest(key), threads=2) == self.saved[key]

    @precondition(lambda self: any(self.saved.values()))
    @rule(data=st.data())
    def load_a_part(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(key for key, state in self.saved.items() if state)), label="step")
        manifest = self.store.manifest(key)
        entry = data.draw(st.sampled_from(manifest.entries), label="entry")
        offsets = tuple(data.draw(st.integers(0, n)) for n in entry.shape)
        box = Box(offsets, tuple(data.draw(st.integers(0, n - o)) for n, o in zip(entry.shape, offsets, strict=True)))
        whole = self.saved[key][entry.fqn]
        itemsize = len(whole) // max(1, int(np.prod(entry.shape, dtype=int)))
        array = np.frombuffer(whole, f"V{max(1, itemsize)}").reshape(entry.shape)
        assert load_bytes(self.store, manifest, entry.fqn, box, threads=1).tobytes() == array[box.slices()].tobytes()

    @precondition(lambda self: self.saved)
    @rule(number=st.integers(0, 1 << 20), place=st.floats(0, 1, exclude_max=True))
    def damage_and_repair(self, number: int, place: float) -> None:
        """A damaged store gives exact steps and errors, nothing else; repaired, it is as before."""
        # The names and sizes of objects are not the same in every run.
        keys = [info.key for info in self.backend.list() if "/" in info.key]
        key = keys[number % len(keys)]
        intact = self.backend.get(key)
        flip_bits(self.backend, key, int(place * len(intact)))
        fresh = open_store(self.backend)
        for step in sorted(self.saved):
            try:
                loaded = load_step(fresh, fresh.manifest(step))
            except DeltackptError:
                continue
            assert loaded == self.saved[step]
        self.backend.put(key, intact)

    # What always holds

    @invariant()
    def the_visible_steps_are_those_of_the_model(self) -> None:
        newest = {(key.branch, key.step): key for key in sorted(self.saved)}
        assert [step.key for step in visible_steps(OpenStore(self.backend, self.store.config))] == list(newest.values())

    def teardown(self) -> None:
        fresh = open_store(self.backend)
        for key, state in self.saved.items():
            assert load_step(fresh, fresh.manifest(key)) == state
        for branch in self.now:
            for step in self.newest(branch):
                audit(fresh, step, branch)
        assert verify_store(fresh, deep=True, threads=1).ok


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=20, stateful_step_count=20)
