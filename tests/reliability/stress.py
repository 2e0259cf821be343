"""Many processes at one store: savers, readers, and one each that prunes, collects and repacks, for minutes.

``python -m tests.reliability.stress --seconds 600`` prints what they did. Every state tells its own number, from which
all its bytes follow, so that whoever reads one can tell whether it is what was saved.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from deltackpt import Retention, Store
from deltackpt.backend.local import LocalBackend
from deltackpt.errors import CommitConflictError, MissingObjectError, StepNotFoundError
from deltackpt.store.catalog import visible_steps
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import State, Stored, load_step, save_step, state_bytes

__all__ = ["main", "state"]

Event: TypeAlias = dict[str, Any]
Work: TypeAlias = Callable[["Worker"], Iterator[Event]]

# Each saver has a branch that is pruned and one that is kept; all write the few steps of this one, over each other.
SHARED = "shared"
_SHARED_STEPS = 4
_KEEP_LAST = 4

# For readers that are in the middle of a step that goes. They must not need it: they read again.
_GRACE = 0.2


def state(number: int) -> State:
    """What the state of this number holds: tensors that drift with it, one that never changes, and the number."""
    base = np.random.default_rng(7).standard_normal((24, 16)).astype(np.float32)
    drift = np.random.default_rng(number).standard_normal((24, 16)).astype(np.float32)
    return {
        "w": (base * (1 + np.float32(1e-4) * drift)).astype(np.float32),
        "m": Stored(drift, artifact="optim", role="exp_avg"),
        "frozen": base[:8],
        "number": Stored(np.array([number], np.int64).view(np.uint8), kind="object", artifact="train"),
    }


def number_of(content: dict[str, bytes]) -> int:
    """The number of a state that was read, all of whose bytes must follow from it."""
    number = int.from_bytes(content["number"], "little")
    assert content == state_bytes(state(number)), f"not what state {number} was saved as"
    return number


@dataclass(frozen=True, slots=True)
class Worker:
    """A process: its number, the store, and when it is to end."""

    number: int
    root: Path
    savers: int
    end: float

    def open(self) -> OpenStore:
        return open_store(LocalBackend(self.root))

    @property
    def rng(self) -> random.Random:
        return random.Random(self.number)


def save(worker: Worker) -> Iterator[Event]:
    """Save the next step of a branch of its own, now and then one that is kept, and one that others write, too."""
    store, rng = worker.open(), worker.rng
    for count in range(1 << 30):
        number = 1_000_000 * (worker.number + 1) + count
        branch, step = f"own{worker.number}", count
        if count % 5 == 3:
            branch = f"kept{worker.number}"
        if count % 5 == 4:
            branch, step = SHARED, rng.randrange(_SHARED_STEPS)
        try:
            header = save_step(store, state(number), step=step, branch=branch)
        except CommitConflictError:
            assert branch == SHARED, f"a conflict on a branch of its own, {branch}"
            yield {"did": "conflict"}
        else:
            yield {"did": "save", "branch": branch, "step": step, "generation": header.key.generation, "number": number}


def read(worker: Worker) -> Iterator[Event]:
    """Read steps, newest or any. One that is deleted meanwhile is refused; it is read again, and then it is gone."""
    rng = worker.rng
    while True:
        found = visible_steps(worker.open())
        if not found:
            continue
        chosen = rng.choice(found).key
        name = f"{chosen.branch}:{chosen.step}"
        for attempt in range(20):
            try:
                number_of(load_step(worker.open(), name))
            except (StepNotFoundError, MissingObjectError):
                if not any(f"{step.key.branch}:{step.key.step}" == name for step in visible_steps(worker.open())):
                    yield {"did": "read of what had gone"}
                    break
                assert attempt < 19, f"{name} is listed and cannot be read"
            else:
                yield {"did": "read"}
                break


def prune(worker: Worker) -> Iterator[Event]:
    """Thin out the branches that are meant for it, one after another."""
    store = Store(worker.open())
    while True:
        for branch in [f"own{number}" for number in range(worker.savers)]:
            try:
                report = store.prune(Retention(keep_last=_KEEP_LAST), branch=branch)
            except StepNotFoundError:
                continue  # It has no steps yet.
            yield {"did": "prune", "branch": branch, "steps": [gone.step for gone in report.pruned]}


def collect(worker: Worker) -> Iterator[Event]:
    """Delete what nobody needs, and copy out of packs what is still needed of them."""
    store = Store(worker.open())
    while True:
        store.gc(grace=_GRACE, wait=True)
        yield {"did": "gc"}


def repack(worker: Worker) -> Iterator[Event]:
    """Write the steps of a branch anew, while others save to it."""
    store, rng = Store(worker.open()), worker.rng
    branches = [SHARED, *[f"kept{number}" for number in range(worker.savers)]]
    while True:
        try:
            store.repack("smallest", branch=rng.choice(branches), max_depth=4)
        except StepNotFoundError:
            continue
        except CommitConflictError:
            yield {"did": "repack that met a save"}
        else:
            yield {"did": "repack"}


def _start(work: Work, worker: Worker, log: Path) -> int:
    """A child that works until its time is over and notes what it did; 0 where nothing went wrong."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("w") as out:
            for event in work(worker):
                out.write(json.dumps(event) + "\n")
                if time.monotonic() > worker.end:
                    break
        code = 0
    except BaseException:
        log.with_suffix(".error").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def _expected(events: list[Event]) -> dict[tuple[str, int], int]:
    """The number of the state that each step must hold that was ever saved: that of its highest generation."""
    newest: dict[tuple[str, int], tuple[int, int]] = {}
    for event in events:
        if event["did"] == "save":
            place = (event["branch"], event["step"])
            newest[place] = max(newest.get(place, (0, 0)), (event["generation"], event["number"]))
    return {place: number for place, (_, number) in newest.items()}


def check(root: Path, events: list[Event]) -> int:
    """Demand that every step is there that was not pruned, each exact, and that gc leaves no more; how many."""
    store = Store(open_store(LocalBackend(root)))
    expected = _expected(events)
    found = {
        (step.key.branch, step.key.step): number_of(load_step(store.opened, f"{step.key.branch}:{step.key.step}"))
        for step in visible_steps(store.opened)
    }
    for place, number in found.items():
        assert expected[place] == number, f"{place} holds state {number}"
    pruned = {(event["branch"], step) for event in events if event["did"] == "prune" for step in event["steps"]}
    lost = set(expected) - set(found)
    assert lost <= pruned, f"lost: {sorted(lost - pruned)}"
    assert not any(branch == SHARED or branch.startswith("kept") for branch, _ in lost)
    assert store.verify(deep=True).ok
    store.gc(grace=0)
    after = store.verify(deep=True)
    assert after.ok, after.problems
    assert after.unreferenced_bytes == 0
    return len(found)


def main(arguments: list[str] | None = None) -> int:
    """Let them all work for as long as asked for; print what they did."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.stress", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--savers", type=int, default=3)
    parser.add_argument("--readers", type=int, default=2)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "store"
        create_store(LocalBackend(root, create=True), StoreOptions(block_elements=64, pack_bytes=1024, key_every=4))
        works = [*[save] * options.savers, *[read] * options.readers, prune, collect, repack]
        end = time.monotonic() + options.seconds
        logs = [Path(name) / f"{number}.log" for number in range(len(works))]
        children = [
            _start(work, Worker(number, root, options.savers, end), log)
            for number, (work, log) in enumerate(zip(works, logs, strict=True))
        ]
        failed = [work.__name__ for work, child in zip(works, children, strict=True) if os.waitpid(child, 0)[1]]
        for log in logs:
            error = log.with_suffix(".error")
            sys.stdout.write(error.read_text() if error.exists() else "")
        events = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
        counts = Counter(str(event["did"]) for event in events)
        sys.stdout.write(", ".join(f"{did}: {count}" for did, count in sorted(counts.items())) + "\n")
        if failed:
            sys.stdout.write(f"failed: {', '.join(failed)}\n")
            return 1
        steps = check(root, events)
    sys.stdout.write(
        f"{len(works)} processes for {options.seconds:g} s; {steps} steps left, every one exact, none lost\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
