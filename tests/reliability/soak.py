"""Many saves of a state, pruned as it goes: memory, file handles and disk stay where they should, and steps exact.

``python -m tests.reliability.soak --saves 2000 --megabytes 50`` prints figures as it goes.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from deltackpt import Retention, Store
from deltackpt.format.hashing import blake3_digest
from deltackpt.pipeline.save import default_threads
from deltackpt.store.base_cache import BaseCache
from deltackpt.testing.arrays import State, load_step, save_step, state_bytes

__all__ = ["main"]


def _drift(values: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """What a step of training leaves: most values change a little."""
    noise = rng.standard_normal(1 << 16).astype(np.float32)
    return (values * (1 + 1e-6 * np.resize(np.roll(noise, int(rng.integers(1 << 16))), values.size))).astype(np.float32)


def _digest(state: State) -> bytes:
    content = state_bytes(state)
    return blake3_digest(b"".join(blake3_digest(content[name]) for name in sorted(content)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Save, prune, collect; print a line now and then, and what was found at the end."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.soak", description=__doc__)
    parser.add_argument("--saves", type=int, default=2000)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--report-every", type=int, default=100)
    options = parser.parse_args(arguments)
    process = psutil.Process()
    rng = np.random.default_rng(0)
    retention = Retention(keep_last=5, keep_every=500)
    with tempfile.TemporaryDirectory() as name:
        store = Store.create(Path(name) / "store", key_every=16)
        cache = BaseCache(0)
        values = rng.standard_normal(options.megabytes * 250_000).astype(np.float32)
        digests: dict[int, bytes] = {}
        memory, handles, disk = [], [], []
        start = time.monotonic()
        for step in range(1, options.saves + 1):
            state: State = {f"w{part}": piece for part, piece in enumerate(np.split(values, 10))}
            save_step(
                store.opened, state, step=step, threads=default_threads(), cache=cache, base_memory=4 * values.nbytes
            )
            digests[step] = _digest(state)
            values = _drift(values, rng)
            if step % 20 == 0:
                store.prune(retention)
                store.gc(grace=0.0)
            if step % options.report_every == 0:
                gc.collect()
                memory.append(process.memory_info().rss >> 20)
                handles.append(process.num_fds())
                disk.append(_size(Path(name)) >> 20)
                sys.stdout.write(
                    f"{step:>6} saves, {time.monotonic() - start:7.1f} s, {len(store.steps()):>4} steps, "
                    f"memory {memory[-1]} MiB, {handles[-1]} file handles, store {disk[-1]} MiB\n"
                )
                sys.stdout.flush()
        kept = [info.step for info in store.steps()]
        for step in kept:
            content = load_step(store.opened, step, threads=default_threads())
            found = blake3_digest(b"".join(blake3_digest(content[key]) for key in sorted(content)))
            assert found == digests[step], f"step {step} is not what was saved"
        report = store.verify(deep=True)
        assert report.ok, report.problems
    half = len(memory) // 2
    sys.stdout.write(
        f"{options.saves} saves; {len(kept)} steps kept, all exact; memory {max(memory[:half])} MiB at most in the "
        f"first half, {max(memory[half:])} MiB in the second; file handles {min(handles)} to {max(handles)}\n"
    )
    return 0


def _size(root: Path) -> int:
    return sum(os.lstat(path).st_size for path in root.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
