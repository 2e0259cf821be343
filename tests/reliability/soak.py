"""Many saves of a state, pruned as it goes: memory, file handles and disk stay where they should, and steps exact.

``python -m tests.reliability.soak --saves 2000 --megabytes 50`` prints figures as it goes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from deltackpt import Retention, Store
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.manifest import ManifestHeader
from deltackpt.pipeline.save import default_threads
from deltackpt.store.base_cache import BaseCache
from deltackpt.testing.arrays import State, load_step, save_step, state_bytes

__all__ = ["main"]

_PRUNE_EVERY = 20


def _drift(values: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """What a step of training leaves: most values change a little."""
    noise = rng.standard_normal(1 << 16).astype(np.float32)
    return (values * (1 + 1e-6 * np.resize(np.roll(noise, int(rng.integers(1 << 16))), values.size))).astype(np.float32)


def _digest(content: Mapping[str, bytes]) -> bytes:
    return blake3_digest(b"".join(blake3_digest(content[name]) for name in sorted(content)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Save, prune, collect; print a line now and then, and what was found at the end."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.soak", description=__doc__)
    parser.add_argument("--saves", type=int, default=2000)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--report-every", type=int, default=100, help="a multiple of 20")
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        store = Store.create(Path(name) / "store", chain="previous", key_every=16)
        cache = BaseCache(0)
        values = rng.standard_normal(options.megabytes * 250_000).astype(np.float32)
        digests: dict[int, bytes] = {}
        saved: dict[int, ManifestHeader] = {}
        samples: list[Sample] = []
        for step in range(1, options.saves + 1):
            state: State = {f"w{part}": piece for part, piece in enumerate(np.split(values, 10))}
            saved[step] = save_step(
                store.opened, state, step=step, threads=default_threads(), cache=cache, base_memory=4 * values.nbytes
            )
            digests[step] = _digest(state_bytes(state))
            values = _drift(values, rng)
            if step % _PRUNE_EVERY == 0:
                store.prune(Retention(keep_last=5, keep_every=500))
                store.gc(grace=0.0)
            if step % options.report_every == 0:
                kept = [info.step for info in store.steps()]
                _demand_exact(store, kept[-2:], digests)
                samples.append(_sample(Path(name), _predicted(kept, saved)))
                _write(f"{step:>6} saves, {len(kept):>3} steps kept, the last 2 exact, {samples[-1]}")
        kept = [info.step for info in store.steps()]
        _demand_exact(store, kept, digests)
        report = store.verify(deep=True)
        assert report.ok, report.problems
    _judge(samples)
    _write(f"{options.saves} saves; {len(kept)} steps kept, all exact; memory, file handles and disk as they should be")
    return 0


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process and the store take at one time, in bytes, and seconds of CPU so far.

    Attributes:
        predicted: what the kept steps and those that they are built on were said to take when they were saved.
    """

    memory: int
    handles: int
    disk: int
    predicted: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.seconds:.0f} s of CPU, memory {self.memory >> 20} MiB, {self.handles} file handles, "
            f"store {self.disk >> 20} MiB of {self.predicted >> 20} MiB predicted"
        )


def _sample(root: Path, predicted: int) -> Sample:
    gc.collect()
    with suppress(OSError, AttributeError):  # elsewhere than on glibc
        ctypes.CDLL(None).malloc_trim(0)  # holes that malloc keeps come and go, and would hide what is held
    process = psutil.Process()
    disk = sum(path.lstat().st_size for path in root.rglob("*") if path.is_file())
    return Sample(process.memory_info().rss, process.num_fds(), disk, predicted, time.process_time())


def _predicted(kept: Sequence[int], saved: Mapping[int, ManifestHeader]) -> int:
    """What the steps that are kept, and all back to the key steps that they start from, took when they were saved."""
    needed: set[int] = set()
    for step in kept:
        needed.update(range(step - saved[step].distance, step + 1))
    return sum(saved[step].stored_bytes for step in needed)


def _demand_exact(store: Store, steps: Sequence[int], digests: Mapping[int, bytes]) -> None:
    for step in steps:
        found = _digest(load_step(store.opened, step, threads=default_threads()))
        assert found == digests[step], f"step {step} is not what was saved"


def _judge(samples: Sequence[Sample]) -> None:
    """Demand that nothing grew: memory, file handles, and what is on disk beyond what the kept steps need."""
    half = len(samples) // 2
    first, second = samples[:half], samples[half:]
    memory = max(sample.memory for sample in first)
    assert max(sample.memory for sample in second) <= memory + max(memory // 10, 32 << 20), "memory grows"
    assert len({sample.handles for sample in samples}) == 1, "file handles stay open"
    for sample in samples:
        assert abs(sample.disk - sample.predicted) <= sample.predicted // 50 + (1 << 18), (
            "the store is not as predicted"
        )


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
