"""What ranks with a Checkpointer do. Results are small and plain: they go through a pipe."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
import torch.distributed as dist

from deltackpt import Checkpointer, Store
from deltackpt.errors import DeltackptError
from deltackpt.schedule import every, improves
from deltackpt.testing import Fault
from tests.dcp.jobs import Sharded, a_failing_store, digests


def parts(run: Sharded) -> dict[str, Any]:
    return {"model": run.model, "optim": run.optimizer}


def train_and_resume(rank: int, world: int, url: str) -> list[Any]:
    """Train sharded, resume in a fresh run, and compare; clocks and metrics differ between ranks."""
    seconds = 1000.0 * rank
    run = Sharded(seed=1)
    schedule = every("10min") | improves("loss", at_most_every=2)
    saved = []
    with Checkpointer(url, schedule, clock=lambda: seconds) as checkpointer:
        for step in range(1, 9):
            run.train(1)
            seconds += 100 if rank == 0 else 10_000
            # Rank 0 sees no improvement after the first; rank 1 sees one at every step.
            if checkpointer.step(step, parts(run), {"loss": 1.0 if rank == 0 else 1.0 / step}):
                saved.append(step)
    expected = digests(run.state())
    fresh = Sharded(seed=2)
    with Checkpointer(url, every(100)) as checkpointer:
        resumed = checkpointer.resume(parts(fresh))
    fresh.trained = 0 if resumed is None else resumed.step
    fresh.train(8 - fresh.trained)
    found = digests(fresh.state())
    return [saved, None if resumed is None else resumed.step, found == {**expected, "trained": "8"}]


def fail_and_go_on(rank: int, world: int, url: str) -> list[Any]:
    """The save of step 4 fails on the last rank; all ranks hear of it at the same step and go on."""
    store = a_failing_store(url, Fault("put", prefix="indexes/", nth=2)) if rank == world - 1 else url
    run = Sharded(seed=1)
    heard: list[tuple[int, str, str]] = []
    with Checkpointer(store, every(2)) as checkpointer:
        for step in range(1, 200):
            try:
                if step > 8 and heard:
                    break
                # Only what is saved matters; the collective of each step gives the save time to fail.
                checkpointer.step(step, parts(run), {})
            except DeltackptError as error:
                heard.append((step, type(error).__name__, str(error)))
    return [heard, [info.step for info in Store.open(url).steps()][:2]]


def preempted(rank: int, world: int, url: str) -> list[Any]:
    """SIGTERM reaches the last rank only; all of them save the same step, and what was there is called on each."""
    called: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    run, last = Sharded(seed=1), 0
    try:
        with Checkpointer(url, every(1000)) as checkpointer:
            for step in range(1, 50):
                if step == 5 and rank == world - 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                checkpointer.step(step, parts(run))
                if checkpointer.preempted:
                    last = step
                    break
    finally:
        signal.signal(signal.SIGTERM, before)
    dist.barrier()
    return [last, len(called), [info.step for info in Store.open(url).steps()]]


def lacking(rank: int, world: int, url: str) -> list[Any]:
    """Ranks whose states differ resume from the newest step that has what each of them asks for."""

    def state(names: list[str]) -> dict[str, Any]:
        return {"model": {name: torch.ones(3) for name in names}}

    with Checkpointer(url, every(1)) as checkpointer:
        checkpointer.step(1, state(["a", "b"]))
        checkpointer.step(2, state(["a"]))
        checkpointer.step(3, state(["a", "b"]))
        checkpointer.step(4, state(["a", "c"]))
    words = ""
    with Checkpointer(url, every(1)) as checkpointer:
        resumed = checkpointer.resume(state(["a"]) if rank == 0 else state(["a", "b"]))
        try:
            checkpointer.resume(state(["a"]) if rank == 0 else state(["x"]))
        except DeltackptError as error:
            words = type(error).__name__
    return [None if resumed is None else resumed.step, words]
