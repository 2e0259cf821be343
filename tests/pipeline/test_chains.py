"""Which step a save builds on, and how deep its records get."""

from __future__ import annotations

import pytest

from deltackpt.backend.memory import MemoryBackend
from deltackpt.format.keys import StepKey, manifest_key
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import State, Stored, load_manifest, save_step
from tests.pipeline.helpers import blocks_of, check, floats, indexes_of, near, own_index


def chain(options: StoreOptions, steps: int, cache: BaseCache | None = None) -> tuple[OpenStore, dict[int, State]]:
    """A store with steps of which every block changes a little each time."""
    store = create_store(MemoryBackend(), options)
    states: dict[int, State] = {}
    w = floats(16, 16)
    for step in range(steps):
        states[step] = {"w": w}
        save_step(store, states[step], step=step, cache=cache, base_memory=1 << 20)
        w = near(w, seed=step)
    return store, states


def headers(store: OpenStore, steps: int) -> list[tuple[int, int, int]]:
    """Of every step: depth, distance, and the key step of its chain."""
    found = [load_manifest(store, step).header for step in range(steps)]
    return [(h.depth, h.distance, h.chain_key[1]) for h in found]


def depths(store: OpenStore, step: int) -> set[int]:
    return set(own_index(store, step).identity.depth.tolist())


def test_previous() -> None:
    store, states = chain(StoreOptions("previous", key_every=3, block_elements=64), 7)
    assert headers(store, 7) == [(1, 0, 0), (2, 1, 0), (3, 2, 0), (1, 0, 3), (2, 1, 3), (3, 2, 3), (1, 0, 6)]
    assert [depths(store, step) for step in range(7)] == [{1}, {2}, {3}, {1}, {2}, {3}, {1}]
    bases = [own_index(store, step).header.bases for step in range(1, 7)]
    assert bases == [(StepKey("main", step, 1),) for step in range(6)]
    check(store, states)


@pytest.mark.parametrize("cache", [None, BaseCache(0)])
def test_anchor(cache: BaseCache | None) -> None:
    store, states = chain(StoreOptions("anchor", key_every=3, block_elements=64), 7, cache)
    assert headers(store, 7) == [(1, 0, 0), (2, 1, 0), (2, 2, 0), (1, 0, 3), (2, 1, 3), (2, 2, 3), (1, 0, 6)]
    bases = [own_index(store, step).header.bases[0].step for step in range(1, 7)]
    assert bases == [0, 0, 0, 3, 3, 3]
    if cache is not None:
        decoded = [load_manifest(store, step).header.writer["bases_decoded"] for step in range(7)]
        assert decoded == [0] * 7
    check(store, states)


def test_every_step_a_key_step() -> None:
    for policy in ("previous", "anchor"):
        store, states = chain(StoreOptions(policy, key_every=1, block_elements=64), 3)
        assert headers(store, 3) == [(1, 0, 0), (1, 0, 1), (1, 0, 2)]
        check(store, states)


@pytest.mark.parametrize("max_depth", [1, 2, 3])
def test_no_block_gets_deeper_than_allowed(max_depth: int) -> None:
    store, states = chain(StoreOptions("previous", key_every=100, max_depth=max_depth, block_elements=64), 6)
    expected = [1 + step % max_depth for step in range(6)]
    assert [load_manifest(store, step).header.depth for step in range(6)] == expected
    check(store, states)


def test_depth_is_that_of_each_block() -> None:
    """A part that changes at every step, and one that changes now and then."""
    store = create_store(MemoryBackend(), StoreOptions(key_every=100, block_elements=64, max_depth=3))
    fast, slow = floats(64), floats(64, seed=1)
    states: dict[int, State] = {}
    found = []
    for step in range(6):
        states[step] = {"fast": fast, "slow": slow}
        save_step(store, states[step], step=step)
        manifest = load_manifest(store, step)
        indexes = indexes_of(store, manifest)
        found.append(
            tuple(
                int(indexes[identity].identity.depth[row])
                for fqn in ("fast", "slow")
                for identity, row in blocks_of(manifest, fqn)
            )
        )
        fast = near(fast, seed=step)
        slow = near(slow, seed=step) if step == 2 else slow
    assert found == [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2)]
    check(store, states)


def test_deltas_are_much_smaller() -> None:
    store, _ = chain(StoreOptions(key_every=2), 3)
    stored = [load_manifest(store, step).header.artifacts["model"].stored_bytes for step in range(3)]
    assert stored[1] < 0.7 * stored[0]
    assert stored[2] == pytest.approx(stored[0], rel=0.05)


def test_a_step_before_others_builds_on_what_was_before_it() -> None:
    store, states = chain(StoreOptions(block_elements=64), 3)
    states[10] = {"w": near(states[2]["w"])}  # type: ignore[arg-type]
    states[5] = {"w": near(states[2]["w"], seed=3)}  # type: ignore[arg-type]
    for step in (10, 5):
        assert save_step(store, states[step], step=step).parent == StepKey("main", 2, 1)
    assert own_index(store, 5).header.bases == (StepKey("main", 2, 1),)
    check(store, states)


def test_branches_do_not_build_on_each_other(store: OpenStore) -> None:
    w = floats(16, 16)
    save_step(store, {"w": w}, step=1)
    header = save_step(store, {"w": near(w)}, step=2, branch="rl")
    assert (header.parent, header.is_key) == (None, True)
    check(store, {1: {"w": w}})
    check(store, {2: {"w": near(w)}}, branch="rl")


def test_the_newest_generation_of_the_step_before_is_the_base(store: OpenStore) -> None:
    w, other = floats(16, 16), floats(16, 16, seed=9)
    save_step(store, {"w": w}, step=1)
    save_step(store, {"w": other}, step=1)
    header = save_step(store, {"w": near(other)}, step=2)
    assert (header.parent, header.depth) == (StepKey("main", 1, 2), 2)
    check(store, {1: {"w": other}, 2: {"w": near(other)}})


def test_an_anchor_that_is_gone_is_done_without() -> None:
    store, states = chain(StoreOptions("anchor", key_every=10, block_elements=64), 3)
    store.backend.delete(manifest_key(StepKey("main", 0, 1)))
    del states[0]
    states[3] = {"w": floats(16, 16, seed=5)}
    header = save_step(open_store(store.backend), states[3], step=3)
    assert (header.is_key, header.depth) == (True, 1)
    check(store, states)


def test_shards_are_written_by_artifact_and_name(store: OpenStore) -> None:
    """Whatever order a state has; those that help each other are tested with partners."""
    values = {name: floats(8, seed=n) for n, name in enumerate(["c", "a", "b"])}
    state: State = {
        f"{artifact}.{name}": Stored(array * (2 if artifact == "optim" else 3), artifact=artifact, role="weight")
        for artifact in ("train", "model", "optim")
        for name, array in values.items()
    }
    save_step(store, state, step=1)
    placed = [shard.fqn for shard in own_index(store, 1).placement.shards]
    assert placed == [f"{artifact}.{name}" for artifact in ("model", "optim", "train") for name in "abc"]
