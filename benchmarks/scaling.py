"""How time and memory grow with the size of a state and the number of steps, and what that means for large runs.

    python -m benchmarks.scaling [--quick | --full] [--json scaling.json] [--doc docs/scaling.md]

Every size is measured in a process of its own, on a synthetic AdamW state whose elements all change a little, saved
into a folder and compared when it is loaded. Seconds are of the processor. Histories have real manifests and objects of
a few bytes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pickle
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from torch.distributed.checkpoint.metadata import MetadataIndex

from benchmarks import listing
from benchmarks.scaling_model import MODELS, Constants, fit_power, scale_to
from deltackpt.api import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.dcp.results import write_results
from deltackpt.pipeline.save import default_threads
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.opened import create_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import Stored, commit, load_step, save_step, split, state_bytes, write_step

__all__ = ["FULL", "QUICK", "TINY", "Settings", "SizeRow", "StepsRow", "main", "measure"]

# Elements of the shards that metadata is measured on: few, as of a tensor over many ranks.
_SHARD = 512
# By which the weights of the key step and of the delta step are moved.
_DRIFTS = (0.0, 1e-4)
_RANKS = (8, 64, 512, 4096, 16384)


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured: states of so many bytes, and stores of so many steps.

    Attributes:
        entries: tensors of a step of the latter.
        isolated: whether each state is measured in processes of its own, without which figures of memory are none.
    """

    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    entries: int
    isolated: bool = True


FULL = Settings((10**7, 3 * 10**7, 10**8, 3 * 10**8, 10**9, 4 * 10**9), (10, 100, 1000, 10_000), 300)
QUICK = Settings((10**7, 3 * 10**7, 10**8), (10, 100, 1000), 300)
TINY = Settings((10**5, 3 * 10**5), (4, 40), 5, isolated=False)


@dataclass(frozen=True, slots=True)
class SizeRow:
    """One size of state. Seconds of CPU, and bytes of memory beyond the state itself.

    Attributes:
        raw: bytes of the state.
        key_bytes, delta_bytes: what a key step and a delta step added.
    """

    raw: int
    key_bytes: int
    delta_bytes: int
    save_key: float
    save_delta: float
    load: float
    save_memory: int
    load_memory: int


@dataclass(frozen=True, slots=True)
class StepsRow:
    """One number of steps: seconds of CPU of listing them and of looking for garbage, and their manifests' bytes."""

    steps: int
    manifest_bytes: int
    log: float
    gc: float


def _state(raw: int, drift: float) -> dict[str, Stored]:
    """Weights and moments of about ``raw`` bytes; the moments of two steps are unrelated."""
    random = np.random.default_rng(0)
    elements = raw // 12
    rows = max(1, elements // 256)
    weight = random.standard_normal((rows, 256), dtype=np.float32)
    if drift:
        random = np.random.default_rng(1)
        weight += drift * random.standard_normal(weight.shape, dtype=np.float32)

    def moment(scale: float) -> NDArray[np.float32]:
        return scale * random.standard_normal(weight.shape, dtype=np.float32) ** 2

    return {
        "model.w": Stored(weight),
        "optim.state.w.exp_avg": Stored(moment(1e-3), artifact="optim", role="exp_avg"),
        "optim.state.w.exp_avg_sq": Stored(moment(1e-6), artifact="optim", role="exp_avg_sq"),
    }


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _save(raw: int, folder: str) -> dict[str, Any]:
    """Save a key step and a delta step."""
    threads, cache = default_threads(), BaseCache(0)
    store = Store.create(folder, chain="previous").opened
    seconds, stored, before, size = [], [], 0, 0
    for step, drift in enumerate(_DRIFTS):
        state = _state(raw, drift)
        size = sum(value.array.nbytes for value in state.values())
        # Before the first step this process has the state and little else; later the base blocks are there, too.
        before = before or psutil.Process().memory_info().rss
        begun = time.process_time()
        header = save_step(store, state, step=step, threads=threads, cache=cache, base_memory=2 * raw)
        seconds.append(time.process_time() - begun)
        stored.append(header.stored_bytes)
        del state
    return {
        "raw": size,
        "key_bytes": stored[0],
        "delta_bytes": stored[1],
        "save_key": seconds[0],
        "save_delta": seconds[1],
        "save_memory": _peak() - before,
    }


def _load(raw: int, folder: str) -> dict[str, Any]:
    """Load the delta step, and compare it."""
    store = Store.open(folder).opened
    before = psutil.Process().memory_info().rss
    begun = time.process_time()
    loaded = load_step(store, 1, threads=default_threads())
    found = {"load": time.process_time() - begun, "load_memory": _peak() - before}
    if loaded != state_bytes(_state(raw, _DRIFTS[1])):
        raise AssertionError(f"a state of {raw} bytes came back changed")
    return found


def _measure_size(raw: int, isolated: bool) -> SizeRow:
    """Each half in a process that did nothing else: the most memory that a process had never falls."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="deltackpt-scaling-") as folder:
        place = str(Path(folder, "store"))
        if not isolated:
            return SizeRow(**_save(raw, place), **_load(raw, place))
        with context.Pool(1, maxtasksperchild=1) as pool:
            return SizeRow(**pool.apply(_save, (raw, place)), **pool.apply(_load, (raw, place)))


def _measure_steps(steps: int, entries: int) -> StepsRow:
    url = f"memory://scaling-{steps}-{entries}"
    store = Store.create(url)
    size = listing.build(store.opened.backend, steps, 16, entries)
    (listed, _), (collected, _) = (
        listing.least(url, action) for action in (lambda s: s.steps(), lambda s: s.gc(dry_run=True))
    )
    return StepsRow(steps, size, listed, collected)


def _metadata(writers: int, tensors: int, depth: int) -> tuple[int, int, float]:
    """Bytes of the manifest and of one index, and seconds of the commit, of the last step of a chain."""
    store = create_store(MemoryBackend("scaling"), StoreOptions(chain="previous", key_every=1 << 20, max_depth=1 << 20))
    random = np.random.default_rng(0)
    shape = (tensors, writers, _SHARD)
    values = random.integers(0, 1 << 14, shape).astype(np.uint16)
    manifest = index = 0
    seconds = 0.0
    for step in range(depth):
        values = values + (random.random(shape) < 0.02).astype(np.uint16)
        state = {
            f"model.layers.{number}.weight": Stored(array, "bfloat16", split(array.shape, writers))
            for number, array in enumerate(values)
        }
        receipts = write_step(store, state, step=step, writers=writers)
        begun = time.process_time()
        header = commit(store, state, receipts, step=step)
        seconds = time.process_time() - begun
        if header.depth != step + 1:
            raise AssertionError("the steps are no chain")
        found = {info.key: info.size for info in store.backend.list("manifests")}
        manifest, index = found[max(found)], receipts[0].index_bytes
    return manifest, index, seconds


def measure_constants(rows: Sequence[SizeRow]) -> Constants:
    """The constants of large runs, from differences of small real stores."""
    (few, few_index, _), (many, many_index, seconds) = _metadata(4, 64, 2), _metadata(4, 512, 2)
    (short, _, _), (deep, _, _) = _metadata(16, 16, 2), _metadata(16, 16, 8)
    store = create_store(MemoryBackend("scaling"), StoreOptions())
    state = {"w": np.zeros(4, np.float32)}
    (receipt,) = write_step(store, state, step=0)

    def gathered(items: int) -> int:
        names = [
            (MetadataIndex(f"model.layers.{n}.attention.wq.weight", [0, n * 1024], n), 4096, None) for n in range(items)
        ]
        return len(pickle.dumps(write_results(names, receipt)))

    last = rows[-1]
    item = (gathered(1001) - gathered(1)) / 1000
    return Constants(
        manifest_block=(many - few) / (4 * 448),
        manifest_writer=(deep - short) / (16 * 6),
        index_block=(many_index - few_index) / 448,
        gather_item=item,
        gather_rank=gathered(1) - item,
        stored=last.delta_bytes / last.raw,
        encode=last.raw / last.save_delta,
        decode=2 * last.raw / last.load,  # a delta and what it builds on
        commit_block=seconds / (4 * 512),
    )


def measure(settings: Settings) -> dict[str, Any]:
    """All figures, with their fitted exponents."""
    sizes = [_measure_size(raw, settings.isolated) for raw in settings.sizes]
    steps = [_measure_steps(count, settings.entries) for count in settings.steps]
    constants = measure_constants(sizes)
    raw = [row.raw for row in sizes]
    fits = {
        name: fit_power(raw, [max(1e-6, getattr(row, name)) for row in sizes])
        for name in ("save_key", "save_delta", "load")
    }
    counts = [row.steps for row in steps]
    fits.update({name: fit_power(counts, [max(1e-6, getattr(row, name)) for row in steps]) for name in ("log", "gc")})
    return {
        "sizes": [asdict(row) for row in sizes],
        "steps": [asdict(row) for row in steps],
        "fits": {name: {"coefficient": c, "exponent": e} for name, (c, e) in fits.items()},
        "constants": asdict(constants),
        "scaled": [asdict(scale_to(model, ranks, constants)) for model in MODELS for ranks in _RANKS],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the page, and write files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", dest="settings", const=QUICK, help="up to 100 MB, 1,000 steps")
    size.add_argument("--full", action="store_const", dest="settings", const=FULL, help="up to 4 GB, 10,000 steps")
    size.add_argument("--tiny", action="store_const", dest="settings", const=TINY, help="seconds, to try it out")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--doc", type=Path, help="a file for the page")
    chosen = parser.parse_args(arguments)
    from benchmarks.scaling_page import render

    found = measure(chosen.settings or QUICK)
    page = render(found)
    print(page)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    if chosen.doc is not None:
        chosen.doc.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
