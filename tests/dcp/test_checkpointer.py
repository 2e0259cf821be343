"""Saving from a training loop: what is saved and when, failures, preemption, and resuming exactly."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.state_dict_saver import async_save

import deltackpt
import deltackpt.dcp.background
from deltackpt import Checkpointer, Retention, Store
from deltackpt.errors import (
    BackendError,
    IncompleteSaveError,
    IncompleteStepError,
    InvalidArgumentError,
    StepExistsError,
    StepNotFoundError,
)
from deltackpt.schedule import at, every, improves, progressive
from deltackpt.store.collect import find_garbage
from deltackpt.store.opened import OpenStore
from deltackpt.store.usage import all_objects, read_listed
from deltackpt.testing import Fault, FaultyBackend, flip_bits
from tests.dcp.loop import state_of
from tests.dcp.states import new_store
from tests.dcp.training import Run

ROOT = Path(__file__).parents[2]


def a_state(step: int) -> dict[str, Any]:
    """A model, an optimizer's moments and a counter that depend on the step."""
    weight = torch.linspace(0, 1, 200) + step
    return {"model": {"w": weight}, "optim": {"m": weight * 2}, "train": {"step": step}}


def empty_state() -> dict[str, Any]:
    return {"model": {"w": torch.zeros(200)}, "optim": {"m": torch.zeros(200)}, "train": {"step": None}}


def steps_of(store: Store) -> list[int]:
    return [info.step for info in store.steps()]


def held_by(store: Store, step: int) -> set[str]:
    return {entry.fqn.split(".")[0] for entry in store.step(step).entries()}


def failing(store: Store, *faults: Fault) -> Store:
    opened = store.opened
    return Store(OpenStore(FaultyBackend(opened.backend, faults), opened.config, opened.options))


@pytest.fixture
def store() -> Store:
    return new_store()


def test_a_single_process_is_not_warned_of_being_one(store: Store) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Checkpointer(store, schedule=every(1)) as checkpointer:
            checkpointer.step(1, a_state(1))
            assert checkpointer.resume(empty_state()) is not None


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Every test leaves the handler of SIGTERM as it was."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) == before


def test_steps_are_saved_when_they_are_due(store: Store) -> None:
    with Checkpointer(store, every(3) | at(4)) as checkpointer:
        begun = [checkpointer.step(step, a_state(step), {"loss": 1.0 / (step + 1)}) for step in range(8)]
    assert begun == [True, False, False, True, True, False, True, False]
    assert steps_of(store) == [0, 3, 4, 6]
    for info in store.steps():
        loaded = store.step(info.step).load()
        assert torch.equal(loaded["model.w"], a_state(info.step)["model"]["w"])  # type: ignore[arg-type]
        assert loaded["train.step"] == info.step
        assert info.metrics == {"loss": 1.0 / (info.step + 1)}
        assert info.writer["world_size"] == 1
        assert info.writer["torch"] == torch.__version__


def test_the_state_may_change_once_step_returns(store: Store) -> None:
    state = a_state(1)
    with Checkpointer(store, every(1)) as checkpointer:
        checkpointer.step(1, state)
        state["model"]["w"].fill_(-1)
    assert torch.equal(store.step(1).tensor("model.w"), a_state(1)["model"]["w"])


def test_a_function_is_asked_for_the_state_only_where_there_is_something_to_save(store: Store) -> None:
    asked = []

    def state() -> dict[str, Any]:
        asked.append(1)
        return a_state(4)

    with Checkpointer(store, at(4)) as checkpointer:
        for step in range(8):
            checkpointer.step(step, state)
    assert len(asked) == 1
    assert held_by(store, 4) == {"model", "optim", "train"}


def test_never_two_saves_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[Future[Any]] = []
    original: Callable[..., Any] = async_save

    def watched(*args: Any, **options: Any) -> Any:
        assert all(future.done() for future in running)
        running.append(original(*args, **options))
        return running[-1]

    monkeypatch.setattr(deltackpt.dcp.background, "async_save", watched)
    with Checkpointer(store, every(1)) as checkpointer:
        for step in range(6):
            checkpointer.step(step, a_state(step))
    assert len(running) == 6
    assert steps_of(store) == list(range(6))


def test_what_a_step_holds_differs_by_rule(store: Store) -> None:
    with Checkpointer(store, contents={"model": every(2), "optim": every(6)}) as checkpointer:
        for step in range(1, 14):
            checkpointer.step(step, a_state(step))
    assert steps_of(store) == [2, 4, 6, 8, 10, 12]
    full = {"model", "optim", "train"}
    # The first holds everything: there is nothing else to resume from.
    assert {step: held_by(store, step) for step in steps_of(store)} == {
        2: full,
        4: {"model", "train"},
        6: full,
        8: {"model", "train"},
        10: {"model", "train"},
        12: full,
    }


def test_an_optimizer_that_is_saved_less_often_builds_on_its_last_step(store: Store) -> None:
    def state(step: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(step)
        first = torch.randn(2000, generator=torch.Generator().manual_seed(99))
        return {"model": {"w": first}, "optim": {"m": first * (1 + 1e-5 * torch.randn(2000, generator=generator))}}

    with Checkpointer(store, contents={"model": every(1), "optim": every(6)}) as checkpointer:
        for step in range(14):
            checkpointer.step(step, state(step))
    full = [step for step in range(14) if "optim" in held_by(store, step)]
    assert full == [0, 6, 12]
    first, *others = [store.step(step).info.artifacts["optim"][1] for step in full]
    assert max(others) < 0.8 * first
    for step in full:
        assert torch.equal(store.step(step).tensor("optim.m"), state(step)["optim"]["m"])


def test_a_module_is_no_state(store: Store) -> None:
    with Checkpointer(store, every(1)) as checkpointer, pytest.raises(InvalidArgumentError, match="name the parts"):
        checkpointer.step(1, torch.nn.Linear(2, 2))
    assert store.steps() == []


def test_resume_takes_the_newest_step_with_everything(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "deltackpt")
    with Checkpointer(store, contents={"model": every(2), "optim": every(6)}) as checkpointer:
        for step in range(1, 12):
            checkpointer.step(step, a_state(step))
    state = empty_state()
    with Checkpointer(store, contents={"model": every(2), "optim": every(6)}) as checkpointer:
        resumed = checkpointer.resume(state)
        assert resumed is not None
        assert (resumed.step, resumed.branch, resumed.generation) == (6, "main", 1)
        assert [(s.step, s.reason) for s in resumed.skipped] == [
            (10, "it was saved without optim"),
            (8, "it was saved without optim"),
        ]
        # As it was asked for: nothing to be warned of.
        assert "passed over 2 steps, 8 to 10, of branch main: it was saved without optim" in caplog.text
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
        assert torch.equal(state["optim"]["m"], a_state(6)["optim"]["m"])
        assert state["train"]["step"] == 6
        # Training goes over 8 and 10 again: they are replaced, and hold what their rules say.
        for step in range(7, 13):
            checkpointer.step(step, a_state(step))
    assert [(info.step, info.generation) for info in store.steps()] == [
        (2, 1),
        (4, 1),
        (6, 1),
        (8, 2),
        (10, 2),
        (12, 1),
    ]
    assert held_by(store, 8) == {"model", "train"}
    with Checkpointer(store, every(100)) as checkpointer:
        weights = {"model": {"w": torch.zeros(200)}}
        resumed = checkpointer.resume(weights)
        assert resumed is not None
        assert (resumed.step, resumed.skipped) == (12, ())
        assert torch.equal(weights["model"]["w"], a_state(12)["model"]["w"])


def test_nothing_to_resume_from(store: Store) -> None:
    with Checkpointer(store, every(1)) as checkpointer:
        assert checkpointer.resume(empty_state()) is None
        checkpointer.step(1, {"model": a_state(1)["model"]})
    with Checkpointer(store, every(1)) as checkpointer:
        # To begin anew where there are steps would be wrong.
        with pytest.raises(IncompleteStepError, match=r"of the newest, 1: it was saved without optim and train"):
            checkpointer.resume(empty_state())
        with pytest.raises(IncompleteStepError, match=r"no model\.w of shape \[7\]"):
            checkpointer.resume({"model": {"w": torch.zeros(7)}})
        with pytest.raises(StepNotFoundError):
            checkpointer.resume(empty_state(), step=9)


def test_a_step_that_is_there_is_not_replaced_without_a_resume(store: Store) -> None:
    with Checkpointer(store, every(1)) as checkpointer:
        checkpointer.step(1, a_state(1))
        checkpointer.step(2, a_state(2))
    with Checkpointer(store, every(1)) as checkpointer:
        checkpointer.step(1, a_state(5))
        with pytest.raises(StepExistsError, match="step main:1 was not saved: step main:1 is there already"):
            checkpointer.wait()
        # Nor where an older step was chosen.
        assert checkpointer.resume(empty_state(), step=1) is not None
        checkpointer.step(2, a_state(5))
        with pytest.raises(StepExistsError):
            checkpointer.wait()
    assert torch.equal(store.step(2).tensor("model.w"), a_state(2)["model"]["w"])


def pruning(steps: int, **options: Any) -> Store:
    """A run that keeps its newest step, by a clock that goes ten minutes from save to save."""
    now = [datetime(2026, 1, 1, tzinfo=timezone.utc)]
    made = new_store()
    store = Store(OpenStore(made.opened.backend, made.opened.config, clock=lambda: now[0]))
    with Checkpointer(store, every(1), retention=Retention(keep_last=1), **options) as checkpointer:
        for step in range(1, steps + 1):
            checkpointer.step(step, {"model": {"w": torch.randn(500) + step}})
            checkpointer.wait()
            now[0] += timedelta(minutes=10)
    return store


def test_pruned_steps_leave_no_bytes(caplog: pytest.LogCaptureFixture) -> None:
    store = pruning(6)
    assert steps_of(store) == [6]
    # What the last run of gc found is left to the next one.
    own, garbage = store.steps()[0], find_garbage(store.opened)
    assert len(garbage.objects) <= 4
    assert len(all_objects(store.opened)) == len(read_listed(store.opened).objects()) + len(garbage.objects)
    assert own.step == 6
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    kept = pruning(6, gc=False)
    assert steps_of(kept) == [6]
    assert len(find_garbage(kept.opened).objects) > 4


def test_a_gc_that_fails_is_warned_of_and_harms_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BackendError("the disk is gone")

    monkeypatch.setattr(Store, "gc", fail)
    assert steps_of(pruning(3)) == [3]
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == ["the bytes of pruned steps are not free yet: the disk is gone"] * 3


def test_a_damaged_step_is_passed_over(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with Checkpointer(store, every(1)) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.step(step, {"model": {"w": torch.randn(500) + step}})
    expected = store.step(1).tensor("model.w")
    backend = store.opened.backend
    flip_bits(backend, "manifests/main/000000000003/000001", 60)
    packs = {pack.name for pack in store.step(2).manifest.packs} - {pack.name for pack in store.step(1).manifest.packs}
    for name in packs:
        flip_bits(backend, f"packs/{name.hex()[:2]}/{name.hex()}", 100)
    state = {"model": {"w": torch.zeros(500)}}
    with Checkpointer(Store(OpenStore(backend, store.opened.config)), every(1)) as checkpointer:
        resumed = checkpointer.resume(state)
    assert resumed is not None
    assert resumed.step == 1
    assert [(skipped.step, skipped.by_design) for skipped in resumed.skipped] == [(3, False), (2, False)]
    assert caplog.text.count("is passed over: ") == 2
    assert "manifest cannot be read" in resumed.skipped[0].reason
    assert "damaged" in resumed.skipped[1].reason
    assert torch.equal(state["model"]["w"], expected)


def test_a_branch_goes_on_from_where_it_starts(store: Store) -> None:
    with Checkpointer(store, every(2)) as checkpointer:
        for step in range(1, 9):
            checkpointer.step(step, a_state(step))
    store.branch("tuned", at=4)
    for branch_steps, expected in ((range(5, 8), ("main", 4)), (range(7, 9), ("tuned", 6))):
        state = empty_state()
        with Checkpointer(store, every(2), branch="tuned") as checkpointer:
            resumed = checkpointer.resume(state)
            assert resumed is not None
            assert (resumed.branch, resumed.step) == expected
            assert state["train"]["step"] == resumed.step
            for step in branch_steps:
                checkpointer.step(step, a_state(step))
    assert [info.step for info in store.steps("tuned")] == [6, 8]
    # Steps may be numbered anew.
    store.branch("short", at="main:8")
    with Checkpointer(store, every(2), branch="short") as checkpointer:
        assert checkpointer.resume(empty_state()) is not None
        for step in range(1, 4):
            checkpointer.step(step, a_state(step))
    with Checkpointer(store, every(2), branch="short") as checkpointer:
        resumed = checkpointer.resume(empty_state())
        assert resumed is not None
        assert (resumed.branch, resumed.step) == ("short", 2)
        resumed = checkpointer.resume(empty_state(), step="main:6")
        assert resumed is not None
        assert (resumed.branch, resumed.step) == ("main", 6)


def test_an_optimizer_gets_a_state_to_load_into(store: Store) -> None:
    trained = Run(seed=1)
    trained.steps(3)
    with Checkpointer(store, every(1)) as checkpointer:
        checkpointer.step(3, state_of(trained))
    fresh = Run(seed=2)
    with Checkpointer(store, every(1)) as checkpointer:
        with pytest.raises(InvalidArgumentError, match="no tensors to load the optimizer's into") as caught:
            checkpointer.resume({"model": fresh.model.state_dict(), "optim": fresh.optimizer.state_dict()})
        assert "'optim': optimizer" in str(caught.value)
        assert checkpointer.resume(state_of(fresh)) is not None
    assert fresh.batch == 3
    assert [p.grad for p in fresh.model.parameters()] == [None] * 6
    assert fresh.optimizer.param_groups[0]["lr"] == 1e-2
    assert fresh.steps(5) == trained.steps(5)


@settings(max_examples=2)
@given(st.integers(1, 20), st.sampled_from(["adamw", "momentum", "sgd"]))
def test_a_run_that_was_killed_goes_on_as_if_it_was_not(killed_after: int, optimizer: str) -> None:
    def schedule() -> Any:
        return progressive({0: 4, 12: 7}) | improves("loss", at_most_every=6)

    def train(run: Run, checkpointer: Checkpointer, last: int) -> list[float]:
        found = []
        for step in range(run.batch + 1, last + 1):
            found.append(run.step())
            checkpointer.step(step, state_of(run), {"loss": found[-1]})
        return found

    whole_store, store = new_store(), new_store()
    with Checkpointer(whole_store, schedule()) as checkpointer:
        losses = train(Run(optimizer), checkpointer, 20)
    with Checkpointer(store, schedule()) as checkpointer:
        train(Run(optimizer), checkpointer, killed_after)
    run = Run(optimizer, seed=5)
    with Checkpointer(store, schedule()) as checkpointer:
        resumed = checkpointer.resume(state_of(run))
        assert resumed is not None
        assert train(run, checkpointer, 20) == losses[resumed.step :]
    # What was saved after the resume is what would have been saved without it.
    assert steps_of(store) == steps_of(whole_store)


def test_a_failure_comes_out_of_the_next_call_and_leaves_nothing(store: Store) -> None:
    broken = failing(store, Fault("put", prefix="indexes/", nth=2))
    checkpointer = Checkpointer(broken, every(2))
    checkpointer.step(2, a_state(2))
    checkpointer.wait()
    checkpointer.step(4, a_state(40))
    checkpointer._saver._future.exception()  # type: ignore[union-attr]
    with pytest.raises(BackendError, match="step main:4 was not saved: a fault injected by a test") as caught:
        checkpointer.step(5, a_state(5))
    assert caught.value.kind == "backend"
    assert steps_of(store) == [2]
    # It was said once; training may go on.
    assert [checkpointer.step(step, a_state(step)) for step in (6, 7, 8)] == [True, False, True]
    checkpointer.close()
    assert steps_of(store) == [2, 6, 8]
    assert store.verify(deep=True).ok


def test_a_failure_comes_out_of_the_end(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    def checkpointer() -> Checkpointer:
        return Checkpointer(failing(store, Fault("put", prefix="packs/", times=None)), every(1))

    failed = checkpointer()
    failed.step(1, a_state(1))
    with pytest.raises(BackendError, match="step main:1 was not saved"):
        failed.close()
    failed = checkpointer()
    failed.step(1, a_state(1))
    error = ZeroDivisionError()
    assert failed.__exit__(type(error), error, None) is None  # type: ignore[func-returns-value]
    assert "step main:1 was not saved" in caplog.text
    assert steps_of(store) == []


def test_what_cannot_be_staged_fails_at_once(store: Store) -> None:
    class Stubborn:
        def state_dict(self) -> dict[str, Any]:
            raise ValueError("not now")

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise AssertionError

    with Checkpointer(store, every(1)) as checkpointer:
        with pytest.raises(IncompleteSaveError, match="step main:1 was not saved: ValueError: not now"):
            checkpointer.step(1, {"model": Stubborn()})
        checkpointer.step(2, a_state(2))
    assert steps_of(store) == [2]


def test_save_at_the_end(store: Store) -> None:
    with Checkpointer(store, contents={"model": every(1), "optim": every(10)}) as checkpointer:
        for step in range(1, 6):
            checkpointer.step(step, a_state(step))
        assert held_by(store, 4) == {"model", "train"}
        checkpointer.save(5, a_state(5), wait=True)
        assert held_by(store, 5) == {"model", "optim", "train"}
        assert store.step(5).info.generation == 2
        checkpointer.save(5, a_state(5), wait=True)  # it is there
        assert store.step(5).info.generation == 2
        checkpointer.save(7, a_state(7))
    assert steps_of(store) == [1, 2, 3, 4, 5, 7]


def test_the_state_of_the_schedule_comes_back(store: Store) -> None:
    seconds = 0.0
    schedule = every("10min") | improves("loss") | at(0)

    def go(checkpointer: Checkpointer, steps: range, losses: dict[int, float]) -> list[int]:
        nonlocal seconds
        saved = []
        for step in steps:
            seconds += 60
            if checkpointer.step(step, a_state(step), {"loss": losses[step]} if step in losses else None):
                saved.append(step)
        return saved

    with Checkpointer(store, schedule, clock=lambda: seconds) as checkpointer:
        assert go(checkpointer, range(8), {3: 2.0, 5: 2.5, 6: math.nan}) == [0, 3]
    seconds = 1e6
    with Checkpointer(store, schedule, clock=lambda: seconds) as checkpointer:
        assert checkpointer.resume(empty_state()) is not None
        # 2.1 is no improvement on 2.0, and ten minutes of training after step 3 is step 13, but for one lost minute.
        assert go(checkpointer, range(4, 20), {4: 2.1, 16: 1.9}) == [14, 16]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "when is a step to be saved"),
        ({"schedule": every(1), "contents": {"model": every(1)}}, "either"),
        ({"schedule": 5}, "the schedule of '*' is 5"),
        ({"contents": {}}, "no part"),
        ({"contents": {"model": 5}}, "the schedule of 'model' is 5"),
        ({"schedule": every(1), "base_memory": "much"}, "base_memory"),
        ({"schedule": every(1), "threads": 0}, "threads"),
        ({"schedule": every(1), "branch": "../x"}, "branch"),
    ],
)
def test_arguments_that_make_no_sense(store: Store, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Checkpointer(store, **arguments)
    assert words in str(caught.value)


def test_calls_that_make_no_sense(store: Store) -> None:
    checkpointer = Checkpointer(store, contents={"modle": every(2)})
    with pytest.raises(InvalidArgumentError, match="did you mean 'model'"):
        checkpointer.step(2, a_state(2))
    for step in (2, 1, -1, True):
        with pytest.raises(InvalidArgumentError):
            checkpointer.step(step, a_state(2))
    with pytest.raises(InvalidArgumentError, match="metric 'loss'"):
        checkpointer.step(3, a_state(3), {"loss": [1]})
    checkpointer.close()
    checkpointer.close()
    with pytest.raises(InvalidArgumentError, match="closed"):
        checkpointer.step(4, a_state(4))
    assert steps_of(store) == []


def term() -> None:
    """SIGTERM, and time for Python to run its handler."""
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_preemption_saves_everything_and_calls_the_handler_that_was_there(store: Store) -> None:
    called = []

    def handler(number: int, frame: FrameType | None) -> None:
        called.append((number, steps_of(store)))

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with Checkpointer(store, contents={"model": every(2), "optim": every(100)}) as checkpointer:
            for step in range(1, 6):
                checkpointer.step(step, a_state(step))
            term()
            assert (len(called), checkpointer.preempted) == (0, False)
            assert checkpointer.step(7, a_state(7))
            # The step was there before the handler was called.
            assert called == [(signal.SIGTERM, [2, 4, 7])]
            assert checkpointer.preempted
            assert held_by(store, 7) == {"model", "optim", "train"}
            assert signal.getsignal(signal.SIGTERM) == handler
            term()
            assert len(called) == 2
            assert [checkpointer.step(step, a_state(step)) for step in (9, 11)] == [True, True]
        assert len(called) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    assert steps_of(store) == [2, 4, 7, 9, 11]


def test_a_second_signal_does_not_wait(store: Store) -> None:
    called = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    try:
        checkpointer = Checkpointer(store, every(100))
        term()
        waited = list(called)
        term()
        assert (waited, called) == ([], [signal.SIGTERM])
        # The state is saved all the same, and nobody is told twice.
        assert checkpointer.step(1, a_state(1))
        assert checkpointer.preempted
        checkpointer.close()
        assert called == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_after_the_last_step_is_passed_on_at_the_end(store: Store) -> None:
    called = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: called.append(steps_of(store)))
    try:
        with Checkpointer(store, every(1)) as checkpointer:
            checkpointer.step(1, a_state(1))
            term()
        assert called == [[1]]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_signals_are_left_alone_where_asked_and_in_other_threads(store: Store) -> None:
    before = signal.getsignal(signal.SIGTERM)
    Checkpointer(store, every(1), preemption=False)
    assert signal.getsignal(signal.SIGTERM) == before

    def elsewhere() -> None:
        with Checkpointer(store, every(1)) as checkpointer:
            checkpointer.step(1, a_state(1))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
    assert steps_of(store) == [1]


ENDS = {
    "term": (-signal.SIGTERM, 25, [10, 20, 25]),
    "kill": (-signal.SIGKILL, 25, [10, 20]),
    "exit": (0, 40, [10, 20, 30, 40]),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Training loops that ended in several ways, each in a process of its own: their folder and exit codes."""
    folder = tmp_path_factory.mktemp("loops")
    for how in ENDS:
        Store.create(folder / how)
    done = subprocess.run(
        [sys.executable, "-m", "tests.dcp.loop", str(folder), *ENDS],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    return folder, dict(zip(ENDS, map(int, done.stdout.split()), strict=True))


@pytest.fixture(scope="module")
def losses() -> list[str]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = [f"{step} {loss.hex()}" for step, loss in enumerate(Run(seed=7).steps(40), 1)]
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize("how", ENDS)
def test_however_a_process_ends_its_run_goes_on_exactly(
    ended: tuple[Path, dict[str, int]], losses: list[str], how: str
) -> None:
    folder, codes = ended
    code, said, saved = ENDS[how]
    store = Store.open(folder / how)
    assert codes[how] == code
    assert (folder / f"{how}.out").read_text().splitlines() == ["from None", *losses[:said]]
    assert steps_of(store) == saved
    assert store.verify(deep=True).ok
    run = Run(seed=99)
    with Checkpointer(store, every(10)) as checkpointer:
        resumed = checkpointer.resume(state_of(run))
    assert resumed is not None
    assert resumed.step == saved[-1]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert [f"{run.batch} {run.step().hex()}" for _ in range(40 - resumed.step)] == [
        line.replace(line.split()[0], str(int(line.split()[0]) - 1), 1) for line in losses[resumed.step :]
    ]
    torch.set_num_threads(threads)


def test_the_package_loads_no_torch_until_it_is_asked_for() -> None:
    code = (
        "import sys, deltackpt; assert 'torch' not in sys.modules\n"
        "try: deltackpt.Checkpoint\n"
        "except AttributeError: pass\n"
        "else: raise SystemExit('no error')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert deltackpt.Checkpointer is Checkpointer


def test_a_commit_that_fails(store: Store) -> None:
    checkpointer = Checkpointer(failing(store, Fault("put_if_absent", prefix="manifests/", times=None)), every(3))
    for step in range(1, 4):
        checkpointer.step(step, a_state(step))
    with pytest.raises(BackendError, match="step main:3 was not saved"):
        checkpointer.close()
    assert steps_of(store) == []
