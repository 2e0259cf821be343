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
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from deltackpt.errors import DeltackptError
from tests.reliability.mutations import mutate
from tests.reliability.targets import TARGETS, Target

__all__ = ["CORPUS", "Tried", "fuzz", "main", "try_input"]

CORPUS = Path(__file__).parent / "corpus"

# What a parser may take of memory beyond what the process had, and of time, for inputs of a few KiB.
_MEMORY = 1 << 30
_SECONDS = 10.0


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


def try_input(target: Target, data: bytes) -> bool:
    """Whether the target takes the input; anything but an error of ours goes through."""
    try:
        target.run(data)
    except DeltackptError:
        return False
    return True


def fuzz(name: str, inputs: int, seed: int) -> Tried:
    """Try that many inputs on one target."""
    target = TARGETS[name]
    seeds = list(target.seeds())
    rng = random.Random(f"{name} {seed}")
    accepted, slowest = 0, 0.0
    failures: list[tuple[bytes, str]] = []
    for _ in range(inputs):
        data = target.forge(mutate(rng.choice(seeds), rng, seeds), rng)
        start = time.perf_counter()
        try:
            accepted += try_input(target, data)
        except Exception as error:
            failures.append((data, f"{type(error).__name__}: {error}"))
        took = time.perf_counter() - start
        slowest = max(slowest, took)
        if took > _SECONDS:
            failures.append((data, f"took {took:.1f} s"))
        if len(failures) >= 5:
            break
    return Tried(name, inputs, accepted, slowest, tuple(failures))


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY + (1 << 31), resource.RLIM_INFINITY))


def _run(job: tuple[str, int, int]) -> Tried:
    return fuzz(*job)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try as many inputs as asked for, shared among the targets; print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000_000, help="how many to try in all, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", help="only this one; may be repeated")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    names = options.target or list(TARGETS)
    weights = {name: TARGETS[name].weight for name in names}
    chunks = 20
    jobs = [
        (name, max(1, round(options.inputs * weights[name] / sum(weights.values()) / chunks)), options.seed + chunk)
        for name in names
        for chunk in range(chunks)
    ]
    found: dict[str, list[Tried]] = {name: [] for name in names}
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn"), initializer=_limit_memory) as executor:
        for tried in executor.map(_run, jobs):
            found[tried.target].append(tried)
    failed = 0
    for name, all_tried in found.items():
        inputs = sum(tried.inputs for tried in all_tried)
        accepted = sum(tried.accepted for tried in all_tried)
        slowest = max(tried.slowest for tried in all_tried)
        failures = [failure for tried in all_tried for failure in tried.failures]
        sys.stdout.write(
            f"{name:<14} {inputs:>9} inputs, {accepted:>8} taken, slowest {1000 * slowest:7.1f} ms, "
            f"{len(failures)} failures\n"
        )
        for number, (data, answer) in enumerate(failures[:5]):
            path = Path(f"fuzz-{name}-{number}.bin")
            path.write_bytes(data)
            sys.stdout.write(f"  {path}: {answer[:300]}\n")
        failed += len(failures)
    sys.stdout.write(f"{sum(job[1] for job in jobs)} inputs, {failed} failures\n")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
