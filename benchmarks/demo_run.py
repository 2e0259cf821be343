"""What the demo does with a store: save while training, restore in two ways, and compare with what was kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from benchmarks.digests import differences, digest_state
from benchmarks.training import State, Trainer
from deltackpt import StepInfo, Store
from deltackpt.dcp import DeltaStorageReader, DeltaStorageWriter

__all__ = [
    "RunLog",
    "Saved",
    "check_files",
    "check_load",
    "load_files",
    "load_step",
    "middle_step",
    "resume",
    "save_steps",
    "train",
]


@dataclass(frozen=True, slots=True)
class Saved:
    """One saved step.

    Args:
        info: what the store says of it.
        interval: training steps since the save before it (or since the start).
        seconds: from the call of ``async_save`` until the step was visible.
        blocked: seconds for which training stood still for it: waiting for the save before, hashing not included.
    """

    info: StepInfo
    interval: int
    seconds: float
    blocked: float


@dataclass(slots=True)
class RunLog:
    """What is kept of a run to prove things by: losses, and of each saved step its hashes, never its tensors."""

    losses: dict[int, float] = field(default_factory=dict)
    digests: dict[int, dict[str, str]] = field(default_factory=dict)
    saved: list[Saved] = field(default_factory=list)


def middle_step(steps: int, every: int) -> int:
    """The last multiple of ``every`` in the first half of ``steps``: after it comes the stretch of single steps."""
    return steps // 2 // every * every


def save_steps(steps: int, every: int, stretch: int) -> list[int]:
    """The steps to save: every ``every``-th of ``steps``, each of ``stretch`` steps after the middle, and the last."""
    middle = middle_step(steps, every)
    wanted = {*range(every, steps + 1, every), *range(middle + 1, middle + stretch + 1), steps}
    return sorted(step for step in wanted if 0 < step <= steps)


@dataclass(frozen=True, slots=True)
class _Running:
    """A save under way: ``ended`` gets the time at which ``future`` was done."""

    step: int
    future: Future[Any]
    begun: float
    ended: Future[float]
    blocked: float


class Saver:
    """Saves in the background, one step at a time: a save waits until the one before is done."""

    def __init__(self, store: Store, log: RunLog) -> None:
        self._store = store
        self._log = log
        self._running: _Running | None = None

    def save(self, step: int, state: State, metrics: Mapping[str, float]) -> None:
        """Begin to save ``state``, which may change again as soon as this returns."""
        called = time.perf_counter()
        self.finish()
        begun = time.perf_counter()
        writer = DeltaStorageWriter(self._store, step=step, metrics=dict(metrics))
        response = async_save(state, storage_writer=writer)
        future = response if isinstance(response, Future) else response.upload_completion
        ended: Future[float] = Future()
        future.add_done_callback(lambda _: ended.set_result(time.perf_counter()))
        self._running = _Running(step, future, begun, ended, time.perf_counter() - called)

    def finish(self) -> None:
        """Wait for the save under way, if there is one; raises what it raised."""
        if self._running is None:
            return
        running, self._running = self._running, None
        running.future.result()
        before = self._log.saved[-1].info.step if self._log.saved else 0
        self._log.saved.append(
            Saved(
                info=self._store.step(running.step).info,
                interval=running.step - before,
                seconds=running.ended.result() - running.begun,
                blocked=running.blocked,
            )
        )


def train(
    trainer: Trainer, store: Store, steps: int, to_save: list[int], seen: Callable[[RunLog, int], None]
) -> RunLog:
    """Train to ``steps`` and save the steps ``to_save``; ``seen`` is called after each step with the log so far."""
    log = RunLog()
    saver = Saver(store, log)
    for step in range(1, steps + 1):
        log.losses[step] = trainer.train_step()
        if step in to_save:
            state = trainer.state()
            log.digests[step] = digest_state(state)
            saver.save(step, state, {"loss": log.losses[step], "lr": trainer.config.lr(step)})
        seen(log, step)
    saver.finish()
    return log


def load_step(store: Store, step: int, fresh: Trainer) -> State:
    """Load ``step`` with ``dcp.load`` into ``fresh``, which has not done a step, and return what was loaded."""
    state = fresh.blank_state()
    load(state, storage_reader=DeltaStorageReader(store, step=step))
    fresh.load(state)
    return state


def load_files(folder: Path) -> State:
    """The nested state that ``Step.restore(folder, format="torch")`` wrote: one entry per file."""
    state: State = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".pt":
            state[path.stem] = torch.load(path, weights_only=True)
        elif path.suffix == ".yaml":
            state[path.stem] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return state


def check_load(store: Store, step: int, kept: Mapping[str, str], fresh: Trainer) -> list[str]:
    """Load ``step`` into ``fresh``; the differences of what was loaded, and of the trainer then, to ``kept``."""
    loaded = load_step(store, step, fresh)
    return differences(kept, digest_state(loaded)) + differences(kept, digest_state(fresh.state()))


def check_files(store: Store, step: int, kept: Mapping[str, str], folder: Path) -> list[str]:
    """Restore ``step`` to files in ``folder``; the differences of their content to ``kept``."""
    store.step(step).restore(folder, format="torch")
    return differences(kept, digest_state(load_files(folder)))


def resume(trainer: Trainer, steps: int, log: RunLog) -> tuple[list[float], list[str]]:
    """Train ``steps`` more: their losses, and the differences to what was kept at the last one, if it was saved."""
    losses = [trainer.train_step() for _ in range(steps)]
    kept = log.digests.get(trainer.step)
    return losses, [] if kept is None else differences(kept, digest_state(trainer.state()))
