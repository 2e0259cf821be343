"""How a save is asked for: steps, metrics, overwriting, reuse of writers, partial and strict loads, plan caching."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from deltackpt import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.dcp import DeltaStorageReader, DeltaStorageWriter
from deltackpt.errors import InvalidArgumentError, InvalidNameError, StepNotFoundError
from deltackpt.format.keys import manifest_key
from deltackpt.pipeline import decode_tasks
from deltackpt.pipeline.decode import decode_listed
from deltackpt.store.opened import OpenStore
from deltackpt.testing import RecordingBackend
from tests.dcp.states import State, load_state, new_store, pickled, save_state


def at(step: int) -> State:
    """A state that says which step it is of."""
    return {"model": {"w": torch.arange(300.0) + step, "b": torch.full((5,), float(step))}, "step": step}


def empty() -> State:
    return {"model": {"w": torch.zeros(300), "b": torch.zeros(5)}, "step": None}


def is_at(state: State, step: int) -> bool:
    expected = at(step)
    return (
        state["step"] == step
        and torch.equal(state["model"]["w"], expected["model"]["w"])
        and torch.equal(state["model"]["b"], expected["model"]["b"])
    )


def test_the_state_of_a_module_as_it_is(delta_store: Store) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
    model.train()(torch.randn(8, 6))
    save(model.state_dict(), storage_writer=DeltaStorageWriter(delta_store, 1), no_dist=True)
    other = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
    state = other.state_dict()
    load(state, storage_reader=DeltaStorageReader(delta_store, 1), no_dist=True)
    other.load_state_dict(state)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    info = delta_store.step(1).info
    assert set(info.artifacts) == {"model"}


class Counter:
    """An object with a state of its own, as trainers have them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.history = torch.full((70,), float(count))

    def state_dict(self) -> State:
        return {"count": self.count, "history": self.history}

    def load_state_dict(self, state_dict: State) -> None:
        self.count, self.history = state_dict["count"], state_dict["history"]


def test_stateful_objects_are_asked_for_their_state_and_given_it(delta_store: Store) -> None:
    save_state(delta_store, 1, {"app": Counter(5), "plain": 2})
    counter = Counter(0)
    loaded = load_state(delta_store, 1, {"app": counter, "plain": None})
    assert loaded["app"] is counter
    assert (counter.count, loaded["plain"]) == (5, 2)
    assert torch.equal(counter.history, torch.full((70,), 5.0))


@pytest.mark.parametrize("state", [{}, {"a": {}}, {"": torch.ones(2)}, {"a/../b\n": torch.ones(1), "..": 3}])
def test_states_that_are_empty_or_have_odd_names(delta_store: Store, state: State) -> None:
    save_state(delta_store, 1, state)
    target = {
        key: torch.zeros_like(value) if isinstance(value, torch.Tensor) else value for key, value in state.items()
    }
    loaded = load_state(delta_store, 1, dict(target))
    assert loaded.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(loaded[key], value) if isinstance(value, torch.Tensor) else loaded[key] == value


@pytest.mark.parametrize(
    ("checkpoint_id", "step"),
    [("step-100", 100), ("runs/step_7/", 7), (Path("a/12"), 12), ("0003", 3), ("9" * 12, 10**12 - 1), ("v2-step5", 5)],
)
def test_the_step_from_a_checkpoint_id(delta_store: Store, checkpoint_id: str | Path, step: int) -> None:
    metadata = save(at(1), checkpoint_id=checkpoint_id, storage_writer=DeltaStorageWriter(delta_store), no_dist=True)
    assert [info.step for info in delta_store.steps()] == [step]
    assert metadata.storage_meta is not None
    assert metadata.storage_meta.checkpoint_id == checkpoint_id
    save_state(delta_store, 2, at(2), branch="other")
    if step != 999_999_999_999:
        save_state(delta_store, step + 1, at(9))
    state = empty()
    load(state, checkpoint_id=checkpoint_id, storage_reader=DeltaStorageReader(delta_store), no_dist=True)
    assert is_at(state, 1)


@pytest.mark.parametrize("checkpoint_id", [None, "latest", "step-", "step-٣", "step-1234567890123", "5/epoch"])
def test_ids_without_a_step_are_refused_with_advice(delta_store: Store, checkpoint_id: str | None) -> None:
    with pytest.raises(BaseException, match="pass step=N to DeltaStorageWriter") as caught:
        save(at(1), checkpoint_id=checkpoint_id, storage_writer=DeltaStorageWriter(delta_store), no_dist=True)
    assert InvalidArgumentError.__name__ in str(caught.value)
    assert delta_store.steps() == []
    save_state(delta_store, 1, at(1))
    state = empty()
    if checkpoint_id is None:
        load(state, storage_reader=DeltaStorageReader(delta_store), no_dist=True)
        assert is_at(state, 1)
    else:
        with pytest.raises(BaseException, match="pass step=N to DeltaStorageReader"):
            load(state, checkpoint_id=checkpoint_id, storage_reader=DeltaStorageReader(delta_store), no_dist=True)


def test_a_step_that_was_given_wins_over_the_checkpoint_id(delta_store: Store) -> None:
    save(at(1), checkpoint_id="x-5", storage_writer=DeltaStorageWriter(delta_store, step=np.int64(1)), no_dist=True)  # type: ignore[arg-type]
    assert [info.step for info in delta_store.steps()] == [1]
    state = empty()
    load(state, checkpoint_id="x-5", storage_reader=DeltaStorageReader(delta_store, "main:1"), no_dist=True)
    assert is_at(state, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda store: DeltaStorageWriter(store, step=-1),
        lambda store: DeltaStorageWriter(store, step=10**12),
        lambda store: DeltaStorageWriter(store, step=1.0),  # type: ignore[arg-type]
        lambda store: DeltaStorageWriter(store, step=True),
        lambda store: DeltaStorageWriter(store, step="5"),  # type: ignore[arg-type]
        lambda store: DeltaStorageWriter(store, step=1, metrics={"a": [1]}),
        lambda store: DeltaStorageWriter(store, step=1, metrics={1: 1}),  # type: ignore[dict-item]
        lambda store: DeltaStorageWriter(store, step=1, metrics={"a": torch.zeros(2)}),
        lambda store: DeltaStorageWriter(store, step=1, base_memory="much"),
        lambda store: DeltaStorageWriter(store, step=1, threads=0),
        lambda store: DeltaStorageReader(store, step=1, threads=0),
    ],
)
def test_arguments_that_make_no_sense(delta_store: Store, make: Callable[[Store], object]) -> None:
    with pytest.raises(InvalidArgumentError):
        make(delta_store)


def test_branches_must_have_names(delta_store: Store) -> None:
    with pytest.raises(InvalidNameError):
        DeltaStorageWriter(delta_store, step=1, branch="../up")


def test_metrics_are_recorded_as_plain_values(delta_store: Store) -> None:
    metrics: dict[str, Any] = {
        "loss": torch.tensor(2.5),
        "bf16": torch.tensor([0.5], dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "numpy": np.float32(0.5),
        "array": np.array([3]),
        "nan": float("nan"),
        "inf": -float("inf"),
        "name": "warm-up",
        "done": False,
        "none": None,
    }
    writer = DeltaStorageWriter(delta_store, step=1, metrics=metrics)
    metrics["loss"].fill_(0)
    save(at(1), storage_writer=writer, no_dist=True)
    found = dict(delta_store.steps()[0].metrics)
    nan = found.pop("nan")
    assert isinstance(nan, float)
    assert math.isnan(nan)
    assert found == {
        "loss": 2.5,
        "bf16": 0.5,
        "count": 7,
        "numpy": 0.5,
        "array": 3,
        "inf": -float("inf"),
        "name": "warm-up",
        "done": False,
        "none": None,
    }
    assert type(found["count"]) is int


def test_a_step_is_replaced_only_when_asked_to(delta_store: Store) -> None:
    save_state(delta_store, 1, at(1))
    old = delta_store.step(1)
    with pytest.raises(BaseException, match="overwrite=True") as caught:
        save_state(delta_store, 1, at(2))
    assert "StepExistsError" in str(caught.value)
    assert is_at(load_state(delta_store, 1, empty()), 1)
    assert save_state(delta_store, 1, at(2), overwrite=True).generation == 2
    assert is_at(load_state(delta_store, 1, empty()), 2)
    assert [(info.step, info.generation) for info in delta_store.steps()] == [(1, 2)]
    # Who holds the old generation goes on reading it.
    assert torch.equal(old.tensor("model.w"), at(1)["model"]["w"])
    assert save_state(delta_store, 3, at(3), overwrite=True).generation == 1


def test_latest_and_branches(delta_store: Store) -> None:
    for step in (5, 20, 3):
        save_state(delta_store, step, at(step))
    save_state(delta_store, 100, at(100), branch="side")
    assert is_at(load_state(delta_store, "latest", empty()), 20)
    assert is_at(load_state(delta_store, "side:latest", empty()), 100)
    assert is_at(load_state(delta_store, "latest", empty(), branch="side"), 100)
    with pytest.raises(BaseException, match="there is no step main:4"):
        load_state(delta_store, 4, empty())
    with pytest.raises(StepNotFoundError):
        delta_store.step(4)


def test_stores_are_given_by_url_too(tmp_path: Path) -> None:
    Store.create(tmp_path / "s")
    save(at(1), storage_writer=DeltaStorageWriter(tmp_path / "s", 1), no_dist=True)
    state = empty()
    load(state, storage_reader=DeltaStorageReader((tmp_path / "s").as_uri()), no_dist=True)
    assert is_at(state, 1)


def test_part_of_a_state_is_loaded_and_what_is_missing_is_an_error(delta_store: Store) -> None:
    save_state(delta_store, 1, at(1))
    part: State = {"model": {"b": torch.zeros(5)}}
    load_state(delta_store, 1, part)
    assert torch.equal(part["model"]["b"], at(1)["model"]["b"])
    more = {**empty(), "new": torch.full((2,), 7.0)}
    with pytest.raises(BaseException, match="Missing key in checkpoint state_dict: new"):
        load_state(delta_store, 1, more)
    planner = DefaultLoadPlanner(allow_partial_load=True)
    load(more, storage_reader=DeltaStorageReader(delta_store, 1), planner=planner, no_dist=True)
    assert is_at(more, 1)
    assert torch.equal(more["new"], torch.full((2,), 7.0))
    with pytest.raises(BaseException, match="Size mismatch"):
        load_state(delta_store, 1, {"model": {"b": torch.zeros(6)}})


def test_a_writer_and_a_reader_serve_again(delta_store: Store) -> None:
    writer, reader = DeltaStorageWriter(delta_store), DeltaStorageReader(delta_store)
    for step in (1, 2, 3):
        save(at(step), checkpoint_id=f"step-{step}", storage_writer=writer, no_dist=True)
    for step in (3, 1, 2):
        state = empty()
        load(state, checkpoint_id=f"step-{step}", storage_reader=reader, no_dist=True)
        assert is_at(state, step)
    with pytest.raises(BaseException, match="StepExistsError"):
        save(at(3), checkpoint_id="step-3", storage_writer=writer, no_dist=True)
    save(at(4), checkpoint_id="step-4", storage_writer=writer, no_dist=True)
    assert [info.step for info in delta_store.steps()] == [1, 2, 3, 4]


def test_a_writer_whose_save_failed_serves_again(delta_store: Store) -> None:
    class Unplannable(DefaultSavePlanner):
        def create_local_plan(self) -> SavePlan:
            raise ValueError("no plan")

    writer = DeltaStorageWriter(delta_store, 1)
    with pytest.raises(BaseException, match="no plan"):
        save(at(1), storage_writer=writer, planner=Unplannable(), no_dist=True)
    with pytest.raises(BaseException, match="sparse"):
        save({"s": torch.eye(2).to_sparse()}, storage_writer=writer, no_dist=True)
    save(at(1), storage_writer=writer, no_dist=True)
    assert is_at(load_state(delta_store, 1, empty()), 1)


def test_steps_outlive_the_steps_they_were_predicted_from(delta_store: Store) -> None:
    for step in (1, 2, 3):
        save_state(delta_store, step, at(step))
    for step in (1, 2):
        delta_store.opened.backend.delete(manifest_key(delta_store.step(step).key))
    fresh = Store(OpenStore(delta_store.opened.backend, delta_store.opened.config, delta_store.options))
    assert [info.step for info in fresh.steps()] == [3]
    assert is_at(load_state(fresh, 3, empty()), 3)
    save_state(fresh, 4, at(4))
    assert is_at(load_state(fresh, 4, empty()), 4)


def test_a_stored_block_is_read_once_for_all_that_is_made_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class InPieces(DefaultLoadPlanner):
        """Asks for each row on its own."""

        def create_local_plan(self) -> LoadPlan:
            (item,) = super().create_local_plan().items
            rows = [
                dataclasses.replace(
                    item,
                    dest_offsets=torch.Size([row, 0]),
                    storage_offsets=torch.Size([row, 0]),
                    lengths=torch.Size([1, item.lengths[1]]),
                )
                for row in range(item.lengths[0])
            ]
            return LoadPlan(rows)

    recorder = RecordingBackend(MemoryBackend())
    store, w = new_store(recorder), torch.randn(40, 16)
    save_state(store, 1, {"w": w})
    recorder.clear()
    decoded = []

    def counting(*args: Any) -> Any:
        decoded.append(1)
        return decode_listed(*args)

    monkeypatch.setattr(decode_tasks, "decode_listed", counting)
    state = {"w": torch.zeros(40, 16)}
    load(state, storage_reader=DeltaStorageReader(store, 1), planner=InPieces(), no_dist=True)
    assert torch.equal(state["w"], w)
    # Ten blocks, neighbours in their pack: one request, and no byte twice.
    assert recorder.count("get", "packs/") == 1
    assert recorder.bytes_read("packs/") < sum(info.size for info in recorder.list("packs/"))
    assert len(decoded) == 10


def test_what_signatures_tell_dcp() -> None:
    """It passes the rank to a set-up that has ``kwargs``, and repeats a ``read_metadata`` that has them."""
    assert "kwargs" in inspect.signature(DeltaStorageWriter.set_up_storage_writer).parameters
    assert "kwargs" in inspect.signature(DeltaStorageReader.set_up_storage_reader).parameters
    assert "kwargs" not in inspect.signature(DeltaStorageReader.read_metadata).parameters


def test_writers_survive_a_pickle_between_saves(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    writer = DeltaStorageWriter(store, metrics={"loss": 1.5})
    save(at(1), checkpoint_id="1", storage_writer=writer, no_dist=True)
    copy = pickled(writer)
    save(at(2), checkpoint_id="2", storage_writer=copy, no_dist=True)
    assert [info.metrics for info in store.steps()] == [{"loss": 1.5}] * 2
    assert is_at(load_state(store, 2, empty()), 2)


def test_readers_and_writers_count_as_given_and_never_as_stagers(delta_store: Store) -> None:
    writer, reader = DeltaStorageWriter(delta_store, 1), DeltaStorageReader(delta_store, 1)
    assert [bool(given) for given in (writer, reader)] == [True, True]
    assert not isinstance(writer, AsyncStager)
    assert DeltaStorageWriter.validate_checkpoint_id("anything")
    assert DeltaStorageReader.validate_checkpoint_id("anything")


def test_metadata_is_rebuilt_as_it_was_planned(delta_store: Store) -> None:
    state = {"a": [{"b": nn.Parameter(torch.ones(2, 3))}, {"b": torch.zeros(0, 4, dtype=torch.int8)}], "c": {"0": 1}}
    planned = save(state, storage_writer=DeltaStorageWriter(delta_store, 1), no_dist=True)
    rebuilt = DeltaStorageReader(delta_store, 1).read_metadata()
    assert rebuilt.planner_data == planned.planner_data
    assert rebuilt.state_dict_metadata == planned.state_dict_metadata
    assert list(rebuilt.state_dict_metadata) == list(planned.state_dict_metadata)
    stored = rebuilt.state_dict_metadata["a.0.b"]
    assert isinstance(stored, TensorStorageMetadata)
    assert stored.properties.requires_grad


def cached_saves(store: Store, steps: list[int], states: Callable[[int], State]) -> list[Metadata]:
    """Saves with one planner for all and one writer for each, as torchtitan does; what each of them returned."""
    planner = DefaultSavePlanner(enable_plan_caching=True)
    return [
        save(states(step), storage_writer=DeltaStorageWriter(store, step), planner=planner, no_dist=True)
        for step in steps
    ]


@pytest.mark.usefixtures("plan_caches")
def test_cached_plans_save_the_values_of_each_step(delta_store: Store) -> None:
    found = cached_saves(delta_store, [1, 2, 3], at)
    assert found[0] is found[2]  # torch's doing: nothing of ours may rely on a Metadata being one save's own
    for step in (1, 2, 3):
        assert is_at(load_state(delta_store, step, empty()), step)
    assert [info.depth for info in delta_store.steps()] == [1, 2, 3]


@pytest.mark.usefixtures("plan_caches")
def test_cached_plans_follow_a_state_that_changes(delta_store: Store) -> None:
    def changing(step: int) -> State:
        state = at(step)
        if step >= 3:
            state["optim"] = {"state": {0: {"exp_avg": torch.full((130,), float(step))}}, "param_groups": [{"lr": 0.1}]}
        return state

    cached_saves(delta_store, [1, 2, 3, 4], changing)
    for step in (1, 2, 3, 4):
        assert is_at(load_state(delta_store, step, empty()), step)
    for step in (3, 4):
        assert torch.equal(delta_store.step(step).tensor("optim.state.0.exp_avg"), torch.full((130,), float(step)))
    assert [set(info.artifacts) for info in delta_store.steps()] == [
        {"model", "train"},
        {"model", "train"},
        {"model", "optim", "train"},
        {"model", "optim", "train"},
    ]


@pytest.mark.usefixtures("plan_caches")
def test_what_a_save_returned_is_not_changed_under_the_feet_of_its_holder(delta_store: Store) -> None:
    planner = DefaultSavePlanner(enable_plan_caching=True)
    first = save(at(1), storage_writer=DeltaStorageWriter(delta_store, 1), planner=planner, no_dist=True)
    kept = first.storage_data
    before = dict(kept)
    save(at(2), storage_writer=DeltaStorageWriter(delta_store, 2), planner=planner, no_dist=True)
    assert kept == before


def test_planner_data_that_no_manifest_can_hold_is_refused_before_anything_is_written(delta_store: Store) -> None:
    class Planner(DefaultSavePlanner):
        def create_local_plan(self) -> SavePlan:
            plan = super().create_local_plan()
            return SavePlan(plan.items, planner_data=object())

    with pytest.raises(BaseException, match="use DefaultSavePlanner"):
        save(at(1), storage_writer=DeltaStorageWriter(delta_store, 1), planner=Planner(), no_dist=True)
    assert [found.key for found in delta_store.opened.backend.list("packs/")] == []
