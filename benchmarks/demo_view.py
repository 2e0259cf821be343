"""What the demo shows: a live progress bar and tables, readable at 100 columns and without a terminal."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.demo_run import RunLog
from deltackpt.text import format_size

__all__ = ["WORDS", "loss_table", "machine", "make_console", "running", "shares", "step_table", "summary", "totals"]

_WIDTH = 100
_PLAIN_LINES = 10

# The artifacts of a state (benchmarks.training) that have tensors.
_PARTS = {"model": "model: fp32 weights", "optim": "optim: fp32 moments", "train": "train: bf16 weights"}

_COUNT, _WHOLE = "saved steps", "everything"

WORDS = (
    "The bf16 copy follows from the weights and costs nothing, and the tied embedding is stored once. From one step to "
    "the next the second moments and most weights follow from the optimizer's own arithmetic; only the first moments "
    "are news. Over several steps that no longer holds: the mantissas of fp32 are close to noise, and an exact full "
    "AdamW state shrinks by less and less as intervals grow."
)


def make_console() -> Console:
    """A console at most 100 columns wide; exactly that where there is no terminal to ask."""
    console = Console(highlight=False)
    return Console(highlight=False, width=min(_WIDTH, console.width) if console.is_terminal else _WIDTH)


def machine() -> str:
    """Processor, cores, Python and torch of this machine."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}"


@dataclass(slots=True)
class RunProgress:
    """The state of a run on the screen: a bar on a terminal, a line now and then elsewhere."""

    console: Console
    steps: int
    bar: Progress | None
    task: TaskID

    def __call__(self, log: RunLog, step: int) -> None:
        """Show that ``step`` is done."""
        raw = sum(saved.info.raw_bytes for saved in log.saved)
        stored = sum(saved.info.stored_bytes for saved in log.saved)
        saves = f"{format_size(raw)} stored in {format_size(stored)}" if log.saved else ""
        if self.bar is not None:
            self.bar.update(self.task, completed=step, loss=f"{log.losses[step]:.4f}", saves=saves)
        elif step % max(1, self.steps // _PLAIN_LINES) == 0 or step == self.steps:
            self.console.print(f"  step {step:>4} of {self.steps}  loss {log.losses[step]:.4f}  {saves}")


@contextmanager
def running(console: Console, steps: int) -> Iterator[RunProgress]:
    """Show the progress of a run of ``steps`` training steps."""
    if not console.is_terminal:
        yield RunProgress(console, steps, None, TaskID(0))
        return
    columns = (
        TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
        BarColumn(bar_width=24),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[saves]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield RunProgress(console, steps, bar, bar.add_task("train", total=steps, loss="-", saves=""))


def step_table(log: RunLog) -> Table:
    """One row for each saved step."""
    table = Table(title="Saved steps", title_justify="left", box=None, pad_edge=False)
    for name in ("step", "after", "loss", "raw", "stored", "ratio", "kind", "depth", "save s", "blocked s"):
        table.add_column(name, justify="left" if name == "kind" else "right", no_wrap=True)
    for saved in log.saved:
        info = saved.info
        table.add_row(
            str(info.step),
            f"+{saved.interval}",
            f"{log.losses[info.step]:.4f}",
            format_size(info.raw_bytes),
            format_size(info.stored_bytes),
            f"{info.raw_bytes / info.stored_bytes:.2f}x",
            "key" if info.is_key else "delta",
            str(info.depth),
            f"{saved.seconds:.2f}",
            f"{saved.blocked:.2f}",
        )
    return table


def loss_table(first: int, original: list[float], columns: dict[str, list[float]]) -> Table:
    """Losses from step ``first`` on, with all their digits: of the run, and of each continuation in ``columns``."""
    table = Table(box=None, pad_edge=False)
    table.add_column("step", justify="right")
    table.add_column("first run")
    for name in columns:
        table.add_column(name)
    for number, loss in enumerate(original):
        cells = [f"{losses[number]!r} {'=' if losses[number] == loss else '≠'}" for losses in columns.values()]
        table.add_row(str(first + number), repr(loss), *cells)
    return table


def summary(log: RunLog) -> Table:
    """Stored share of the raw bytes, by part of the state and by what the step was stored against."""
    columns = shares(log)
    table = Table(box=None, pad_edge=False)
    table.add_column("stored, of raw")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in next(iter(columns.values())):
        cells = [str(column[row]) if row == _COUNT else f"{column[row]:.1%}" for column in columns.values()]
        table.add_row(row, *cells, style="bold" if row == _WHOLE else None)
    return table


def shares(log: RunLog) -> dict[str, dict[str, float]]:
    """By what steps were stored against: how many they are, and what share of the raw bytes each part takes."""
    keys = [saved for saved in log.saved if saved.info.is_key]
    deltas = [saved for saved in log.saved if not saved.info.is_key]
    groups = {"key steps": keys}
    for interval in sorted({saved.interval for saved in deltas}):
        name = f"deltas over {interval} step{'s' if interval > 1 else ''}"
        groups[name] = [saved for saved in deltas if saved.interval == interval]
    groups["all"] = log.saved
    found: dict[str, dict[str, float]] = {}
    for name, group in groups.items():
        found[name] = {_COUNT: len(group)}
        for artifact, part in _PARTS.items():
            found[name][part] = _share(saved.info.artifacts[artifact] for saved in group)
        found[name][_WHOLE] = _share((saved.info.raw_bytes, saved.info.stored_bytes) for saved in group)
    return found


def _share(sizes: Iterable[tuple[int, int]]) -> float:
    raw, stored = (sum(column) for column in zip(*sizes, strict=True))
    return float(stored / raw)


def totals(log: RunLog) -> str:
    """All saved steps in one line."""
    raw = sum(saved.info.raw_bytes for saved in log.saved)
    stored = sum(saved.info.stored_bytes for saved in log.saved)
    return f"{len(log.saved)} steps, {format_size(raw)}, are stored in {format_size(stored)}: {raw / stored:.2f}x."
