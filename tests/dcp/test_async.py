"""Saves in the background: what is saved is what was staged, whatever training and stagers do to their buffers."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.staging import AsyncStager, BlockingAsyncStager, DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import async_save, save
from torch.distributed.checkpoint.storage import WriteResult

from deltackpt import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.dcp import DeltaStorageWriter
from deltackpt.testing import Fault, FaultyBackend, RecordingBackend
from tests.dcp.states import State, load_state, new_store, save_state


class ReusingStager(AsyncStager):
    """Stages into the same buffers again and again, and writes nonsense over them once told that a save is done."""

    def __init__(self) -> None:
        self.buffers: dict[str, torch.Tensor] = {}

    def stage(self, state_dict: State) -> State:
        for name, tensor in state_dict.items():
            self.buffers.setdefault(name, torch.empty_like(tensor)).copy_(tensor)
        return dict(self.buffers)

    @property
    def should_synchronize_after_execute(self) -> bool:
        return False

    def synchronize_staging(self) -> None:
        return

    def close(self) -> None:
        return

    def spoil(self) -> None:
        for buffer in self.buffers.values():
            buffer.fill_(77)


def a_walk(steps: int) -> list[State]:
    """States that change a little from step to step."""
    generator = torch.Generator().manual_seed(1)
    state = {"w": torch.randn(40, 30, generator=generator), "m": torch.randn(40, 30, generator=generator).bfloat16()}
    walk = []
    for _ in range(steps):
        walk.append({name: tensor.clone() for name, tensor in state.items()})
        for tensor in state.values():
            tensor[::3] += 0.01
    return walk


def done(response: object) -> Any:
    """Wait for a save in the background; what it returned."""
    future = response if isinstance(response, Future) else response.upload_completion  # type: ignore[attr-defined]
    return future.result(timeout=60)


def assert_exact(store: Store, walk: list[State]) -> None:
    for step, state in enumerate(walk):
        loaded = load_state(store, step, {name: torch.zeros_like(tensor) for name, tensor in state.items()})
        assert all(torch.equal(loaded[name], state[name]) for name in state), step


def test_training_goes_on_while_a_save_is_under_way(delta_store: Store) -> None:
    walk = a_walk(4)
    live = {name: tensor.clone() for name, tensor in walk[0].items()}
    for step, state in enumerate(walk):
        for name, tensor in state.items():
            live[name].copy_(tensor)
        response = async_save(live, storage_writer=DeltaStorageWriter(delta_store, step))
        for tensor in live.values():
            tensor.fill_(-1)
        assert done(response).storage_data
    assert_exact(delta_store, walk)
    assert [info.depth for info in delta_store.steps()] == [1, 2, 3, 4]
    assert [info.writer["bases_decoded"] for info in delta_store.steps()] == [0, 0, 0, 0]
    assert all(int(info.writer["bases_cached"]) > 0 for info in delta_store.steps()[1:])


@pytest.mark.parametrize("base_memory", ["auto", 0, 3000])
def test_bases_are_what_was_saved_and_not_what_became_of_the_buffers(base_memory: int | str) -> None:
    store, stager, walk = new_store(), ReusingStager(), a_walk(5)
    for step, state in enumerate(walk):
        writer = DeltaStorageWriter(store, step, base_memory=base_memory)
        done(async_save(state, storage_writer=writer, async_stager=stager))
        stager.spoil()
    assert_exact(store, walk)
    infos = store.steps()
    assert [info.depth for info in infos] == [1, 2, 3, 4, 5]
    decoded = [int(info.writer["bases_decoded"]) for info in infos[1:]]
    assert (not any(decoded)) if base_memory == "auto" else all(decoded)
    assert store.verify(deep=True).ok


def test_torchs_own_stager_kept_for_all_saves(delta_store: Store) -> None:
    walk = a_walk(3)
    stager = DefaultStager(StagingOptions(False, False, False, False))
    live = {name: tensor.clone() for name, tensor in walk[0].items()}
    for step, state in enumerate(walk):
        for name, tensor in state.items():
            live[name].copy_(tensor)
        done(async_save(live, storage_writer=DeltaStorageWriter(delta_store, step), async_stager=stager))
    stager.close()
    assert_exact(delta_store, walk)


def test_torchs_blocking_stager(delta_store: Store) -> None:
    walk, stager = a_walk(3), BlockingAsyncStager()
    live = {name: tensor.clone() for name, tensor in walk[0].items()}
    for step, state in enumerate(walk):
        for name, tensor in state.items():
            live[name].copy_(tensor)
        response = async_save(live, storage_writer=DeltaStorageWriter(delta_store, step), async_stager=stager)
        for tensor in live.values():
            tensor.fill_(-1)
        done(response)
    assert_exact(delta_store, walk)


def test_staging_in_the_background(delta_store: Store) -> None:
    walk = a_walk(2)
    stager = DefaultStager(StagingOptions(False, False, True, False))
    for step, state in enumerate(walk):
        response = async_save(state, storage_writer=DeltaStorageWriter(delta_store, step), async_stager=stager)
        response.staging_completion.result(timeout=60)  # type: ignore[union-attr]
        done(response)
    stager.close()
    assert_exact(delta_store, walk)


def test_errors_come_out_of_the_future_and_leave_no_step() -> None:
    inner = MemoryBackend()
    walk = a_walk(3)
    store = new_store(inner)
    done(async_save(walk[0], storage_writer=DeltaStorageWriter(store, 0)))
    faulty = FaultyBackend(inner, [Fault("put", prefix="packs/", times=None)])
    broken = Store(store.opened.__class__(faulty, store.opened.config, store.options))
    with pytest.raises(BaseException, match="a fault injected by a test"):
        done(async_save(walk[1], storage_writer=DeltaStorageWriter(broken, 1)))
    assert faulty.struck
    assert [info.step for info in store.steps()] == [0]
    done(async_save(walk[1], storage_writer=DeltaStorageWriter(store, 1)))
    done(async_save(walk[2], storage_writer=DeltaStorageWriter(store, 2)))
    assert_exact(store, walk)


class HeldWriter(DeltaStorageWriter):
    """Waits in the middle of a save, in the place that a test chooses."""

    def __init__(self, *args: Any, hold_in: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.hold_in = hold_in
        self.held, self.go_on = threading.Event(), threading.Event()

    def _hold(self, place: str) -> None:
        if place == self.hold_in and threading.current_thread() is not threading.main_thread():
            self.held.set()
            assert self.go_on.wait(60)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        self._hold("plan")
        return super().prepare_local_plan(plan)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        self._hold("write")
        return super().write_data(plan, planner)

    def finish(self, metadata: Any, results: Any) -> None:
        self._hold("finish")
        super().finish(metadata, results)


@pytest.mark.parametrize("hold_in", ["plan", "write", "finish"])
def test_a_writer_in_use_refuses_another_save(delta_store: Store, hold_in: str) -> None:
    walk = a_walk(3)
    writer = HeldWriter(delta_store, hold_in=hold_in)
    first = async_save(walk[1], checkpoint_id="1", storage_writer=writer)
    assert writer.held.wait(60)
    with pytest.raises(BaseException, match="in the middle of saving step main:1"):
        save(walk[2], checkpoint_id="2", storage_writer=writer, no_dist=True)
    writer.go_on.set()
    done(first)
    save(walk[2], checkpoint_id="2", storage_writer=writer, no_dist=True)
    save_state(delta_store, 0, walk[0])
    assert_exact(delta_store, walk)


@pytest.mark.parametrize("first_done", [1, 2])
def test_saves_that_overlap_are_each_exact(delta_store: Store, first_done: int) -> None:
    walk = a_walk(4)
    save_state(delta_store, 0, walk[0])
    writers = {step: HeldWriter(delta_store, step, hold_in="write") for step in (1, 2)}
    running = {step: async_save(walk[step], storage_writer=writers[step]) for step in (1, 2)}
    assert all(writer.held.wait(60) for writer in writers.values())
    for step in (first_done, 3 - first_done):
        writers[step].go_on.set()
        done(running[step])
    save_state(delta_store, 3, walk[3])
    assert_exact(delta_store, walk)
    assert delta_store.verify(deep=True).ok


def test_two_saves_of_one_step_at_once_make_one_step(delta_store: Store) -> None:
    walk = a_walk(2)
    writers = [HeldWriter(delta_store, 0, hold_in="write") for _ in range(2)]
    running = [async_save(walk[n], storage_writer=writer) for n, writer in enumerate(writers)]
    assert all(writer.held.wait(60) for writer in writers)
    writers[0].go_on.set()
    done(running[0])
    writers[1].go_on.set()
    with pytest.raises(BaseException, match="somebody else committed step main:0"):
        done(running[1])
    assert_exact(delta_store, walk[:1])


def test_a_save_lets_go_of_what_a_planner_makes(delta_store: Store) -> None:
    """Planners may allocate what they resolve: it is asked for late, and let go when it was written."""
    alive: list[int] = []
    most = 0

    class Copying(DefaultSavePlanner):
        def transform_object(self, write_item: Any, object: Any) -> Any:
            nonlocal most
            memory = object.numpy().copy()
            alive.append(1)
            most = max(most, len(alive))
            weakref.finalize(memory, alive.pop)
            return torch.from_numpy(memory)

    state = {f"w{n:02d}": torch.full((640,), float(n)) for n in range(30)}
    save(state, storage_writer=DeltaStorageWriter(delta_store, 1, threads=2), planner=Copying(), no_dist=True)
    assert 1 <= most <= 6
    loaded = load_state(delta_store, 1, {name: torch.zeros(640) for name in state})
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_the_announcement_then_packs_then_indexes_then_the_manifest() -> None:
    recorder = RecordingBackend(MemoryBackend())
    store = new_store(recorder)
    recorder.clear()
    done(async_save(a_walk(1)[0], storage_writer=DeltaStorageWriter(store, 0)))
    puts = [done.key.split("/")[0] for done in recorder.operations if done.kind in ("put", "put_if_absent")]
    assert puts[0] == "pending"
    assert [kind for kind in puts if kind != "pending"] == ["packs", "indexes", "manifests"]
