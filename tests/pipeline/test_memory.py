"""How much is held at a time, counted in live blocks; resident memory would tell little."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest
from numpy.typing import NDArray

from deltackpt.backend.memory import MemoryBackend
from deltackpt.pipeline import decode_tasks
from deltackpt.pipeline.decode import decode_listed
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.load import load_wanted
from deltackpt.pipeline.partners import group_items
from deltackpt.pipeline.plan_load import Wanted
from deltackpt.pipeline.save import SaveSettings, write_items
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.opened import create_store
from deltackpt.store.options import StoreOptions
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_name
from deltackpt.testing.arrays import load_manifest, save_step
from tests.pipeline.helpers import floats, near

BLOCK = 256


class Live:
    """Counts the arrays that are alive of those that it was told of."""

    def __init__(self) -> None:
        self.now = self.most = self.all = 0
        self._lock = threading.RLock()

    def track(self, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        with self._lock:
            self.now += 1
            self.all += 1
            self.most = max(self.most, self.now)
        weakref.finalize(array, self._gone)
        return array

    def _gone(self) -> None:
        with self._lock:
            self.now -= 1


def blocks_alive(threads: int, budget: int, kind: str, blocks: int = 200) -> Live:
    """Save a tensor of so many blocks and watch what was taken of it."""
    live = Live()
    rng = np.random.default_rng(0)
    rows = {"noise": rng.bytes(blocks * BLOCK), "constant": b"\7" * (blocks * BLOCK)}[kind]
    data = np.frombuffer(rows, np.uint8)

    def read(box: Box) -> NDArray[np.uint8]:
        return live.track(data[box.slices()].copy())

    store = create_store(MemoryBackend(), StoreOptions(block_elements=BLOCK, pack_bytes=4096))
    item = SaveItem("w", "tensor", by_name("uint8"), Box((0,), (data.size,)), "model", "weight", ("w",), read)
    cache = BaseCache(0)
    write_items(store, [item], branch="main", step=1, writer=0, settings=SaveSettings(threads, budget), cache=cache)
    assert live.all >= blocks
    assert live.now == cache.stats().blocks
    return live


@pytest.mark.parametrize("kind", ["noise", "constant"])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_save_holds_a_window_of_blocks(threads: int, kind: str) -> None:
    """One window that is copied and hashed, one that is encoded, and one block on its way between and after them.

    A block that repeats an earlier one is compared with it, for which that is taken once more, in every thread.
    """
    live = blocks_alive(threads, 0, kind)
    assert live.most <= 2 * (threads + 1) + 2 + (threads if kind == "constant" else 0)


@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_of_a_group_are_held_together(threads: int) -> None:
    """A weight and its two moments: the windows are of groups, each with a block of all three."""
    live = Live()
    values = {"optim.state.w.exp_avg": floats(6400, seed=1), "optim.state.w.exp_avg_sq": floats(6400, seed=2) ** 2}
    values["model.w"] = floats(6400)

    def item(fqn: str, role: str) -> SaveItem:
        def read(box: Box) -> NDArray[np.uint8]:
            return live.track(values[fqn][box.slices()].copy().view(np.uint8))

        return SaveItem(fqn, "tensor", by_name("float32"), Box((0,), (6400,)), role, role, (fqn,), read)

    store = create_store(MemoryBackend(), StoreOptions(block_elements=64, pack_bytes=4096))
    items = [item(fqn, role) for fqn, role in zip(values, ("exp_avg", "exp_avg_sq", "weight"), strict=True)]
    assert [len(group.items) for group in group_items(items)] == [3]
    write_items(store, items, branch="main", step=1, writer=0, settings=SaveSettings(threads, 0), cache=BaseCache(0))
    assert live.all >= 300
    assert live.most <= 3 * (2 * (threads + 1) + 2)
    assert live.now == 0


def test_blocks_kept_for_the_next_save_are_within_the_budget() -> None:
    live = blocks_alive(2, 20 * BLOCK, "noise")
    assert 20 <= live.most <= 20 + 2 * 3 + 2


def test_the_next_save_keeps_no_more_than_one_state() -> None:
    blocks = 50
    store = create_store(MemoryBackend(), StoreOptions(block_elements=64))
    cache = BaseCache(0)
    live = Live()
    w = floats(blocks * 64)
    for step in range(4):
        current = w

        def read(box: Box, values: NDArray[np.float32] = current) -> NDArray[np.uint8]:
            return live.track(values[box.slices()].copy().view(np.uint8))

        live.most = 0
        item = SaveItem("w", "tensor", by_name("float32"), Box((0,), (w.size,)), "model", "weight", ("w",), read)
        write_items(store, [item], branch="main", step=step, writer=0, settings=SaveSettings(2, w.nbytes), cache=cache)
        save_step(store, {"w": w}, step=step, cache=BaseCache(0))
        assert live.now == blocks
        assert live.most <= blocks + 2 * 3 + 2
        w = near(w, seed=step)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_load_holds_a_few_blocks_a_thread(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """However long the chains are."""
    store = create_store(MemoryBackend(), StoreOptions("previous", block_elements=64, key_every=100))
    w = floats(100 * 64)
    for step in range(5):
        save_step(store, {"w": w}, step=step)
        w = near(w, seed=step)
    live = Live()
    monkeypatch.setattr(decode_tasks, "decode_listed", lambda *args: live.track(decode_listed(*args)))
    load_wanted(
        store,
        load_manifest(store, 4),
        [Wanted("w", Box((0,), (6400,)), lambda place, elements: None)],
        threads=threads,
    )
    assert live.all == 5 * 100
    assert live.most <= 2 * threads
    assert live.now == 0
