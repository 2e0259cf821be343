"""Storage cost across step intervals: what a checkpoint takes when it is 1 to 500 training steps after the last.

    python -m benchmarks.intervals [--quick | --full] [--out build/intervals]

Trains small GPTs in several regimes, precisions and with several optimizers (kept in ``OUT/runs``), imports their
checkpoints into a store at every interval, and gives the same files to peers. Every checkpoint is read back and
compared. Prints tables; writes ``intervals.json``, and plots of bits a parameter and of bytes by role as PNG and SVG.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.checkpoint_run import CheckpointRun, write_checkpoints
from benchmarks.interval_peers import PEERS, available
from benchmarks.regimes import REGIMES
from deltackpt.api import Store
from deltackpt.report import collect

__all__ = ["FULL", "QUICK", "TINY", "Cost", "Settings", "main", "run"]

OURS = "deltackpt"

# A key step in so many; the shares of both are in what a step takes on average.
KEY_EVERY = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured.

    Attributes:
        runs: the training runs.
        intervals: training steps between checkpoints.
        deltas: how many delta steps each interval is measured on.
    """

    runs: tuple[CheckpointRun, ...]
    intervals: tuple[int, ...]
    deltas: int

    @property
    def offsets(self) -> list[int]:
        """The steps after the base that are kept."""
        return sorted({interval * number for interval in self.intervals for number in range(self.deltas + 1)})


def _runs(sizes: Sequence[str], base: int) -> tuple[CheckpointRun, ...]:
    """All regimes with AdamW in fp32 and with a master; of one regime all optimizers and precisions."""
    chosen: dict[CheckpointRun, None] = {}
    for size in sizes:
        for regime in REGIMES:
            for precision in ("fp32", "bf16+master"):
                chosen[CheckpointRun(size, "adamw", precision, regime, base=base)] = None
        for optimizer in ("sgd", "lion"):
            chosen[CheckpointRun(size, optimizer, "fp32", "late", base=base)] = None
        chosen[CheckpointRun(size, "adamw", "bf16", "late", base=base)] = None
    return tuple(chosen)


FULL = Settings(
    (*_runs(["1M"], 1000), CheckpointRun("7M", base=1000), CheckpointRun("30M", base=300)),
    (1, 2, 5, 10, 20, 50, 100, 200, 500),
    2,
)
QUICK = Settings(
    tuple(
        CheckpointRun("1M", optimizer, precision, regime, base=50, batch=2, text_bytes=1 << 19)
        for optimizer, precision, regime in (
            ("adamw", "fp32", "early"),
            ("adamw", "fp32", "late"),
            ("adamw", "bf16+master", "rl"),
            ("adamw", "fp32", "lora"),
        )
    ),
    (1, 10, 50),
    1,
)
TINY = Settings(
    tuple(
        CheckpointRun("tiny", optimizer, precision, regime, base=4, batch=2, text_bytes=1 << 17)
        for optimizer, precision, regime in (("adamw", "fp32", "early"), ("lion", "bf16+master", "lora"))
    ),
    (1, 2),
    1,
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one program takes for the checkpoints of a run at one interval.

    Attributes:
        run: its name.
        program: ours or a peer.
        parameters: of the model.
        key, delta: bytes of the first checkpoint, and of one after it, the median, least and most.
        by_role: of the bytes of a delta step, ours only.
    """

    run: str
    program: str
    interval: int
    parameters: int
    raw: int
    key: int
    delta: tuple[int, int, int]
    by_role: Mapping[str, int]

    @property
    def step(self) -> float:
        """Bytes of a checkpoint on average, with a key step in 16; those that know no deltas have only such."""
        return (self.key + (KEY_EVERY - 1) * self.delta[0]) / KEY_EVERY

    @property
    def per_thousand(self) -> float:
        """Bytes for 1,000 training steps."""
        return 1000 / self.interval * self.step

    @property
    def bits(self) -> float:
        """Bits of a checkpoint for each parameter of the model."""
        return 8 * self.step / self.parameters

    @property
    def ratio(self) -> float:
        """How many times smaller than ``torch.save``."""
        return self.raw / self.step

    def document(self) -> dict[str, object]:
        """All figures."""
        derived = {name: getattr(self, name) for name in ("step", "per_thousand", "bits", "ratio")}
        return {**asdict(self), **derived}


def run(settings: Settings, cache: Path, console: Console) -> list[Cost]:
    """Measure all runs at all intervals; of each, ours and the peers one after another."""
    costs = []
    for number, one in enumerate(settings.runs):
        console.print(f"{number + 1}/{len(settings.runs)} {one.name}", style="dim")
        folders = write_checkpoints(one, settings.offsets, cache)
        for interval in settings.intervals:
            chain = [folders[interval * number] for number in range(settings.deltas + 1)]
            parameters = _parameters(chain[0])
            costs.append(_ours(one, interval, chain, parameters))
            for name in available():
                keeper = PEERS[name]()
                costs.append(_cost(one, name, interval, parameters, chain, [keeper.take(folder) for folder in chain]))
    return costs


def _parameters(folder: Path) -> int:
    return sum(value.numel() for value in torch.load(folder / "model.pt", weights_only=True).values())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _cost(
    one: CheckpointRun,
    program: str,
    interval: int,
    parameters: int,
    chain: Sequence[Path],
    taken: Sequence[int],
    by_role: Mapping[str, int] | None = None,
) -> Cost:
    deltas = taken[1:]
    spread = int(median(deltas)), min(deltas), max(deltas)
    return Cost(one.name, program, interval, parameters, _size(chain[-1]), taken[0], spread, by_role or {})


def _ours(one: CheckpointRun, interval: int, chain: Sequence[Path], parameters: int) -> Cost:
    with tempfile.TemporaryDirectory(prefix="deltackpt-intervals-") as folder:
        store = Store.create(Path(folder, "store"), chain="previous", key_every=KEY_EVERY)
        report = store.import_checkpoints(chain)
        if report.failed:
            raise report.failed[0].error or RuntimeError
        for info, source in zip(store.steps(), chain, strict=True):
            out = Path(folder, str(info.step))
            store.step(info.step).restore(out)
            if _digests(out) != _digests(source):
                raise AssertionError(f"{source} came back changed")
        steps = collect(store, created="", version="", pairs=0).steps
    taken = [step.stored_bytes for step in steps]
    return _cost(one, OURS, interval, parameters, chain, taken, steps[-1].stored_by_role)


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def show(costs: Sequence[Cost], console: Console) -> None:
    """A table for each run: bits a parameter at each interval, with how many times smaller than ``torch.save``."""
    for name in dict.fromkeys(cost.run for cost in costs):
        own = [cost for cost in costs if cost.run == name]
        intervals = list(dict.fromkeys(cost.interval for cost in own))
        table = Table("", *(f"every {interval}" for interval in intervals), title=f"{name}: bits a parameter")
        for program in dict.fromkeys(cost.program for cost in own):
            row = {cost.interval: cost for cost in own if cost.program == program}
            table.add_row(program, *(f"{row[i].bits:.2f} ({row[i].ratio:.2f}x)" for i in intervals))
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/intervals"))
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", dest="settings", const=QUICK, help="minutes (the default)")
    size.add_argument("--full", action="store_const", dest="settings", const=FULL, help="hours")
    size.add_argument("--tiny", action="store_const", dest="settings", const=TINY, help="seconds, to try it out")
    chosen = parser.parse_args(arguments)
    settings: Settings = chosen.settings or QUICK
    console = Console(width=160)
    chosen.out.mkdir(parents=True, exist_ok=True)
    costs = run(settings, chosen.out / "runs", console)
    show(costs, console)
    document = {"key_every": KEY_EVERY, "settings": asdict(settings), "costs": [cost.document() for cost in costs]}
    (chosen.out / "intervals.json").write_text(json.dumps(document, indent=1) + "\n")
    try:
        from benchmarks.interval_plots import plot_bits, plot_roles

        plot_bits(costs, chosen.out)
        plot_roles([cost for cost in costs if cost.program == OURS], chosen.out)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        console.print("no plots: install matplotlib, which the bench extra has")
    return 0


if __name__ == "__main__":
    sys.exit(main())
