"""What chain policies cost: bytes stored against the time of a restore.

    python -m benchmarks.history [--out build/history] [--cache DIR] [--steps 256] [--interval 10 1]

Trains a small GPT, saves 256 of its states with every chain policy at several key intervals, packs the longest chains
anew, and reads every step back and compares it. Once for each interval between saves; for all but the first interval
with the longest chains alone. Prints a table, and writes ``history.json``, ``history.png`` and ``history.svg``. See
``docs/design/chains.md``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import goals
from benchmarks.history_plot import plot
from benchmarks.history_states import Course, read_states
from deltackpt.api import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.pipeline.repack import repack_branch
from deltackpt.pipeline.save import SaveSettings
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.catalog import visible_steps
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import State, load_step, save_step, state_bytes

__all__ = ["Result", "Settings", "main", "run"]

_MEMORY = 1 << 27
_THREADS = 2
_REPACK_DEPTH = 8
REPACKED = f"repack, depth {_REPACK_DEPTH}"


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured.

    Attributes:
        course: the run.
        intervals: training steps between two saves. The first is measured in full, of the others the longest chains.
        restores: how many of the steps are restored with each policy to measure the time: some evenly spread, and the
            deepest one.
    """

    course: Course = field(default_factory=Course)
    intervals: tuple[int, ...] = (10, 1)
    restores: int = 16
    key_every: tuple[int, ...] = (8, 32, 128)
    policies: tuple[str, ...] = ("previous", "anchor", "skip", "auto")


@dataclass(frozen=True, slots=True)
class Result:
    """One policy.

    Attributes:
        interval: training steps between two saves.
        policy, key_every: which; a repack has the depth that it was allowed in the name.
        stored: bytes of all steps.
        depth: the largest.
        restore: seconds of the quickest, the median and the slowest restore.
        save: seconds of all saves, or of the repack.
        walk: seconds of loading all steps, one after another.
    """

    interval: int
    policy: str
    key_every: int
    stored: int
    depth: int
    restore: tuple[float, float, float]
    save: float
    walk: float


def run(settings: Settings, cache: Path, console: Console) -> list[Result]:
    """All policies at all key intervals, and what a repack makes of the longest chains."""
    return [result for interval in settings.intervals for result in _run_interval(interval, settings, cache, console)]


def _run_interval(interval: int, settings: Settings, cache: Path, console: Console) -> Iterator[Result]:
    states = list(read_states(replace(settings.course, interval=interval), cache))
    longest = max(settings.key_every)
    for key_every in settings.key_every if interval == settings.intervals[0] else (longest,):
        for policy in settings.policies:
            store, seconds = _save_all(policy, key_every, states)
            result = _measure(store, interval, policy, key_every, seconds, states, settings.restores)
            console.print(f"{policy} {key_every}: {result.stored:,} bytes", style="dim")
            yield result
    store, _ = _save_all("previous", longest, states)
    yield _measure(store, interval, REPACKED, longest, _repack(store), states, settings.restores)


def _save_all(policy: str, key_every: int, states: Sequence[State]) -> tuple[OpenStore, float]:
    """A store in memory with all states, and the seconds that the saves took."""
    # Nothing but the interval is to limit a chain.
    store = create_store(MemoryBackend(), StoreOptions(policy, key_every, max_depth=1 << 20))
    cache = BaseCache(0)
    start = time.perf_counter()
    for number, state in enumerate(states):
        save_step(store, state, step=number, threads=_THREADS, cache=cache, base_memory=_MEMORY)
    return store, time.perf_counter() - start


def _repack(store: OpenStore) -> float:
    """Write the history anew; the seconds that took."""
    settings = SaveSettings(_THREADS, _MEMORY)
    start = time.perf_counter()
    repack_branch(store, "main", target="smallest", max_depth=_REPACK_DEPTH, key_every=None, settings=settings)
    return time.perf_counter() - start


def _measure(
    store: OpenStore,
    interval: int,
    policy: str,
    key_every: int,
    seconds: float,
    states: Sequence[State],
    restores: int,
) -> Result:
    steps = visible_steps(store)
    headers = [store.header(step.key, step.manifest_bytes) for step in steps]
    depths = [header.depth for header in headers]
    spread = np.linspace(0, len(steps) - 1, max(1, restores - 1)).astype(int).tolist()
    times = [_restore(store, number) for number in sorted({*spread, depths.index(max(depths))})]
    return Result(
        interval=interval,
        policy=policy,
        key_every=key_every,
        stored=sum(h.stored_bytes + s.manifest_bytes for h, s in zip(headers, steps, strict=True)),
        depth=max(depths),
        restore=(min(times), median(times), max(times)),
        save=seconds,
        walk=_walk(store, states),
    )


def _restore(store: OpenStore, number: int) -> float:
    """Seconds of a restore of one step, by someone who has just opened the store."""
    opened = open_store(store.backend)
    start = time.perf_counter()
    load_step(opened, number, threads=_THREADS)
    return time.perf_counter() - start


def _walk(store: OpenStore, states: Sequence[State]) -> float:
    """Seconds of loading all steps in order; each is compared with what was saved.

    Raises:
        AssertionError: a step is not what was saved.
    """
    seconds, start = 0.0, time.perf_counter()
    for number, (step, loaded) in enumerate(Store(open_store(store.backend)).iter_steps(memory=_MEMORY)):
        seconds += time.perf_counter() - start
        found = {name: value.numpy().tobytes() for name, value in loaded.items() if isinstance(value, torch.Tensor)}
        if step.key.step != number or found != state_bytes(states[number]):
            raise AssertionError(f"step {number} is not what was saved")
        start = time.perf_counter()
    return seconds


def show(results: Sequence[Result], console: Console) -> None:
    """The table, and what the goals come to."""
    titles = ("between", "policy", "key every", "stored", "of previous", "depth", "min", "median", "max", "saves")
    table = Table(*titles, "walk", caption="min, median, max: of restoring one step; walk: of loading all, in order")
    for found in results:
        times = [f"{1000 * seconds:.0f} ms" for seconds in found.restore]
        sizes = [f"{found.stored:,}", f"{_of_previous(found, results):.1%}", str(found.depth)]
        name = [str(found.interval), found.policy, str(found.key_every)]
        table.add_row(*name, *sizes, *times, f"{found.save:.1f} s", f"{found.walk:.1f} s")
    console.print(table)
    for reached, words in goals.history({"results": [asdict(result) for result in results]}):
        console.print(f"{'reached' if reached else 'not reached'}: {words}")


def _of_previous(found: Result, results: Sequence[Result]) -> float:
    same = (found.interval, "previous", found.key_every)
    return found.stored / next(r.stored for r in results if (r.interval, r.policy, r.key_every) == same)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/history"))
    parser.add_argument("--cache", type=Path, help="for the states of the runs; by default a folder in --out")
    parser.add_argument("--steps", type=int, default=Course().steps)
    parser.add_argument("--interval", type=int, nargs="+", default=Settings().intervals, help="between saves")
    parser.add_argument("--small", action="store_true", help="sizes for a quick look")
    chosen = parser.parse_args(arguments)
    settings = Settings(Course(steps=chosen.steps), tuple(chosen.interval))
    if chosen.small:
        course = replace(settings.course, warmup=2, width=16, vocab=300)
        settings = replace(settings, course=course, restores=3, key_every=(4, 8))
    console = Console(width=120)
    chosen.out.mkdir(parents=True, exist_ok=True)
    results = run(settings, chosen.cache or chosen.out / "trajectory", console)
    show(results, console)
    rows = [asdict(result) for result in results]
    found = {"settings": asdict(settings), "results": rows}
    (chosen.out / "history.json").write_text(json.dumps(found, indent=2) + "\n")
    try:
        plot(rows, chosen.out)
    except ModuleNotFoundError:
        console.print("no plot: install matplotlib, which the bench extra has")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
