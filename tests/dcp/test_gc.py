"""Saves while others delete or write anew: whatever the order of operations, every step that is there is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeVar

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from deltackpt import Retention, Store
from deltackpt.backend.base import Backend, Buffer, ObjectInfo
from deltackpt.backend.memory import MemoryBackend
from deltackpt.dcp import DeltaStorageWriter
from deltackpt.format.keys import pack_key
from deltackpt.store.opened import OpenStore, open_store
from deltackpt.store.usage import all_objects, read_listed
from tests.dcp.states import State, load_state, new_store, save_state
from tests.dcp.test_async import HeldWriter, done

_T = TypeVar("_T")


class Interrupted:
    """Passes everything on to ``inner``; before its ``nth`` operation, something else happens."""

    def __init__(self, inner: Backend, nth: int, happens: Callable[[], object]) -> None:
        self._inner, self._nth, self._happens = inner, nth, happens
        self.operations = 0

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, key: str, data: Buffer) -> None:
        self._before(lambda: self._inner.put(key, data))

    def put_if_absent(self, key: str, data: Buffer) -> None:
        self._before(lambda: self._inner.put_if_absent(key, data))

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return self._before(lambda: self._inner.get(key, start, length))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._before(lambda: self._inner.list(prefix))

    def delete(self, key: str) -> None:
        self._before(lambda: self._inner.delete(key))

    def _before(self, operation: Callable[[], _T]) -> _T:
        self.operations += 1
        if self.operations == self._nth:
            self._happens()
        return operation()


def state(step: int) -> State:
    """Weights that change, some that do not, and a counter."""
    fixed = torch.Generator().manual_seed(0)
    noise = torch.randn(200, generator=torch.Generator().manual_seed(step))
    weight = torch.randn(200, generator=fixed) * (1 + 1e-5 * noise)
    return {"model": {"w": weight, "frozen": torch.randn(100, generator=fixed)}, "train": {"step": step}}


@cache
def _prepared() -> MemoryBackend:
    backend = MemoryBackend()
    store = new_store(backend)
    for step in range(4):
        save_state(store, step, state(step))
    save_state(store, 1, state(1), overwrite=True)
    backend.put(pack_key(b"?" * 32), b"left over")
    return backend


def prepared() -> MemoryBackend:
    """Steps 0 to 3, step 1 with a generation that was replaced, and what a failed save left."""
    copy = MemoryBackend()
    for info in _prepared().list():
        copy.put(info.key, _prepared().get(info.key))
    return copy


def a_store(backend: Backend) -> Store:
    return Store(open_store(backend))


def gc(store: Store) -> None:
    store.gc(grace=0, wait=False)


def prune(store: Store) -> None:
    store.prune(Retention(keep_last=1))
    gc(store)


def repack(store: Store) -> None:
    store.repack("fastest")
    gc(store)


WORK = {work.__name__: work for work in (gc, prune, repack)}


def assert_exact(backend: MemoryBackend, newest: int, *, all_there: bool) -> None:
    """Every step that is there is what was saved, and what nobody needs can be reclaimed."""
    store = a_store(backend)
    there = [info.step for info in store.steps()]
    assert there[-1] == newest
    assert not all_there or there == list(range(newest + 1))
    for step in there:
        loaded = load_state(store, step, {"model": {"w": torch.zeros(200), "frozen": torch.zeros(100)}})
        assert all(torch.equal(loaded["model"][name], state(step)["model"][name]) for name in ("w", "frozen")), step
    gc(store)
    gc(store)
    assert set(all_objects(store.opened)) == read_listed(store.opened).objects()
    report = store.verify(deep=True)
    assert (report.ok, report.unreferenced_bytes) == (True, 0)
    assert not [info.key for info in backend.list() if info.key.startswith(("pending/", "marks/"))]


def interrupted(
    backend: MemoryBackend, nth: int, first: Callable[[Store], object], second: Callable[[Store], object]
) -> int:
    """Do the first, and the second before its ``nth`` operation; how many operations the first took."""
    opened = open_store(backend)
    watched = Interrupted(backend, nth, lambda: second(a_store(backend)))
    first(Store(OpenStore(watched, opened.config, opened.options)))
    return watched.operations


def save_next(store: Store) -> None:
    save(state(4), storage_writer=DeltaStorageWriter(store, 4, threads=1), no_dist=True)


def every(name: str, stride: int) -> list[object]:
    """Every so many operations, and in long runs each of them."""
    return [(name, stride), pytest.param(name, 1, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("name", "stride"), [*every("gc", 3), *every("prune", 6), *every("repack", 6)])
def test_deletion_between_any_two_operations_of_a_save(name: str, stride: int) -> None:
    operations = interrupted(prepared(), 0, save_next, WORK[name])
    assert operations > 15
    for nth in range(1, operations + 1, stride):
        backend = prepared()
        interrupted(backend, nth, save_next, WORK[name])
        assert_exact(backend, 4, all_there=name != "prune")


@pytest.mark.parametrize(("name", "stride"), [*every("gc", 8), *every("prune", 16), *every("repack", 40)])
def test_a_save_between_any_two_operations_of_a_deletion(name: str, stride: int) -> None:
    operations = interrupted(prepared(), 0, WORK[name], save_next)
    assert operations > 15
    for nth in range(1, operations + 1, stride):
        backend = prepared()
        interrupted(backend, nth, WORK[name], save_next)
        assert_exact(backend, 4, all_there=name != "prune")


@pytest.mark.parametrize("hold_in", ["plan", "write", "finish"])
@pytest.mark.parametrize("name", WORK)
def test_deletion_while_a_save_in_the_background_stands_still(name: str, hold_in: str) -> None:
    backend = prepared()
    writer = HeldWriter(a_store(backend), 4, hold_in=hold_in)
    running = async_save(state(4), storage_writer=writer)
    assert writer.held.wait(60)
    WORK[name](a_store(backend))
    writer.go_on.set()
    done(running)
    assert_exact(backend, 4, all_there=name != "prune")


def test_a_save_whose_predecessor_does_not_commit_while_gc_runs() -> None:
    backend = prepared()
    writers = {step: HeldWriter(a_store(backend), step, hold_in="finish") for step in (4, 5)}
    running = {}
    for step, writer in writers.items():
        running[step] = async_save(state(step), storage_writer=writer)
        assert writer.held.wait(60)
        gc(a_store(backend))
    # The later one first: what it built on is step 3, as nothing newer was visible.
    for step in (5, 4):
        writers[step].go_on.set()
        done(running[step])
        gc(a_store(backend))
    assert_exact(backend, 5, all_there=True)
    header = a_store(backend).step(5).manifest.header
    assert header.distance == a_store(backend).step(3).manifest.header.distance + 1
