"""Which step a save builds on, and how deep its records get."""

from __future__ import annotations

import numpy as np
import pytest

from deltackpt.backend.memory import MemoryBackend
from deltackpt.format.keys import StepKey, manifest_key, pack_key
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import State, Stored, load_manifest, load_step, save_step, split, state_bytes
from deltackpt.testing.faults import flip_bits
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
    store = create_store(MemoryBackend(), StoreOptions("previous", key_every=100, block_elements=64, max_depth=3))
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
    states[3] = {"w": near(states[2]["w"])}  # type: ignore[arg-type]
    header = save_step(open_store(store.backend), states[3], step=3)
    assert (header.parent, header.depth) == (StepKey("main", 2, 1), 3)
    # The oldest step of the chain that is left takes its place.
    assert own_index(store, 3).header.bases == (StepKey("main", 1, 1),)
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


def test_skip() -> None:
    store, states = chain(StoreOptions("skip", key_every=8, block_elements=64), 10, BaseCache(0))
    found = headers(store, 10)
    assert [depth for depth, _, _ in found] == [1, 2, 2, 3, 2, 3, 3, 4, 1, 2]
    assert [distance for _, distance, _ in found] == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    bases = [own_index(store, step).header.bases[0].step for step in range(1, 10)]
    assert bases == [0, 0, 2, 0, 4, 4, 6, 7, 8]
    decoded = [load_manifest(store, step).header.writer["bases_decoded"] for step in range(10)]
    assert decoded == [0] * 10
    check(store, states)


def test_skip_after_steps_that_are_gone_came_between_or_were_written_anew() -> None:
    store, states = chain(StoreOptions("skip", key_every=16, block_elements=64), 6)
    for gone in (0, 4):
        store.backend.delete(manifest_key(StepKey("main", gone, 1)))
        del states[gone]
    for step in (3, 6, 8, 7, 9):
        states[step] = {"w": near(states[5]["w"], seed=50 + step)}  # type: ignore[arg-type]
        save_step(open_store(store.backend), states[step], step=step)
    bases = {step: own_index(store, step).header.bases[0].step for step in (6, 8, 7, 9)}
    # 6 should build on 4: what is left before that is 3. 8 stands at distance 7, before 7 is there. 9 should build
    # on 0: the oldest that is left of the chain is 1.
    assert bases == {6: 3, 8: 6, 7: 6, 9: 1}
    check(store, states)


def auto_run(kind: str, steps: int, *, cold: bool = False, key_every: int = 16) -> tuple[OpenStore, dict[int, State]]:
    """A run of which every step moves as ``kind`` says."""
    options = StoreOptions("auto", key_every=key_every, block_elements=1 << 13)
    store = create_store(MemoryBackend(), options)
    states: dict[int, State] = {}
    w, start, cache = floats(64, 256), floats(64, 256), BaseCache(0)
    for step in range(steps):
        states[step] = {"w": w}
        cache = BaseCache(0) if cold else cache
        save_step(store, states[step], step=step, cache=cache, base_memory=1 << 24)
        w = {
            "walk": w + np.float32(1e-5) * floats(64, 256, seed=step + 1),
            "few": np.where(floats(64, 256, seed=step + 1) > 1.5, w + np.float32(1e-5), w),
            "around": start + np.float32(1e-5) * floats(64, 256, seed=step + 1),
            "noise": floats(64, 256, seed=step + 1),
        }[kind].astype(np.float32)
    return store, states


@pytest.mark.parametrize(
    ("kind", "expected"), [("walk", "skip"), ("few", "previous"), ("around", "anchor"), ("noise", "key")]
)
def test_auto_picks_what_suits_the_run(kind: str, expected: str) -> None:
    store, states = auto_run(kind, 12)
    found = [load_manifest(store, step).header for step in range(12)]
    assert [h.writer["chain"] for h in found[2:]] == [expected] * 10
    assert [h.is_key for h in found[1:]] == [expected == "key"] * 11
    assert max(h.depth for h in found) == {"skip": 4, "previous": 12, "anchor": 2, "key": 1}[expected]
    # What was measured is about what came of it.
    key, delta = (found[n].artifacts["model"].stored_bytes for n in (0, 1))
    assert found[1].writer["chain_near"] == pytest.approx(delta / key, abs=0.05)
    check(store, states)


def test_auto_starts_a_new_chain_when_deltas_stop_paying() -> None:
    store, states = auto_run("walk", 4)
    for step in (4, 5, 6):
        states[step] = {"w": near(floats(64, 256, seed=77), seed=step)}
        save_step(store, states[step], step=step)
    found = [load_manifest(store, step).header for step in range(7)]
    assert [h.distance for h in found] == [0, 1, 2, 3, 0, 1, 2]
    assert [h.writer["chain"] for h in found[4:5]] == ["key"]
    check(store, states)


@pytest.mark.parametrize("kind", ["walk", "few", "noise"])
def test_auto_decides_alike_with_and_without_bases_in_memory(kind: str) -> None:
    warm, _ = auto_run(kind, 7)
    cold, _ = auto_run(kind, 7, cold=True)
    for step in range(1, 7):
        assert own_index(warm, step).identity_section == own_index(cold, step).identity_section


def test_auto_over_a_change_of_layout_and_with_a_base_that_is_damaged() -> None:
    store, states = auto_run("walk", 3)
    w = states[2]["w"]
    states[3] = {"w": Stored(near(w), boxes=split((64, 256), 5, axis=1))}  # type: ignore[arg-type]
    save_step(store, states[3], step=3, writers=2)
    states[4] = {"w": Stored(near(w, seed=2), boxes=split((64, 256), 5, axis=1))}  # type: ignore[arg-type]
    save_step(store, states[4], step=4, writers=2)
    check(store, states)
    pack = own_index(store, 3).location.packs[0].name
    flip_bits(store.backend, pack_key(pack), 40)
    states[5] = {"w": Stored(near(w, seed=3), boxes=split((64, 256), 5, axis=1))}  # type: ignore[arg-type]
    save_step(open_store(store.backend), states[5], step=5)
    assert load_step(open_store(store.backend), 5) == state_bytes(states[5])
