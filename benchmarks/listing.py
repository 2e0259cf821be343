"""How long a store of many steps takes to list, and to look for garbage in.

    python -m benchmarks.listing [--steps 10000] [--key-every 16] [--entries 300] [--folder DIR]

The store has real manifests and objects of a few bytes: a chain of steps, each with an index and two packs of its own,
and a closure that reaches back to its key step. One step in ten was pruned. It is measured in memory and as a folder on
disk. Times are seconds of CPU of this process, the least of three runs, in a fresh handle each; the wall's beside them.
The goals: 10,000 steps listed in under 1 s, ``gc --dry-run`` in under 10 s.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deltackpt.api import Store
from deltackpt.backend.base import Backend
from deltackpt.format.keys import StepKey, index_key, manifest_key, pack_key
from deltackpt.format.manifest import (
    ArtifactTotals,
    ClosureIndex,
    ClosurePack,
    Entry,
    Manifest,
    ManifestHeader,
    ShardColumns,
    encode_manifest,
)

_SHAPE = (64, 64)
_BLOCK_BYTES = 4 * 64 * 64


def _entries(count: int) -> tuple[Entry, ...]:
    return tuple(
        Entry(
            fqn=f"model.layers.{number}.weight",
            kind="tensor",
            artifact="model",
            role="weight",
            dtype=12,
            block_elements=1 << 20,
            requires_grad=True,
            pinned=False,
            shape=_SHAPE,
            shards=1,
            path=("model", f"layers.{number}.weight"),
            encoding="",
        )
        for number in range(count)
    )


def _manifest(step: int, key_every: int, entries: tuple[Entry, ...], chain: list[tuple[bytes, bytes, bytes]]) -> bytes:
    blocks, raw = len(entries), len(entries) * _BLOCK_BYTES
    header = ManifestHeader(
        key=StepKey("main", step, 1),
        created="2026-01-01T00:00:00.000+00:00",
        parent=None if step == 0 else StepKey("main", step - 1, 1),
        chain_key=("main", step - step % key_every),
        distance=step % key_every,
        depth=len(chain),
        raw_bytes=raw,
        stored_bytes=1,
        restore_bytes=1,
        metrics={"loss": 2.5 - step * 1e-5, "lr": 3e-4, "tokens": step * 500_000},
        artifacts={"model": ArtifactTotals(raw, 1, blocks)},
        writer={"deltackpt": "0", "torch": "2", "world_size": 8},
    )
    manifest = Manifest(
        header=header,
        entries=entries,
        shards=ShardColumns(
            offsets=np.zeros(2 * blocks, np.int64),
            sizes=np.tile(np.array(_SHAPE, np.int64), blocks),
            blocks=np.ones(blocks, np.int64),
        ),
        block_index=np.full(blocks, len(chain) - 1, np.int64),
        block_row=np.arange(blocks),
        indexes=tuple(ClosureIndex(name, name, 8) for name, *_ in chain),
        packs=tuple(ClosurePack(pack, 8) for _, *packs in chain for pack in packs),
    )
    return encode_manifest(manifest)


def build(backend: Backend, steps: int, key_every: int, entries: int) -> int:
    """Fill a store; how many bytes its manifests have."""
    rng = np.random.default_rng(0)
    described = _entries(entries)
    chain: list[tuple[bytes, bytes, bytes]] = []
    total = 0
    for step in range(steps):
        chain = ([] if step % key_every == 0 else chain) + [(rng.bytes(32), rng.bytes(32), rng.bytes(32))]
        index, *packs = chain[-1]
        backend.put(index_key(index), b"an index")
        for pack in packs:
            backend.put(pack_key(pack), b"one pack")
        if step % 10 != 9:
            data = _manifest(step, key_every, described, chain)
            total += len(data)
            backend.put(manifest_key(StepKey("main", step, 1)), data)
    return total


def write_out(backend: Backend, folder: Path) -> None:
    """The objects as the files that a local store has; not durable, which would take most of the time."""
    for found in backend.list():
        path = folder / found.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(backend.get(found.key))


def least(url: str, action: Callable[[Store], object]) -> tuple[float, float]:
    """Seconds of CPU and of the wall, the least of three runs each."""
    times = []
    for _ in range(3):
        store = Store.open(url)
        begun = time.process_time(), time.perf_counter()
        action(store)
        times.append((time.process_time() - begun[0], time.perf_counter() - begun[1]))
    cpu, wall = (min(column) for column in zip(*times, strict=True))
    return cpu, wall


def main() -> None:
    """Build the store, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--key-every", type=int, default=16)
    parser.add_argument("--entries", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="where to put the store on disk; by default the temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        store = Store.create("memory://benchmark")
        size = build(store.opened.backend, arguments.steps, arguments.key_every, arguments.entries)
        write_out(store.opened.backend, Path(folder))
        print(f"{arguments.steps} steps, {size / 1e6:.0f} MB of manifests")
        for name, url in (("memory", "memory://benchmark"), ("disk", folder)):
            for title, action in (("list", Store.steps), ("gc dry run", lambda s: s.gc(dry_run=True))):
                cpu, wall = least(url, action)
                print(f"{name}: {title:10} {cpu:.2f} s ({wall:.2f} s)")


if __name__ == "__main__":
    main()
