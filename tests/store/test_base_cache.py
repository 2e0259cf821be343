from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from deltackpt.errors import InvalidArgumentError
from deltackpt.format.hashing import address
from deltackpt.store.base_cache import BaseCache, parse_base_memory, shared_cache

SIZE = 100


def block(value: int, size: int = SIZE) -> NDArray[np.uint8]:
    return np.full(size, value, np.uint8)


def put(cache: BaseCache, value: int, size: int = SIZE) -> bytes:
    data = block(value, size)
    found = address(data.data)
    cache.put(found, data)
    return found


def save(cache: BaseCache, budget: int, values: list[int], bases: list[int]) -> int:
    """What a save does for each of its blocks in turn; gives how many bases were in the cache."""
    cache.begin_save(budget)
    hits = 0
    for value, base in zip(values, bases, strict=True):
        old = address(block(base).data)
        hits += cache.get(old) is not None
        if old != address(block(value).data):
            cache.discard(old)
        put(cache, value)
    return hits


def test_what_was_put_is_got() -> None:
    cache = BaseCache(SIZE)
    name = put(cache, 1)
    held = cache.get(name)
    assert held is not None
    assert held.tobytes() == block(1).tobytes()
    assert cache.get(address(b"")) is None
    stats = cache.stats()
    assert (stats.blocks, stats.bytes, stats.hits, stats.misses, stats.damaged) == (1, SIZE, 1, 1, 0)


def test_blocks_beyond_the_budget_are_not_kept() -> None:
    cache = BaseCache(2 * SIZE + SIZE // 2)
    names = [put(cache, value) for value in range(4)]
    assert [cache.get(name) is not None for name in names] == [True, True, False, False]
    assert cache.stats().bytes == 2 * SIZE
    assert put(BaseCache(0), 1)
    assert BaseCache(0).get(names[0]) is None


def test_a_block_is_held_once() -> None:
    cache = BaseCache(10 * SIZE)
    for _ in range(3):
        put(cache, 1)
    assert (cache.stats().blocks, cache.stats().bytes) == (1, SIZE)


def test_damaged_blocks_are_not_used_and_forgotten() -> None:
    cache = BaseCache(10 * SIZE)
    data = block(1)
    name = address(data.data)
    cache.put(name, data)
    data[7] ^= 1
    assert cache.get(name) is None
    assert (cache.stats().damaged, cache.stats().blocks, cache.stats().bytes) == (1, 0, 0)
    put(cache, 1)
    assert cache.get(name) is not None


@pytest.mark.parametrize("blocks", [1, 2, 50])
def test_a_budget_of_exactly_one_state_is_enough(blocks: int) -> None:
    cache = BaseCache(0)
    state = list(range(blocks))
    assert save(cache, blocks * SIZE, state, [255] * blocks) == 0
    for step in range(1, 5):
        new = [(value + 50) % 250 if step % 2 else value for value in state]
        assert save(cache, blocks * SIZE, new, state) == blocks
        assert cache.stats().bytes == blocks * SIZE
        state = new


def test_with_less_the_same_part_is_found_every_time() -> None:
    """Evicting the least recently used would find nothing at all."""
    cache = BaseCache(0)
    states = [[100 * (step % 2) + value for value in range(10)] for step in range(6)]
    save(cache, 6 * SIZE, states[0], [255] * 10)
    for before, after in itertools.pairwise(states):
        assert save(cache, 6 * SIZE, after, before) == 6


def test_what_two_saves_did_not_use_makes_room() -> None:
    cache = BaseCache(0)
    save(cache, 3 * SIZE, [1, 2, 3], [255] * 3)
    # Another grid: nothing is found, nothing discarded, and the old state may still be wanted by its own branch.
    assert save(cache, 3 * SIZE, [11, 12, 13], [255] * 3) == 0
    assert cache.stats().blocks == 3
    assert cache.get(address(block(11).data)) is None
    assert save(cache, 3 * SIZE, [21, 22, 23], [11, 12, 13]) == 0
    assert save(cache, 3 * SIZE, [31, 32, 33], [21, 22, 23]) == 3


def test_what_is_put_again_is_in_use() -> None:
    """A key step puts blocks without asking for their bases: a frozen tensor must not count as stale."""
    cache = BaseCache(0)
    for _ in range(4):
        cache.begin_save(2 * SIZE)
        put(cache, 1)
    put(cache, 2)
    put(cache, 3)
    assert cache.get(address(block(1).data)) is not None


def test_two_branches_that_fit_are_both_found() -> None:
    cache = BaseCache(0)
    states = {"a": [1, 2], "b": [11, 12]}
    for state in states.values():
        save(cache, 4 * SIZE, state, [255] * 2)
    for step in range(1, 4):
        for name, state in states.items():
            new = [value + 20 * step for value in state]
            assert save(cache, 4 * SIZE, new, state) == 2
            states[name] = new


def test_a_block_that_this_save_put_is_not_discarded_as_the_base_of_another() -> None:
    """One tensor takes the value that another one had, such as a target network."""
    cache = BaseCache(0)
    save(cache, 2 * SIZE, [1, 2], [255, 255])
    for step in range(2, 6):
        assert save(cache, 2 * SIZE, [step, step + 1], [step - 1, step]) == 2


def test_a_smaller_budget_drops_blocks_at_once() -> None:
    cache = BaseCache(0)
    save(cache, 5 * SIZE, [1, 2, 3, 4, 5], [255] * 5)
    cache.begin_save(2 * SIZE)
    assert cache.stats().bytes == 2 * SIZE
    cache.begin_save(0)
    assert (cache.stats().blocks, cache.stats().bytes) == (0, 0)


def test_discarding_what_is_absent_is_no_error() -> None:
    cache = BaseCache(SIZE)
    cache.discard(b"x" * 16)
    assert cache.stats().bytes == 0


def test_many_threads() -> None:
    cache = BaseCache(0)
    cache.begin_save(30 * SIZE)
    barrier = threading.Barrier(4)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        barrier.wait()
        for _ in range(300):
            value = int(rng.integers(60))
            action = rng.integers(4)
            if action == 0:
                cache.discard(address(block(value).data))
            elif action == 1:
                cache.begin_save(30 * SIZE)
            elif action == 2:
                held = cache.get(address(block(value).data))
                assert held is None or held.tobytes() == block(value).tobytes()
            else:
                put(cache, value)

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(work, range(4)))
    stats = cache.stats()
    assert stats.bytes == stats.blocks * SIZE <= 30 * SIZE
    assert stats.damaged == 0


def test_one_cache_for_each_store_of_a_process() -> None:
    assert shared_cache("test-a") is shared_cache("test-a")
    assert shared_cache("test-a") is not shared_cache("test-b")


@pytest.mark.parametrize(("ranks", "share"), [(None, 4), ("2", 8), ("8", 32), ("0", 4), ("many", 4), ("", 4)])
def test_auto_is_a_part_of_the_free_memory(monkeypatch: pytest.MonkeyPatch, ranks: str | None, share: int) -> None:
    class Memory:
        available = 1 << 40

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    if ranks is None:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert parse_base_memory("auto") == (1 << 40) // share


def test_other_budgets() -> None:
    assert parse_base_memory(0) == 0
    assert parse_base_memory(12345) == 12345
    for value in (-1, True, 1.5, "1GB", None):
        with pytest.raises(InvalidArgumentError, match="base_memory must be 'auto' or a number of bytes"):
            parse_base_memory(value)  # type: ignore[arg-type]
