"""Prune and gc fail or are killed at every operation: kept steps stay as they are, and gc reclaims the rest later."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Literal

import pytest

from deltackpt.api import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import BackendError
from deltackpt.format.times import utc_now
from deltackpt.pipeline.verify import verify_store
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.store.pending import LEASE, MARGIN
from deltackpt.store.retention import Retention
from deltackpt.store.usage import all_objects, read_listed
from deltackpt.testing.arrays import State, Stored, load_step, save_step, state_bytes
from deltackpt.testing.faults import Fault, FaultyBackend, Kind, RecordingBackend
from tests.pipeline.helpers import audit, floats, keys, near

KEPT = Retention(keep_every=3)


def state(step: int) -> State:
    return {
        "w": Stored(near(floats(12, 16), seed=step)),
        "m": Stored(near(floats(8, 16, seed=1), seed=step), artifact="optim", role="exp_avg"),
    }


@pytest.fixture(scope="module")
def five_steps() -> MemoryBackend:
    """Steps 0 to 4 and a generation that was replaced; not to be changed."""
    backend = MemoryBackend()
    store = create_store(backend, StoreOptions(chain="previous", block_elements=64))
    for step in range(5):
        save_step(store, state(step), step=step)
    save_step(store, state(1), step=1)
    return backend


def copy_of(backend: MemoryBackend) -> MemoryBackend:
    copy = MemoryBackend()
    for info in backend.list():
        copy.put(info.key, backend.get(info.key))
    return copy


def prune(store: OpenStore) -> None:
    Store(store).prune(KEPT)


def prune_and_rebase(store: OpenStore) -> None:
    Store(store).prune(KEPT, rebase=True)


def thin(store: OpenStore) -> None:
    Store(store).prune(KEPT, only="optim")


def gc(store: OpenStore) -> None:
    Store(store).gc(grace=0)


WORK: dict[str, tuple[Callable[[OpenStore], None], ...]] = {
    "prune": (prune,),
    "rebase": (prune_and_rebase,),
    "thin": (thin,),
    "gc": (prune, gc),
}


def prepared(five_steps: MemoryBackend, name: str) -> MemoryBackend:
    """A copy on which all of some work but the last is done."""
    backend = copy_of(five_steps)
    for work in WORK[name][:-1]:
        work(open_store(backend))
    return backend


def assert_sound(backend: MemoryBackend) -> None:
    """Every step that there is can be read, the steps that are kept are there, and gc reclaims what is not needed."""
    store = open_store(backend)
    there = [info.step for info in Store(store).steps()]
    assert {0, 3, 4} <= set(there)
    for step in there:
        whole = state_bytes(state(step))
        loaded = load_step(store, step)
        assert loaded == whole or (step in (1, 2) and loaded == {"w": whole["w"]})
    # Whoever was killed is dead for longer than its announcement holds.
    later = OpenStore(backend, store.config, clock=lambda: utc_now() + LEASE + 2 * MARGIN)
    Store(later).gc(grace=0)
    Store(later).gc(grace=0)
    assert set(all_objects(store)) == read_listed(store).objects()
    assert keys(store, "marks/") == keys(store, "pending/") == set()
    for step in there:
        audit(store, step)
    report = verify_store(store, deep=True, threads=1)
    assert report.ok
    assert report.unreferenced_bytes == 0


def fail_everywhere(
    start: MemoryBackend,
    name: str,
    kinds: dict[Kind, int],
    when: Literal["before", "after"],
    error: type[BaseException],
) -> int:
    """Let one operation fail at a time, of each kind every so many; how many were tried."""
    recorder = RecordingBackend(copy_of(start))
    WORK[name][-1](open_store(recorder))
    tried = 0
    for kind, stride in kinds.items():
        for nth in range(1, recorder.count(kind) + 1, stride):
            backend = copy_of(start)
            faulty = FaultyBackend(backend, [Fault(kind, nth=nth, error=partial(error, "injected"), when=when)])
            with suppress(BackendError, KeyboardInterrupt):
                WORK[name][-1](open_store(faulty))
            assert faulty.struck == 1
            assert_sound(backend)
            tried += 1
    return tried


@pytest.mark.parametrize("name", WORK)
def test_killed_at_some_operations(five_steps: MemoryBackend, name: str) -> None:
    kinds: dict[Kind, int] = {"put": 3, "put_if_absent": 2, "delete": 4}
    assert fail_everywhere(prepared(five_steps, name), name, kinds, "before", KeyboardInterrupt) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("error", [BackendError, KeyboardInterrupt], ids=["error", "kill"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", WORK)
def test_every_operation_fails_once(
    five_steps: MemoryBackend, name: str, when: Literal["before", "after"], error: type[BaseException]
) -> None:
    kinds: dict[Kind, int] = {"put": 1, "put_if_absent": 1, "delete": 1, "get": 2, "list": 2}
    assert fail_everywhere(prepared(five_steps, name), name, kinds, when, error) >= 10


def test_what_was_interrupted_can_be_done_again(five_steps: MemoryBackend) -> None:
    backend = copy_of(five_steps)
    with pytest.raises(KeyboardInterrupt):
        prune(open_store(FaultyBackend(backend, [Fault("delete", nth=2, error=KeyboardInterrupt)])))
    prune(open_store(backend))
    assert [info.step for info in Store(open_store(backend)).steps()] == [0, 3, 4]
    assert_sound(backend)
