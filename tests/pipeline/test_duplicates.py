"""The same block is stored once."""

from __future__ import annotations

import numpy as np
import pytest

from deltackpt.backend.memory import MemoryBackend
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.opened import OpenStore, create_store
from deltackpt.store.options import CHAINS, StoreOptions
from deltackpt.testing.arrays import State, Stored, load_manifest, save_step, split
from tests.pipeline.helpers import blocks_of, check, floats, near, own_index


def test_tied_tensors_are_stored_once(store: OpenStore) -> None:
    w = floats(32, 16)
    state: State = {"wte": w, "head": w.copy(), "other": floats(32, 16, seed=1)}
    header = save_step(store, state, step=1)
    manifest = load_manifest(store, 1)
    assert blocks_of(manifest, "wte") == blocks_of(manifest, "head")
    assert header.writer["duplicates"] == 8
    assert own_index(store, 1).rows == 16
    changed: State = {"wte": near(w), "head": near(w), "other": floats(32, 16, seed=1)}
    header = save_step(store, changed, step=2)
    # One of the tied, and the one that stayed.
    assert header.writer["duplicates"] == 16
    assert own_index(store, 2).rows == 8
    check(store, {1: state, 2: changed})


def test_equal_blocks_within_a_tensor(store: OpenStore) -> None:
    state: State = {"zeros": np.zeros((64, 64), np.float32), "rows": np.tile(floats(1, 64), (64, 1))}
    save_step(store, state, step=1)
    assert own_index(store, 1).rows == 2
    check(store, {1: state})


def test_equal_bytes_of_another_dtype_and_shape(store: OpenStore) -> None:
    w = floats(4, 16)
    state: State = {"a": w, "b": w.view(np.int32), "c": w.reshape(64), "d": w.view(np.uint8).reshape(-1)[:64]}
    save_step(store, state, step=1)
    manifest = load_manifest(store, 1)
    assert blocks_of(manifest, "a") == blocks_of(manifest, "b") == blocks_of(manifest, "c")
    assert own_index(store, 1).rows == 2
    check(store, {1: state})


@pytest.mark.parametrize("base_memory", [0, 1 << 20])
@pytest.mark.parametrize("policy", CHAINS)
def test_what_did_not_change_is_not_written_again(policy: str, base_memory: int) -> None:
    store = create_store(MemoryBackend(), StoreOptions(policy, key_every=3, block_elements=64))
    cache = BaseCache(0)
    frozen, w = floats(32, 16, seed=1), floats(8, 16)
    states: dict[int, State] = {}
    places = []
    for step in range(8):
        states[step] = {"frozen": frozen, "w": w, "o": Stored(np.arange(50, dtype=np.uint8), kind="object")}
        save_step(store, states[step], step=step, cache=cache, base_memory=base_memory)
        manifest = load_manifest(store, step)
        places.append((blocks_of(manifest, "frozen"), blocks_of(manifest, "o")))
        assert own_index(store, step).rows == (2 if step else 2 + 8 + 1)
        w = near(w, seed=step)
    # Over key steps, too: its records need nothing.
    assert all(place == places[0] for place in places)
    check(store, states)


def test_a_key_step_writes_anew_what_is_a_delta() -> None:
    """A tensor that changed once and then stayed must not keep its chain for ever."""
    store = create_store(MemoryBackend(), StoreOptions(key_every=3, block_elements=64))
    first = floats(8, 8)
    states: dict[int, State] = {0: {"w": first}}
    save_step(store, states[0], step=0)
    for step in range(1, 7):
        states[step] = {"w": near(first)}
        save_step(store, states[step], step=step)
    rows = [own_index(store, step).rows for step in range(7)]
    assert rows == [1, 1, 0, 1, 0, 0, 0]
    deltas = [load_manifest(store, step).header.depth for step in range(7)]
    assert deltas == [1, 2, 2, 1, 1, 1, 1]
    check(store, states)


def test_replicas_of_several_writers(store: OpenStore) -> None:
    """Each writer sees its own blocks only; the base is seen by all."""
    w = floats(32, 16)
    state: State = {"a": Stored(w, boxes=split(w.shape, 2)), "b": Stored(w.copy(), boxes=split(w.shape, 2)[::-1])}
    save_step(store, state, step=1, writers=2)
    assert [own_index(store, 1, writer=n).rows for n in range(2)] == [8, 8]
    header = save_step(store, state, step=2, writers=2)
    assert header.writer["duplicates"] == 16
    check(store, {1: state, 2: state})


def test_a_value_that_returns_is_a_duplicate_of_the_base_only(store: OpenStore) -> None:
    one, two = floats(8, 8), floats(8, 8, seed=1)
    states: dict[int, State] = {n: {"w": one if n % 2 else two} for n in range(4)}
    for step, state in states.items():
        assert save_step(store, state, step=step).writer["duplicates"] == 0
    check(store, states)


def test_swapped_tensors(store: OpenStore) -> None:
    """Their blocks are no twins, so they are written again, as deltas or whole; what counts is that they are right."""
    a, b = floats(8, 16), floats(8, 16, seed=1)
    states: dict[int, State] = {n: {"a": a if n % 2 else b, "b": b if n % 2 else a} for n in range(4)}
    cache = BaseCache(0)
    for step, state in states.items():
        save_step(store, state, step=step, cache=cache, base_memory=2 * a.nbytes)
    assert [load_manifest(store, n).header.writer["bases_decoded"] for n in range(4)] == [0] * 4
    check(store, states)


def test_blocks_that_only_share_a_hash_are_not_taken_for_equal(
    store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a hash that everything collides in, nothing is mixed up when it is written: equal means equal bytes."""
    monkeypatch.setattr("deltackpt.format.hashing.address", lambda data: b"the same for all"[:16])
    a, b = floats(4, 16), floats(4, 16, seed=1)
    save_step(store, {"a": a, "b": b, "c": a.copy()}, step=1)
    assert own_index(store, 1).rows == 2
    # The base has the address that the new block has; a record that needs itself could not be written.
    save_step(store, {"a": near(a), "b": b, "c": near(a)}, step=2)
    manifest = load_manifest(store, 2)
    assert blocks_of(manifest, "b") == blocks_of(load_manifest(store, 1), "b")
    assert own_index(store, 2).rows == 1
