"""What chain policies cost: bytes stored against the time of a restore.

    python -m benchmarks.history [--out build/history] [--steps 256] [--interval 10]

Trains a small GPT, saves 256 steps with every chain policy at several key intervals, restores some of them, and packs
the longest chains anew. Prints a table, and writes ``history.json``, ``history.png`` and ``history.svg``. See
``docs/design/chains.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.gpt import GPTConfig
from benchmarks.text import Tokenizer, read_sources
from benchmarks.training import TrainConfig, Trainer, make_deterministic
from deltackpt.backend.memory import MemoryBackend
from deltackpt.pipeline.repack import repack_branch
from deltackpt.pipeline.save import SaveSettings
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.catalog import visible_steps
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import State, Stored, load_step, save_step, state_bytes

__all__ = ["Result", "Settings", "main", "run"]

_MEMORY = 1 << 29
_THREADS = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured.

    Attributes:
        steps: how many steps are saved.
        interval: training steps between two saves.
        warmup: training steps before the first one.
        restores: how many of the steps are restored with each policy, evenly spread.
    """

    steps: int = 256
    interval: int = 10
    warmup: int = 100
    restores: int = 32
    width: int = 64
    layers: int = 2
    vocab: int = 1024
    key_every: tuple[int, ...] = (8, 32, 128)
    policies: tuple[str, ...] = ("previous", "skip", "anchor", "auto")


@dataclass(frozen=True, slots=True)
class Result:
    """One policy.

    Attributes:
        policy, key_every: which; a repack has the depth that it was allowed in the name.
        stored: bytes of all steps.
        depth: the largest.
        restore: seconds of the quickest, the median and the slowest restore.
        save: seconds of all saves, or of the repack.
    """

    policy: str
    key_every: int
    stored: int
    depth: int
    restore: tuple[float, float, float]
    save: float


def trajectory(settings: Settings, cache: Path) -> Iterator[State]:
    """The states of the run, trained at the first use and kept in ``cache``."""
    model = GPTConfig(
        vocab=settings.vocab, context=64, width=settings.width, layers=settings.layers, heads=4, dropout=0.0
    )
    count = settings.warmup + settings.interval * settings.steps
    train = TrainConfig(count, warmup=min(50, settings.warmup), batch=4)
    what = {"model": asdict(model), "train": asdict(train), "first": settings.warmup, "every": settings.interval}
    name = hashlib.sha256(json.dumps({**what, "steps": settings.steps}, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / name
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        make_deterministic()
        text = read_sources(1 << 20)
        trainer = Trainer(model, train, Tokenizer.train(text, model.vocab).encode(text))
        for number in range(settings.steps):
            while trainer.step < settings.warmup + number * settings.interval:
                trainer.train_step()
            np.savez(folder / f"{number}.npz", allow_pickle=False, **_arrays(trainer))
        (folder / "done").touch()
    for number in range(settings.steps):
        with np.load(folder / f"{number}.npz") as arrays:
            yield {fqn: _stored(fqn, arrays[fqn]) for fqn in arrays.files}


def _arrays(trainer: Trainer) -> dict[str, NDArray[np.float32]]:
    found = {}
    for name, parameter in trainer.model.named_parameters():
        found[f"model.{name}"] = parameter.detach().numpy()
        for moment in ("exp_avg", "exp_avg_sq"):
            found[f"optim.state.{name}.{moment}"] = trainer.optimizer.state[parameter][moment].numpy()
    return found


def _stored(fqn: str, array: NDArray[np.float32]) -> Stored:
    moment = fqn.rpartition(".")[2] if fqn.startswith("optim.") else ""
    return Stored(array, artifact="optim" if moment else "model", role=moment or "weight")


def measure(policy: str, key_every: int, states: Iterator[State], settings: Settings) -> tuple[OpenStore, Result]:
    """Save all states with a policy, and restore some."""
    # Nothing but the interval is to limit a chain.
    store = create_store(MemoryBackend(), StoreOptions(policy, key_every, max_depth=1 << 20))
    cache = BaseCache(0)
    seconds = 0.0
    for number, state in enumerate(states):
        start = time.perf_counter()
        save_step(store, state, step=number, threads=_THREADS, cache=cache, base_memory=_MEMORY)
        seconds += time.perf_counter() - start
    return store, _result(store, policy, key_every, seconds, settings)


def _result(store: OpenStore, policy: str, key_every: int, seconds: float, settings: Settings) -> Result:
    steps = visible_steps(store)
    headers = [store.header(step.key, step.manifest_bytes) for step in steps]
    stored = sum(h.stored_bytes + s.manifest_bytes for h, s in zip(headers, steps, strict=True))
    chosen = sorted(set(np.linspace(0, len(steps) - 1, settings.restores).astype(int).tolist()))
    times = []
    for number in chosen:
        opened = open_store(store.backend)
        start = time.perf_counter()
        load_step(opened, number, threads=_THREADS)
        times.append(time.perf_counter() - start)
    restore = (min(times), median(times), max(times))
    return Result(policy, key_every, stored, max(h.depth for h in headers), restore, seconds)


def run(settings: Settings, cache: Path, console: Console) -> list[Result]:
    """All policies at all intervals, and what a repack makes of the longest chains."""
    results = []
    longest: OpenStore | None = None
    for key_every in settings.key_every:
        for policy in settings.policies:
            store, result = measure(policy, key_every, trajectory(settings, cache), settings)
            console.print(f"{policy} {key_every}: {result.stored:,} bytes", style="dim")
            results.append(result)
            if policy == "previous" and key_every == max(settings.key_every):
                longest = store
    if longest is not None:
        start = time.perf_counter()
        repack_branch(
            longest,
            "main",
            target="smallest",
            max_depth=8,
            key_every=None,
            settings=SaveSettings(_THREADS, _MEMORY),
        )
        seconds = time.perf_counter() - start
        for number, state in enumerate(trajectory(settings, cache)):
            if number % 16 == 0 and load_step(longest, number) != state_bytes(state):
                raise AssertionError(f"step {number} is not what it was")
        results.append(_result(longest, "repack, depth 8", max(settings.key_every), seconds, settings))
    return results


def show(results: Sequence[Result], console: Console) -> None:
    """The table."""
    table = Table("policy", "key every", "stored", "of previous", "depth", "restore min", "median", "max", "saves")
    for found in results:
        same = [r for r in results if (r.policy, r.key_every) == ("previous", found.key_every)]
        share = f"{found.stored / same[0].stored:.1%}" if same else ""
        times = [f"{1000 * seconds:.0f} ms" for seconds in found.restore]
        sizes = [f"{found.stored:,}", share, str(found.depth)]
        table.add_row(found.policy, str(found.key_every), *sizes, *times, f"{found.save:.1f} s")
    console.print(table)


def plot(results: Sequence[Result], out: Path) -> None:
    """Bytes against the median restore, with the range, as PNG and SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for policy in dict.fromkeys(r.policy for r in results):
        own = [r for r in results if r.policy == policy]
        middle = [1000 * r.restore[1] for r in own]
        spread = [[m - 1000 * r.restore[0] for m, r in zip(middle, own, strict=True)]]
        spread.append([1000 * r.restore[2] - m for m, r in zip(middle, own, strict=True)])
        axes.errorbar([r.stored / 1e6 for r in own], middle, yerr=spread, marker="o", capsize=3, label=policy)
        for result, height in zip(own, middle, strict=True):
            place = result.stored / 1e6, height
            axes.annotate(str(result.key_every), place, xytext=(4, 4), textcoords="offset points")
    axes.set(xlabel="stored, MB", ylabel="restore of one step, ms (median, range)", yscale="log")
    axes.legend()
    figure.tight_layout()
    for ending in ("png", "svg"):
        figure.savefig(out / f"history.{ending}")
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/history"))
    parser.add_argument("--steps", type=int, default=Settings().steps)
    parser.add_argument("--interval", type=int, default=Settings().interval)
    parser.add_argument("--small", action="store_true", help="sizes for a quick look")
    chosen = parser.parse_args(arguments)
    settings = Settings(steps=chosen.steps, interval=chosen.interval)
    if chosen.small:
        settings = replace(settings, warmup=2, restores=3, width=16, layers=1, vocab=300, key_every=(4, 8))
    console = Console(width=120)
    chosen.out.mkdir(parents=True, exist_ok=True)
    results = run(settings, chosen.out / "trajectory", console)
    show(results, console)
    found = {"settings": asdict(settings), "results": [asdict(result) for result in results]}
    (chosen.out / "history.json").write_text(json.dumps(found, indent=2) + "\n")
    try:
        plot(results, chosen.out)
    except ModuleNotFoundError:
        console.print("no plot: install matplotlib, which the bench extra has")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
