"""Storage cost across step intervals: what a checkpoint takes when it is 1 to 500 training steps after the last.

    python -m benchmarks.intervals [--quick | --full] [--out build/intervals] [--cache DIR] [--train]

Trains small GPTs in several regimes, precisions and with several optimizers, imports their checkpoints into a store at
every interval, and gives the same files to peers. Every checkpoint is read back and compared. Prints tables; writes
``intervals.json``, and plots as PNG and SVG. Runs are kept in the cache (``OUT/runs``), and beside each the bytes that
programs took for it, by their versions: what is there is neither trained nor measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.checkpoint_run import write_checkpoints
from benchmarks.interval_cases import FULL, QUICK, TINY, Case
from benchmarks.interval_costs import KEY_EVERY, Cost, measure_case

__all__ = ["main"]


def show(costs: Sequence[Cost], console: Console) -> None:
    """A table for each run: bytes a parameter at each interval, with how many times smaller than ``torch.save``."""
    for run in dict.fromkeys(cost.run for cost in costs):
        own = [cost for cost in costs if cost.run == run]
        intervals = list(dict.fromkeys(cost.interval for cost in own))
        table = Table("", *(f"every {interval}" for interval in intervals), title=f"{run.name}: bytes a parameter")
        for program in dict.fromkeys(cost.program for cost in own):
            row = {cost.interval: cost for cost in own if cost.program == program}
            table.add_row(program, *(f"{row[i].per_parameter:.2f} ({row[i].ratio:.2f}x)" for i in intervals))
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/intervals"))
    parser.add_argument("--cache", type=Path, help="where runs are kept (default: OUT/runs)")
    parser.add_argument("--train", action="store_true", help="only train what is not in the cache")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", dest="cases", const=QUICK, help="minutes (the default)")
    size.add_argument("--full", action="store_const", dest="cases", const=FULL, help="an hour of training at first")
    size.add_argument("--tiny", action="store_const", dest="cases", const=TINY, help="seconds, to try it out")
    chosen = parser.parse_args(arguments)
    cases: Sequence[Case] = chosen.cases or QUICK
    console = Console(width=160)
    cache = chosen.cache or chosen.out / "runs"
    costs: list[Cost] = []
    for number, case in enumerate(cases):
        console.print(f"{number + 1}/{len(cases)} {case.run.name}", style="dim")
        if chosen.train:
            write_checkpoints(case.run, case.offsets, cache)
        else:
            costs += measure_case(case, cache)
    if chosen.train:
        return 0
    show(costs, console)
    chosen.out.mkdir(parents=True, exist_ok=True)
    document = {"key_every": KEY_EVERY, "costs": [cost.document() for cost in costs]}
    (chosen.out / "intervals.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
