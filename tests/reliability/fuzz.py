"""Hostile input: every parser gets damaged, forged and random bytes, and may answer with an error of ours only.

``python -m tests.reliability.fuzz --inputs 10000000`` prints what was tried. An input that gets another answer is
written to a file, to be kept in ``tests/reliability/corpus/`` once it is understood: the tests run all that is there.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from deltackpt.errors import DeltackptError
from deltackpt.format.hashing import blake3_digest
from tests.reliability.mutations import mutate
from tests.reliability.targets import TARGETS, Target

__all__ = ["CORPUS", "Tried", "fuzz", "main", "try_input"]

CORPUS = Path(__file__).parent / "corpus"

# What a parser may take of memory beyond what the process had, and of time, for inputs of a few KiB.
_MEMORY = 1 << 30
_SECONDS = 10.0  # of the processor: a run may be stopped and gone on with


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of the inputs for one target.

    Attributes:
        accepted: how many were taken for good.
        slowest: seconds that the slowest took.
        failures: inputs that got another answer than an error of ours, with that answer.
    """

    target: str
    inputs: int
    accepted: int
    slowest: float
    failures: tuple[tuple[bytes, str], ...]

    def __add__(self, more: Tried) -> Tried:
        """Both, of one target."""
        slowest = max(self.slowest, more.slowest)
        failures = (*self.failures, *more.failures)
        return Tried(self.target, self.inputs + more.inputs, self.accepted + more.accepted, slowest, failures)


def try_input(target: Target, data: bytes) -> bool:
    """Whether the target takes the input; anything but an error of ours goes through."""
    try:
        target.run(data)
    except DeltackptError:
        return False
    return True


@cache
def _seeds(name: str) -> Sequence[bytes]:
    return tuple(TARGETS[name].seeds())


def fuzz(name: str, inputs: int, seed: int) -> Tried:
    """Try that many inputs on one target."""
    target = TARGETS[name]
    seeds = _seeds(name)
    rng = random.Random(f"{name} {seed}")
    accepted, slowest = 0, 0.0
    failures: list[tuple[bytes, str]] = []
    tried = 0
    while tried < inputs and len(failures) < 5:
        tried += 1
        data = target.forge(mutate(rng.choice(seeds), rng, seeds), rng)
        start = time.thread_time()
        try:
            accepted += try_input(target, data)
        except Exception as error:
            failures.append((data, f"{type(error).__name__}: {error}"))
        took = time.thread_time() - start
        slowest = max(slowest, took)
        if took > _SECONDS:
            failures.append((data, f"took {took:.1f} s"))
    return Tried(name, tried, accepted, slowest, tuple(failures))


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY + (1 << 31), resource.RLIM_INFINITY))


def _run(job: tuple[str, int, int]) -> Tried:
    return fuzz(*job)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try as many inputs as asked for, in rounds; print a line for each round, and for each target in the end."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000_000, help="how many to try in all, about")
    parser.add_argument("--round", type=int, default=100_000, help="how many of them in a round")
    parser.add_argument("--first", type=int, default=0, metavar="ROUND", help="go on at this round of a run cut off")
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", help="only this one; may be repeated")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    names = options.target or list(TARGETS)
    weights = {name: TARGETS[name].weight for name in names}
    size = min(options.round, options.inputs)
    shares = {name: max(1, round(size * weight / sum(weights.values()))) for name, weight in weights.items()}
    rounds = range(options.first, max(options.first + 1, round(options.inputs / sum(shares.values()))))
    found = {name: Tried(name, 0, 0, 0.0, ()) for name in names}
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn"), initializer=_limit_memory) as executor:
        jobs = [(name, share, number) for number in rounds for name, share in shares.items()]
        for done, tried in enumerate(executor.map(_run, jobs), 1):
            found[tried.target] += tried
            for data, answer in tried.failures:
                path = Path(f"fuzz-{tried.target}-{blake3_digest(data).hex()[:12]}.bin")
                path.write_bytes(data)
                _write(f"{path}: {answer[:300]}")
            if done % len(names) == 0:
                _write(f"round {rounds[done // len(names) - 1]}: {_summary(found.values())} so far")
    for tried in found.values():
        _write(
            f"{tried.target:<14} {tried.inputs:>9} inputs, {tried.accepted:>8} taken, slowest "
            f"{1000 * tried.slowest:7.1f} ms, {len(tried.failures)} failures"
        )
    _write(_summary(found.values()))
    return int(any(tried.failures for tried in found.values()))


def _summary(found: Iterable[Tried]) -> str:
    all_tried = list(found)
    inputs, failures = sum(tried.inputs for tried in all_tried), sum(len(tried.failures) for tried in all_tried)
    return f"{inputs} inputs, {failures} failures"


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
