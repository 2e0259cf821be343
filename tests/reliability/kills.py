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
from typing import Literal, TypeAlias

from deltackpt.backend.base import Backend, Buffer, ObjectInfo
from deltackpt.backend.local import LocalBackend
from deltackpt.backend.memory import MemoryBackend
from deltackpt.store.opened import open_store
from tests.reliability.actions import ACTIONS, Action, build_store, state
from tests.reliability.checks import check_store

__all__ = ["Kill", "Killer", "KillingBackend", "main"]

When: TypeAlias = Literal["before", "after"]

# Before the how manyth operation of a backend that begins, or after the how manyth that ends.
Point: TypeAlias = tuple[int, When]

# A round kills about this many children at operations, each action its share, and so many of each at random instants.
_AT_OPERATIONS = 60
_AT_RANDOM = 4


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
    """Passes everything on to ``inner``, and kills this process before or after its nth operation, if there is one.

    Attributes:
        done: how many operations began, and how many ended.
    """

    def __init__(self, inner: Backend, nth: int = 0, when: When = "before") -> None:
        self._inner = inner
        self._point = nth, when
        self.done: dict[When, int] = {"before": 0, "after": 0}

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

    def _count(self, when: When) -> None:
        self.done[when] += 1
        if (self.done[when], when) == self._point:
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


def points_of(action: Action) -> list[Point]:
    """Before and after each operation, ordered so that any few that follow one another are spread; the last is first.

    The order is that of van der Corput: numbers with their binary digits reversed.
    """
    backend = KillingBackend(MemoryBackend())
    build_store(backend)
    backend.done = {"before": 0, "after": 0}
    action.run(open_store(backend))
    # Fewer end than begin: some lists are not read to their end.
    points: list[Point] = [(nth, when) for when in backend.done for nth in range(1, backend.done[when] + 1)]
    points.sort(key=lambda point: (point[0] / backend.done[point[1]], point[1] == "after"), reverse=True)
    digits = max(1, (len(points) - 1).bit_length())
    return [points[place] for place in (_reversed(i, digits) for i in range(1 << digits)) if place < len(points)]


def _reversed(number: int, digits: int) -> int:
    return int(f"{number:0{digits}b}"[::-1], 2)


def kill_at_point(action: Action, template: Path, folder: Path, point: Point) -> Kill:
    """Kill a child before or after its nth operation."""
    root = _copy(template, folder)
    return _end(action, root, _fork(action, KillingBackend(LocalBackend(root), *point)))


def kill_at_random(action: Action, template: Path, folder: Path, duration: float, rng: random.Random) -> Kill:
    """Kill a child at a random instant of the time that the action takes."""
    root = _copy(template, folder)
    child = _fork(action, LocalBackend(root))
    time.sleep(rng.random() * duration)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    return _end(action, root, child)


def duration_of(action: Action, template: Path, folder: Path) -> float:
    """Seconds that a child takes for the action: the middle one of three."""
    durations = []
    for _ in range(3):
        root = _copy(template, folder)
        start = time.monotonic()
        os.waitpid(_fork(action, LocalBackend(root)), 0)
        durations.append(time.monotonic() - start)
    return sorted(durations)[1]


class Killer:
    """Kills children that do one action, in rounds that take other operations each."""

    def __init__(self, action: Action, template: Path, folder: Path) -> None:
        self.action = action
        self._places = template, folder
        self._points = points_of(action)
        self._duration = duration_of(action, template, folder)

    @property
    def points(self) -> int:
        """Before and after how many operations a child may be killed."""
        return len(self._points)

    def round(self, number: int, at_operations: int) -> Iterator[Kill]:
        """Kill that many at operations and some at random; those that end before their time come on top.

        Args:
            number: of the round: those that follow one another go through all operations.
        """
        kills = 0
        for k in range(number * at_operations, (number + 1) * at_operations):
            kill = kill_at_point(self.action, *self._places, self._points[k % self.points])
            kills += kill.killed
            yield kill
        rng = random.Random(f"{self.action.name} {number}")
        for _ in range(100):
            if kills == at_operations + _AT_RANDOM:
                return
            kill = kill_at_random(self.action, *self._places, self._duration, rng)
            kills += kill.killed
            # On a busy machine the children that were measured may have been slow.
            self._duration *= 1 if kill.killed else 0.95
            yield kill
        raise AssertionError(f"{self.action.name}: children end before they can be killed")


def main(arguments: list[str] | None = None) -> int:
    """Kill as often as asked for; print a line for each round, and for each action in the end."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=3500, help="how many children to kill in all")
    parser.add_argument("--first", type=int, default=0, metavar="ROUND", help="go on at this round of a run cut off")
    options = parser.parse_args(arguments)
    ends: dict[str, Counter[tuple[bool, bool]]] = {action.name: Counter() for action in ACTIONS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_store(LocalBackend(folder / "template", create=True))
        killers = [Killer(action, folder / "template", folder) for action in ACTIONS]
        points = sum(killer.points for killer in killers)
        shares = [max(3, round(_AT_OPERATIONS * killer.points / points)) for killer in killers]
        rounds = range(options.first, -(-options.kills // (sum(shares) + _AT_RANDOM * len(killers))))
        for number in rounds:
            for killer, share in zip(killers, shares, strict=True):
                for kill in killer.round(number, share):
                    ends[kill.action][kill.killed, kill.changed] += 1
            write(f"round {number}: {killed_of(sum(ends.values(), Counter()))} kills so far, all well")
    for killer, share in zip(killers, shares, strict=True):
        found = ends[killer.action.name]
        write(
            f"{killer.action.name:<12} {killed_of(found)} killed: {found[True, False]} as before, {found[True, True]} "
            f"as after; {found[False, True]} ended first; {min(killer.points, len(rounds) * share)} of "
            f"{killer.points} places at operations"
        )
    write(f"{killed_of(sum(ends.values(), Counter()))} kills; every step exact, no half step, the next save worked")
    return 0


def killed_of(ends: Counter[tuple[bool, bool]]) -> int:
    """How many were killed before they were done."""
    return ends[True, False] + ends[True, True]


def write(line: str) -> None:
    """Print a line at once, so that a run that is cut off has said what it did."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
