"""Failures while saving: nothing becomes visible, what was there still loads, and the next save works."""

from __future__ import annotations

from functools import partial

import pytest

from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import BackendError, DeltackptError
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.catalog import visible_steps
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import State, Stored, load_step, save_step, split, state_bytes
from deltackpt.testing.faults import Fault, FaultyBackend, Kind, RecordingBackend
from tests.pipeline.helpers import check, floats, keys, near


def copy_of(backend: MemoryBackend) -> MemoryBackend:
    copy = MemoryBackend()
    for info in backend.list():
        copy.put(info.key, backend.get(info.key))
    return copy


def listed(store: OpenStore) -> list[int]:
    return [step.key.step for step in visible_steps(open_store(store.backend))]


STATES: dict[int, State] = {
    step: {
        "w": Stored(near(floats(12, 16), seed=step), boxes=split((12, 16), 2)),
        "m": Stored(near(floats(8, 16, seed=1), seed=step), artifact="optim", role="exp_avg"),
        "frozen": floats(4, 16, seed=2),
    }
    for step in range(5)
}


@pytest.fixture(scope="module")
def two_steps() -> MemoryBackend:
    """A store with steps 0 and 1; not to be changed."""
    backend = MemoryBackend()
    store = create_store(backend, StoreOptions(block_elements=64, pack_bytes=1024))
    for step in (0, 1):
        save_step(store, STATES[step], step=step)
    return backend


def third_step(backend: FaultyBackend | RecordingBackend, cache: BaseCache, threads: int = 1) -> None:
    save_step(open_store(backend), STATES[2], step=2, writers=2, threads=threads, cache=cache, base_memory=1 << 20)


@pytest.fixture(scope="module")
def operations(two_steps: MemoryBackend) -> dict[Kind, int]:
    """How many operations of each kind the third save takes."""
    recorder = RecordingBackend(copy_of(two_steps))
    third_step(recorder, BaseCache(0))
    kinds: tuple[Kind, ...] = ("put", "put_if_absent", "get", "list", "delete")
    return {kind: recorder.count(kind) for kind in kinds}


def test_a_save_is_announced_then_puts_packs_then_indexes_then_the_manifest(two_steps: MemoryBackend) -> None:
    recorder = RecordingBackend(copy_of(two_steps))
    save_step(open_store(recorder), STATES[2], step=2)
    written = [(done.kind, done.key.split("/")[0]) for done in recorder.operations if done.kind.startswith("put")]
    packs = len(written) - 4
    assert packs >= 2
    announced = ("put", "pending")
    assert written == [
        announced,
        *[("put", "packs")] * packs,
        ("put", "indexes"),
        announced,
        ("put_if_absent", "manifests"),
    ]
    assert recorder.count("delete") == recorder.count("delete", "pending/") == 1
    assert recorder.operations[-1].kind == "delete"


def assert_as_before(backend: MemoryBackend, steps: list[int]) -> None:
    store = open_store(backend)
    assert listed(store) == steps
    for step in steps:
        assert load_step(store, step) == state_bytes(STATES[step])


def no_answer() -> BackendError:
    return BackendError("the answer was lost")


@pytest.mark.parametrize("error", [BackendError, KeyboardInterrupt], ids=["error", "kill"])
@pytest.mark.parametrize("kind", ["put", "put_if_absent", "get", "list"])
def test_every_operation_of_a_save_fails_once(
    two_steps: MemoryBackend, operations: dict[Kind, int], kind: Kind, error: type[BaseException]
) -> None:
    assert operations[kind] >= 1
    backend = two_steps
    for nth in range(1, operations[kind] + 1):
        backend = copy_of(two_steps)
        cache = BaseCache(0)
        faulty = FaultyBackend(backend, [Fault(kind, nth=nth, error=partial(error, "injected"))])
        with pytest.raises((BackendError, KeyboardInterrupt), match="injected"):
            third_step(faulty, cache)
        assert faulty.struck == 1
        assert_as_before(backend, [0, 1])
        # The same process goes on with the cache it has, and saves the step after all.
        third_step(FaultyBackend(backend, []), cache)
        save_step(open_store(backend), STATES[3], step=3, cache=cache, base_memory=1 << 20)
        assert_as_before(backend, [0, 1, 2, 3])
    check(open_store(backend), {step: STATES[step] for step in range(4)})


def test_every_put_loses_its_answer(two_steps: MemoryBackend, operations: dict[Kind, int]) -> None:
    """The object is there, but the writer does not know: the save fails, unless it was the commit."""
    for nth in range(1, operations["put"] + 1):
        backend = copy_of(two_steps)
        with pytest.raises(BackendError, match="the answer was lost"):
            third_step(FaultyBackend(backend, [Fault("put", nth=nth, when="after", error=no_answer)]), BaseCache(0))
        assert_as_before(backend, [0, 1])
    backend = copy_of(two_steps)
    third_step(FaultyBackend(backend, [Fault("put_if_absent", when="after", error=no_answer)]), BaseCache(0))
    assert_as_before(backend, [0, 1, 2])


def test_a_store_that_is_gone_for_good(two_steps: MemoryBackend, operations: dict[Kind, int]) -> None:
    """From some operation on nothing works any more, not even finding out."""
    for nth in range(1, operations["put"] + 2):
        backend = copy_of(two_steps)
        plan = (
            [Fault("put", nth=nth, times=None)]
            if nth <= operations["put"]
            else [Fault("put_if_absent", times=None), Fault("get", prefix="manifests/main/000000000002", times=None)]
        )
        with pytest.raises(BackendError):
            third_step(FaultyBackend(backend, plan), BaseCache(0))
        assert_as_before(backend, [0, 1])


@pytest.mark.parametrize("nth", [1, 3, 5])
def test_with_many_threads(two_steps: MemoryBackend, nth: int) -> None:
    backend = copy_of(two_steps)
    with pytest.raises(BackendError):
        third_step(FaultyBackend(backend, [Fault("put", nth=nth)]), BaseCache(0), threads=4)
    assert_as_before(backend, [0, 1])


def test_what_a_failed_save_leaves_is_garbage_and_harmless(two_steps: MemoryBackend) -> None:
    backend = copy_of(two_steps)
    with pytest.raises(BackendError):
        third_step(FaultyBackend(backend, [Fault("put_if_absent")]), BaseCache(0))
    store = open_store(backend)
    left = keys(store, "packs/") | keys(store, "indexes/")
    third_step(FaultyBackend(backend, []), BaseCache(0))
    check(store, {step: STATES[step] for step in range(3)})
    listed_keys = {
        f"packs/{pack.name.hex()[:2]}/{pack.name.hex()}"
        for step in visible_steps(store)
        for pack in store.manifest(step.key).packs
    }
    assert not (left - keys(open_store(two_steps), "packs/")) & listed_keys


def test_reading_fails_and_works_again(two_steps: MemoryBackend) -> None:
    recorder = RecordingBackend(two_steps)
    load_step(open_store(recorder), 1)
    for nth in range(1, recorder.count("get") + 1):
        backend = FaultyBackend(two_steps, [Fault("get", nth=nth)])
        store: OpenStore | None = None
        try:
            store = open_store(backend)
            with pytest.raises(BackendError, match="injected"):
                load_step(store, 1)
        except BackendError:
            assert nth == 1
            store = open_store(backend)
        assert backend.struck == 1
        assert load_step(store, 1) == state_bytes(STATES[1])


def test_a_base_that_cannot_be_read_for_an_error_of_the_backend_fails_the_save(two_steps: MemoryBackend) -> None:
    """It is not damage: the base may be there again in a moment, and a store that fails should be heard of."""
    backend = FaultyBackend(copy_of(two_steps), [Fault("get", prefix="packs/")])
    with pytest.raises(DeltackptError, match="injected"):
        third_step(backend, BaseCache(0))
