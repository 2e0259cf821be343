"""The demo: train a small GPT on real text, save it again and again into one store, then prove that nothing was lost.

It restores three saved steps, picked at random, and compares every tensor and value with hashes kept from memory at the
time of the save. It then continues the training from a middle step, in two ways, and compares the losses.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from torch.distributed.checkpoint.api import CheckpointException

from benchmarks import demo_run, demo_view
from benchmarks.circumstances import circumstances
from benchmarks.demo_run import RunLog
from benchmarks.gpt import GPTConfig
from benchmarks.text import Tokenizer, read_sources
from benchmarks.training import TrainConfig, Trainer, make_deterministic
from deltackpt import Store
from deltackpt.errors import DeltackptError
from deltackpt.text import format_size

__all__ = ["main"]

_MARK = ".deltackpt-demo"
_NOT_EXACT = 1
_UNUSABLE = 2


@dataclass(frozen=True, slots=True)
class Size:
    """How large a demo is: the model, bytes of text, training steps, saves, and steps to repeat after a resume."""

    model: GPTConfig
    batch: int
    text_bytes: int
    steps: int
    save_every: int
    stretch: int
    repeat: int


FULL = Size(GPTConfig(), batch=8, text_bytes=8 << 20, steps=120, save_every=5, stretch=10, repeat=5)
QUICK = Size(
    GPTConfig(vocab=512, context=32, width=32, layers=2, heads=4),
    batch=4,
    text_bytes=1 << 18,
    steps=20,
    save_every=4,
    stretch=4,
    repeat=4,
)


class UnusableError(Exception):
    """The demo cannot run as asked; the message says why and what to do."""


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the run (default: runs/demo)")
    parser.add_argument("--steps", type=_positive, help=f"training steps (default: {FULL.steps})")
    parser.add_argument(
        "--save-every", type=_positive, help=f"training steps from save to save (default: {FULL.save_every})"
    )
    parser.add_argument("--seed", type=int, help="picks the steps to restore (default: the time)")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few steps")
    parser.add_argument("--json", type=Path, help="a file for the figures, which benchmarks.demo_readme reads")
    return parser.parse_args(arguments)


def _make_folder(out: Path, needed: int) -> None:
    """Make ``out`` an empty folder with our mark in it; only an empty folder or an earlier demo's is replaced.

    Fails now rather than in the middle if the disk has less than ``needed`` bytes free: what the run is uncompressed.
    """
    if out.exists():
        if not out.is_dir() or (any(out.iterdir()) and not (out / _MARK).is_file()):
            raise UnusableError(f"{out} exists and is not of an earlier demo; name another folder with --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARK).write_text("Made by `python -m benchmarks.demo`, whose next run replaces this folder.\n")
    free = shutil.disk_usage(out).free
    if free < needed:
        raise UnusableError(
            f"{out} has {format_size(free)} of free space and the run may need {format_size(needed)}; "
            "name a folder on another disk with --out, or save fewer steps with --save-every"
        )


def _report(console: Console, what: str, lines: list[str]) -> bool:
    """Print one line for a check, and the first differences if there are any. True if it passed."""
    console.print(f"  {what}: " + ("[green]equal, bit for bit[/]" if not lines else "[red]NOT EQUAL[/]"))
    for line in lines[:5]:
        console.print(f"    {line}", markup=False)
    if len(lines) > 5:
        console.print(f"    and {len(lines) - 5} more")
    return not lines


def _restore_three(
    console: Console, store: Store, log: RunLog, fresh: Callable[[], Trainer], out: Path, seed: int
) -> bool:
    console.print(f"\n[bold]Restoring[/] three saved steps picked at random (--seed {seed}), against the kept hashes")
    by_load, *by_files = random.Random(seed).sample(sorted(log.digests), 3)
    began = time.perf_counter()
    lines = demo_run.check_load(store, by_load, log.digests[by_load], fresh())
    seconds = time.perf_counter() - began
    exact = _report(console, f"step {by_load}, dcp.load into a fresh model and optimizer ({seconds:.1f} s)", lines)
    for step in by_files:
        folder = out / f"step-{step}"
        began = time.perf_counter()
        lines = demo_run.check_files(store, step, log.digests[step], folder)
        seconds = time.perf_counter() - began
        names = ", ".join(sorted(path.name for path in folder.iterdir()))
        exact &= _report(console, f"step {step}, {names} ({seconds:.1f} s)", lines)
    return exact


def _resume_twice(
    console: Console, store: Store, log: RunLog, fresh: Callable[[], Trainer], out: Path, start: int, count: int
) -> bool:
    console.print(f"\n[bold]Resuming[/] twice from step {start} for {count} training steps")
    losses: dict[str, list[float]] = {}
    states: list[str] = []

    def resume(name: str, trainer: Trainer) -> None:
        losses[name], lines = demo_run.resume(trainer, count, log)
        states.extend(f"{name}: {line}" for line in lines)

    # One after the other: torch's random state belongs to the process.
    trainer = fresh()
    demo_run.load_step(store, start, trainer)
    resume("by dcp.load", trainer)
    folder = out / f"resume-{start}"
    store.step(start).restore(folder, format="torch")
    trainer = fresh()
    trainer.load(demo_run.load_files(folder))
    resume("from model.pt, optim.pt, train.pt", trainer)

    original = [log.losses[step] for step in range(start + 1, start + 1 + count)]
    console.print(demo_view.loss_table(start + 1, original, losses))
    exact = True
    for name, repeated in losses.items():
        pairs = enumerate(zip(original, repeated, strict=True), start + 1)
        lines = [f"step {step}: {loss!r}, was {first!r}" for step, (first, loss) in pairs if loss != first]
        exact &= _report(console, f"losses {name}", lines)
    if start + count in log.digests:
        exact &= _report(console, f"weights, moments and all else after step {start + count}", states)
    return exact


def _command() -> str:
    """How to call the command line from here: it lies beside Python in an environment that may not be active."""
    command = Path(sys.executable).with_name("deltackpt")
    return os.path.relpath(command) if command.exists() and shutil.which("deltackpt") != str(command) else "deltackpt"


def _demo(console: Console, size: Size, out: Path, seed: int, figures: Path | None) -> bool:
    """Run everything; True if every comparison was exact. Only then ``figures`` is written."""
    began = time.perf_counter()
    to_save = demo_run.save_steps(size.steps, size.save_every, size.stretch)
    middle = demo_run.middle_step(size.steps, size.save_every)
    if len(to_save) < 3 or not 0 < middle <= size.steps - size.repeat:
        raise UnusableError(
            f"{size.steps} training steps, saved every {size.save_every}, are too few to resume from the middle; "
            "use more --steps or a smaller --save-every"
        )
    config = TrainConfig(size.steps, warmup=size.steps // 6, batch=size.batch)

    make_deterministic()
    text = read_sources(size.text_bytes)
    tokens = Tokenizer.train(text, size.model.vocab).encode(text)
    trainer = Trainer(size.model, config, tokens)
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    _make_folder(out, parameters * (3 * 4 + 2) * (len(to_save) + 3))
    console.print(
        f"[bold]Training[/] a GPT of {parameters / 1e6:.2f} million parameters on {format_size(len(text))} of the "
        f"standard library's sources, for {size.steps} steps with {len(to_save)} saves in the background. "
        "A state: fp32 weights, AdamW's fp32 moments, a bf16 copy of the weights."
    )
    store = Store.create(out / "store", chain="previous", key_every=16)
    with demo_view.running(console, size.steps) as progress:
        log = demo_run.train(trainer, store, size.steps, to_save, progress)
    trained = time.perf_counter() - began
    console.print()
    console.print(demo_view.step_table(log))

    def fresh() -> Trainer:
        return Trainer(size.model, config, tokens)

    exact = _restore_three(console, store, log, fresh, out / "restored", seed)
    exact &= _resume_twice(console, store, log, fresh, out / "restored", middle, size.repeat)

    console.print(f"\n[bold]Summary:[/] {demo_view.totals(log)}")
    console.print(demo_view.summary(log))
    console.print(demo_view.WORDS)
    seconds = time.perf_counter() - began
    if figures is not None and exact:
        found = {
            **circumstances(("deltackpt", "numpy", "torch")),
            "training_steps": size.steps,
            "seconds": round(seconds),
            "raw_bytes": log.saved[-1].info.raw_bytes,
            "stored_of_raw": demo_view.shares(log),
        }
        figures.write_text(json.dumps(found, indent=1) + "\n")
    console.print(
        f"\n{seconds:.0f} s in all, {trained:.0f} s of it training and saving. "
        f"Machine: {demo_view.machine()}.\nThe steps are in {out / 'store'}: try `{_command()} log {out / 'store'}`."
    )
    return exact


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 if everything was exact, 1 if not, 2 if it cannot run as asked, else the error's exit code."""
    options = _parse(arguments)
    console = demo_view.make_console()
    base = QUICK if options.quick else FULL
    size = replace(base, steps=options.steps or base.steps, save_every=options.save_every or base.save_every)
    # DCP says so at each save and load of a single process, which this is on purpose.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
    seed = int(time.time()) if options.seed is None else options.seed
    try:
        exact = _demo(console, size, options.out, seed, options.json)
    except (UnusableError, FileNotFoundError) as error:
        console.print(f"[red]error:[/] {escape(str(error))}")
        return _UNUSABLE
    except (DeltackptError, CheckpointException) as error:
        # DCP wraps what failed in a rank, of which there is one here.
        cause = error.failures[0][0] if isinstance(error, CheckpointException) else error
        if not isinstance(cause, DeltackptError):
            raise
        console.print(f"[red]error:[/] {escape(str(cause))}")
        return cause.exit_code
    if not exact:
        console.print("[red]Something was not restored exactly; see above.[/]")
        return _NOT_EXACT
    return 0


if __name__ == "__main__":
    sys.exit(main())
