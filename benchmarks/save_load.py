"""Saving and loading through DCP, by the clock: deltackpt, DCP's own files with and without zstd, torch.save.

    python -m benchmarks.save_load [--sizes 100MB 1GB] [--ranks 1 2 4] [--json out.json]

All save the same sharded AdamW state (fp32, synthetic) into folders beside each other, step after step, and load it
again into the same tensors. Seconds are those of the slowest rank, in the best of the repeats: ``key save`` and
``delta save`` of a whole synchronous save, ``blocked`` until ``async_save`` returns, ``key load`` and ``deep load`` of
the first and the last step of a chain of eight. Memory is what a rank took beyond what it had: in synchronous saves,
in the background (with the copy that ``async_save`` stages), and in loads; the bases that ours keeps are in the first
two. At last, at the smallest size, a delta step is saved through a throttle that lets so many bytes a second through,
over all ranks.

By default sizes up to 500 MB are measured three times, larger ones once. Ours is saved eight times in each, others two
or three times. On two cores 100 MB, 1 GB and 4 GB on 1, 2 and 4 ranks take some 15 minutes; 4 GB take 16 GB of memory
and 12 GB on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch.multiprocessing.spawn import spawn

from benchmarks.save_load_peers import PEERS
from benchmarks.save_load_ranks import Plan, run_rank

_TIMES = ("key save", "delta save", "blocked", "key load", "deep load")
_MEMORY = ("save memory", "async memory", "load memory")
_SMALL = 500_000_000  # bytes; larger states are measured once
_UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9}


def parse_size(text: str) -> int:
    """Bytes, from ``100MB`` and the like."""
    found = re.fullmatch(r"([0-9.]+)(KB|MB|GB)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 100MB")
    return int(float(found[1]) * _UNITS[found[2]])


def measure(plan: Plan, parent: str | None) -> dict[str, Any]:
    """Start the ranks of one configuration, and give what they found."""
    folder = Path(tempfile.mkdtemp(prefix="deltackpt-bench-", dir=parent))
    try:
        spawn(run_rank, args=(plan, folder), nprocs=plan.ranks)
        found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    finally:
        shutil.rmtree(folder)
    return found


def show(console: Console, plan: Plan, found: dict[str, Any]) -> None:
    """One configuration as two tables."""
    raw = found["raw"]
    table = Table("", *_TIMES, "key bytes", "delta bytes", *_MEMORY)
    table.title = f"{raw / 1e6:,.0f} MB on {plan.ranks} ranks of {plan.threads} threads; seconds, shares of the state"
    for name, row in found["peers"].items():
        bytes_ = [f"{row[what] / raw:.3f}" for what in ("key bytes", "delta bytes")]
        memory = [f"{row[what] / (raw / plan.ranks):.2f}" for what in _MEMORY]
        table.add_row(name, *(f"{row[what]:.3f}" for what in _TIMES), *bytes_, *memory)
    console.print(table)
    if found["throttled"]:
        names = [name for name in found["throttled"][0] if name != "rate"]
        table = Table("MB/s", *names, "ratio", title="a delta step through a throttle; seconds")
        for row in found["throttled"]:
            seconds = [row[name] for name in names]
            table.add_row(f"{row['rate'] / 1e6:g}", *(f"{s:.3f}" for s in seconds), f"{seconds[-1] / seconds[0]:.2f}")
        console.print(table)


def main(arguments: list[str] | None = None) -> None:
    """Measure all configurations and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", type=parse_size, default=[parse_size("100MB")])
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, help="by default 3, and 1 above 500 MB")
    parser.add_argument("--rates", nargs="*", type=parse_size, default=[parse_size(f"{n}MB") for n in (800, 400, 200)])
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--folder", help="where to write; by default the system's folder for temporary files")
    parser.add_argument("--json", type=Path, help="write all figures there as well")
    options = parser.parse_args(arguments)
    console, rows = Console(width=140), []
    for nbytes in options.sizes:
        for ranks in options.ranks:
            threads = max(1, (os.cpu_count() or 1) // ranks)
            repeats = options.repeats or (3 if nbytes <= _SMALL else 1)
            rates = options.rates if nbytes == min(options.sizes) else []
            plan = Plan(nbytes, ranks, threads, repeats, rates, options.peers)
            found = measure(plan, options.folder)
            show(console, plan, found)
            rows.append({"ranks": ranks, "threads": threads, "bytes": nbytes, **found})
            if options.json is not None:
                options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
