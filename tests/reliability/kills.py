"""Kill -9, for real: a child does something to a store on disk and is killed at an operation or at any instant.

``python -m tests.reliability.kills --kills 2000`` prints what was tried and found.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deltackpt.backend.base import Backend, Buffer, ObjectInfo
from deltackpt.backend.local import LocalBackend
from deltackpt.backend.memory import MemoryBackend
from deltackpt.store.opened import open_store
from deltackpt.testing.faults import RecordingBackend
from tests.reliability.actions import ACTIONS, Action, build_store, state
from tests.reliability.checks import check_store

__all__ = ["Kill", "KillingBackend", "kill_at_operations", "kill_at_random", "main"]


@dataclass(frozen=True, slots=True)
class Kill:
    """How a child ended.

    Attributes:
        action: what it did.
        killed: whether it was killed before it was done.
        changed: whether what it did was visible in the end.
    """

    action: str
    killed: bool
    changed: bool


class KillingBackend:
    """Passes everything on to ``inner``, and kills this process before or after its nth operation."""

    def __init__(self, inner: Backend, nth: int, when: Literal["before", "after"]) -> None:
        self._inner = inner
        self._left = nth
        self._when = when

    @property
    def url(self) -> str:
        """That of the backend inside."""
        return self._inner.url

    def put(self, key: str, data: Buffer) -> None:
        self._count("before")
        self._inner.put(key, data)
        self._count("after")

    def put_if_absent(self, key: str, data: Buffer) -> None:
        self._count("before")
        self._inner.put_if_absent(key, data)
        self._count("after")

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        self._count("before")
        found = self._inner.get(key, start, length)
        self._count("after")
        return found

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._count("before")
        yield from self._inner.list(prefix)
        self._count("after")

    def delete(self, key: str) -> None:
        self._count("before")
        self._inner.delete(key)
        self._count("after")

    def _count(self, when: Literal["before", "after"]) -> None:
        if when == self._when:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def _fork(action: Action, backend: Backend) -> int:
    """Start a child that does the action and ends with 0, or with 1 where it raised."""
    child = os.fork()
    if child:
        return child
    code = 1
    with suppress(BaseException):
        action.run(open_store(backend))
        code = 0
    os._exit(code)


def _copy(template: Path, folder: Path) -> Path:
    root = folder / "store"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root)
    return root


def _end(action: Action, root: Path, child: int) -> Kill:
    """Wait for a child, and check what it left."""
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or os.waitstatus_to_exitcode(status) == 0, f"{action.name} failed without being killed"
    backend = LocalBackend(root)
    seen = check_store(backend, action.possible(done=not killed), next_state=state(30)).steps
    backend.remove_temporaries(min_age=-1)
    return Kill(action.name, killed, all(seen.get(place, b"") == held for place, held in action.after.items()))


def operations_of(action: Action) -> int:
    """How many operations of a backend the action takes."""
    recorder = RecordingBackend(MemoryBackend())
    store = build_store(recorder)
    recorder.clear()
    action.run(open_store(store.backend))
    return len(recorder.operations)


def kill_at_operations(action: Action, template: Path, folder: Path, every: int = 1) -> Iterator[Kill]:
    """Kill before and after every ``every``-th operation, the last one first."""
    for nth in range(operations_of(action), 0, -every):
        for when in ("before", "after"):
            root = _copy(template, folder)
            yield _end(action, root, _fork(action, KillingBackend(LocalBackend(root), nth, when)))


def kill_at_random(action: Action, template: Path, folder: Path, count: int, rng: random.Random) -> Iterator[Kill]:
    """Kill at random instants of the time that the action takes."""
    durations = []
    for _ in range(3):
        root = _copy(template, folder)
        start = time.monotonic()
        os.waitpid(_fork(action, LocalBackend(root)), 0)
        durations.append(time.monotonic() - start)
    for _ in range(count):
        root = _copy(template, folder)
        child = _fork(action, LocalBackend(root))
        time.sleep(rng.random() * sorted(durations)[1])
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        yield _end(action, root, child)


def main(arguments: list[str] | None = None) -> int:
    """Kill as often as asked for; print a line for each action."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=2000, help="how many children to kill in all, about")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    share = max(1, options.kills // len(ACTIONS))
    total = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_store(LocalBackend(folder / "template", create=True))
        for action in ACTIONS:
            every = max(1, 4 * operations_of(action) // share)
            found = list(kill_at_operations(action, folder / "template", folder, every))
            at_operations = len(found)
            found += kill_at_random(action, folder / "template", folder, max(1, share - at_operations), rng)
            ends = Counter((kill.killed, kill.changed) for kill in found)
            killed = ends[True, False] + ends[True, True]
            total += killed
            sys.stdout.write(
                f"{action.name:<12} {len(found)} children ({at_operations} at operations), {killed} killed: "
                f"{ends[True, False]} as before, {ends[True, True]} as after; {ends[False, True]} ended first\n"
            )
    sys.stdout.write(f"{total} kills; every step exact, no half step, the next save worked\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
