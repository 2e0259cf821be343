"""A save that fails in any place fails as a whole: an error in words, no visible step, and all earlier steps intact."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from deltackpt import Store
from deltackpt.backend.base import Backend
from deltackpt.backend.memory import MemoryBackend
from deltackpt.dcp import DeltaStorageReader, DeltaStorageWriter
from deltackpt.dcp.portable import portable, portable_errors
from deltackpt.errors import BackendError, CorruptObjectError, DeltackptError, IncompleteSaveError
from deltackpt.store.opened import OpenStore
from deltackpt.testing import Fault, FaultyBackend, flip_bits
from tests.dcp.states import State, load_state, new_store, pickled, save_state


class UnpicklableError(Exception):
    """What a planner or plugin of somebody else may raise."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.cause = lambda: message


def at(step: int) -> State:
    return {"w": torch.arange(900.0) + step / 7, "same": torch.arange(200.0), "note": f"step {step}"}


def assert_only(store: Store, *steps: int) -> None:
    """Exactly these steps are there, and exact."""
    assert [info.step for info in store.steps()] == list(steps)
    for step in steps:
        loaded = load_state(store, step, {"w": torch.zeros(900), "same": torch.zeros(200), "note": None})
        expected = at(step)
        assert torch.equal(loaded["w"], expected["w"])
        assert torch.equal(loaded["same"], expected["same"])
        assert loaded["note"] == expected["note"]
    assert store.verify(deep=True).ok


def reopened(store: Store, backend: Backend) -> Store:
    """The same store through another backend, without what the first has kept in memory."""
    return Store(OpenStore(backend, store.opened.config, store.options))


@pytest.mark.parametrize("bad", ["w", "same", "note"])
@pytest.mark.parametrize("error", [UnpicklableError("lost the tensor"), ValueError("lost the tensor")])
def test_a_planner_that_fails_at_one_item(delta_store: Store, bad: str, error: Exception) -> None:
    class Planner(DefaultSavePlanner):
        def resolve_data(self, write_item: Any) -> Any:
            if write_item.index.fqn == bad:
                raise error
            return super().resolve_data(write_item)

    save_state(delta_store, 1, at(1))
    with pytest.raises(CheckpointException, match="lost the tensor") as caught:
        save(at(2), storage_writer=DeltaStorageWriter(delta_store, 2), planner=Planner(), no_dist=True)
    pickled(caught.value)
    assert_only(delta_store, 1)
    save_state(delta_store, 2, at(2))
    assert_only(delta_store, 1, 2)


@pytest.mark.parametrize(
    "changed",
    [torch.zeros(901), torch.zeros(900, dtype=torch.float64), torch.zeros(900, 1), "an object"],
    ids=["longer", "wider", "reshaped", "object"],
)
def test_a_planner_that_gives_something_else_than_it_planned(delta_store: Store, changed: object) -> None:
    class Planner(DefaultSavePlanner):
        def resolve_data(self, write_item: Any) -> Any:
            return changed if write_item.index.fqn == "w" else super().resolve_data(write_item)

    with pytest.raises(CheckpointException, match="w: planned as"):
        save(at(1), storage_writer=DeltaStorageWriter(delta_store, 1), planner=Planner(), no_dist=True)
    assert_only(delta_store)


FAULTS = [
    Fault("put", prefix="packs/"),
    Fault("put", prefix="packs/", nth=3),
    Fault("put", prefix="packs/", when="after"),
    Fault("put", prefix="indexes/"),
    Fault("put", prefix="indexes/", error=lambda: UnpicklableError("a fault injected by a test")),
    Fault("put_if_absent", prefix="manifests/"),
    Fault("put_if_absent", prefix="manifests/", error=lambda: UnpicklableError("a fault injected by a test")),
    Fault("list", prefix="manifests/"),
    Fault("list", prefix="manifests/", nth=2),
    Fault("list", prefix="manifests/", nth=3),
    Fault("get", prefix="indexes/", nth=1, times=None),
    Fault("put", prefix="packs/", error=lambda: BackendError("a fault injected by a test, no space left", hint="x")),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind} {fault.nth} {fault.prefix} {fault.when}")
def test_a_backend_that_fails_in_one_place(fault: Fault) -> None:
    inner = MemoryBackend()
    store = new_store(inner, pack_bytes=1024)
    save_state(store, 1, at(1))
    faulty = FaultyBackend(inner, [fault])
    with pytest.raises(CheckpointException, match="a fault injected by a test") as caught:
        save_state(reopened(store, faulty), 2, at(2))
    assert faulty.struck
    pickled(caught.value)
    assert_only(store, 1)
    save_state(store, 2, at(2))
    assert_only(store, 1, 2)


def test_a_commit_whose_answer_was_lost_is_a_commit() -> None:
    inner = MemoryBackend()
    store = new_store(inner)
    faulty = FaultyBackend(inner, [Fault("put_if_absent", prefix="manifests/", when="after")])
    save_state(reopened(store, faulty), 1, at(1))
    assert faulty.struck == 1
    assert_only(store, 1)


def test_a_damaged_base_is_done_without() -> None:
    inner = MemoryBackend()
    store = new_store(inner)
    save_state(store, 1, at(1), base_memory=0)
    pack = max(inner.list("packs/"), key=lambda found: found.size)
    flip_bits(inner, pack.key, pack.size // 2)
    save_state(reopened(store, inner), 2, at(2), base_memory=0)
    loaded = load_state(store, 2, {"w": torch.zeros(900), "same": torch.zeros(200)})
    assert torch.equal(loaded["w"], at(2)["w"])
    assert torch.equal(loaded["same"], at(2)["same"])
    with pytest.raises(CheckpointException, match="packs/") as caught:
        load_state(store, 1, {"w": torch.zeros(900), "same": torch.zeros(200), "note": None})
    assert CorruptObjectError.__name__ in str(caught.value)


def test_a_commit_of_what_was_not_all_written_is_refused(delta_store: Store) -> None:
    class Forgetful(DeltaStorageWriter):
        def write_data(self, plan: Any, planner: Any) -> Any:
            return super().write_data(type(plan)(plan.items[1:], planner_data=plan.planner_data), planner)

    class Silent(DeltaStorageWriter):
        def finish(self, metadata: Any, results: Any) -> None:
            super().finish(metadata, [[] for _ in results])

    class Foreign(DeltaStorageWriter):
        def finish(self, metadata: Any, results: Any) -> None:
            changed = [[type(r)(r.index, r.size_in_bytes, "theirs") for r in own] for own in results]
            super().finish(metadata, changed)

    class Headless(DeltaStorageWriter):
        def finish(self, metadata: Any, results: Any) -> None:
            super().finish(metadata, [own[1:] for own in results])

    for number, kind in enumerate((Forgetful, Silent, Foreign, Headless)):
        with pytest.raises(CheckpointException, match="IncompleteSaveError"):
            save(at(1), storage_writer=kind(delta_store, number), no_dist=True)
    assert_only(delta_store)


def test_calls_out_of_order(delta_store: Store) -> None:
    writer, reader = DeltaStorageWriter(delta_store, 1), DeltaStorageReader(delta_store, 1)
    with pytest.raises(DeltackptError, match="not set up"):
        writer.finish(None, [])  # type: ignore[arg-type]
    with pytest.raises(DeltackptError, match="not set up"):
        writer.write_data(None, None)  # type: ignore[arg-type]
    with pytest.raises(DeltackptError, match="before read_metadata"):
        reader.set_up_storage_reader(None, True)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [UnpicklableError("no target"), ValueError("no target")])
def test_a_load_planner_that_fails(delta_store: Store, error: Exception) -> None:
    class Planner(DefaultLoadPlanner):
        def resolve_tensor(self, read_item: Any) -> Any:
            raise error

    class WrongShape(DefaultLoadPlanner):
        def resolve_tensor(self, read_item: Any) -> Any:
            return super().resolve_tensor(read_item)[1:]

    save_state(delta_store, 1, at(1))
    for planner, words in ((Planner(), "no target"), (WrongShape(), r"a target of shape \[899\]")):
        with pytest.raises(CheckpointException, match=words) as caught:
            load(
                {"w": torch.zeros(900)},
                storage_reader=DeltaStorageReader(delta_store, 1),
                planner=planner,
                no_dist=True,
            )
        pickled(caught.value)


def test_every_committed_target_was_filled(delta_store: Store) -> None:
    """``commit_tensor`` is called for each, so that planners may resolve to something else than the state's own."""

    class Indirect(DefaultLoadPlanner):
        def resolve_tensor(self, read_item: Any) -> torch.Tensor:
            return torch.full_like(super().resolve_tensor(read_item), -1)

        def commit_tensor(self, read_item: Any, tensor: torch.Tensor) -> None:
            super().resolve_tensor(read_item).copy_(tensor)

    save_state(delta_store, 1, at(1))
    state = {"w": torch.zeros(900), "same": torch.zeros(200)}
    load(state, storage_reader=DeltaStorageReader(delta_store, 1), planner=Indirect(), no_dist=True)
    assert torch.equal(state["w"], at(1)["w"])
    assert torch.equal(state["same"], at(1)["same"])


def test_errors_that_travel_keep_what_they_can() -> None:
    plain = BackendError("full", where="packs/x", offset=3, hint="make room")
    plain.errno = errno.ENOSPC
    assert portable(plain) is plain
    again = pickled(plain)
    assert (type(again), str(again), again.errno) == (BackendError, str(plain), errno.ENOSPC)
    original = UnpicklableError("why")
    replaced = portable(original)
    assert isinstance(replaced, DeltackptError)
    assert "UnpicklableError: why" in str(replaced)
    assert replaced.__cause__ is original
    with pytest.raises(DeltackptError, match="UnpicklableError: why") as caught, portable_errors():
        raise original
    assert caught.value.__cause__ is original
    with pytest.raises(IncompleteSaveError), portable_errors():
        raise IncompleteSaveError("as it is")
