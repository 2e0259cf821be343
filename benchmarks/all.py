"""All benchmarks, one after another, and the pages with their figures.

    python -m benchmarks.all [--quick | --full] [--only intervals,files] [--out build/benchmarks] [--docs docs]

Each runs in a process of its own. What they found is kept in ``DOCS/benchmarks.json``, with the machine, the versions
and the commit of each; ``DOCS/benchmarks.md`` and ``DOCS/scaling.md`` are written from that file and from nothing else.
With ``--only``, the figures of the others stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from benchmarks import benchmarks_page, scaling_page
from benchmarks.peers import MODULES

__all__ = ["BENCHMARKS", "SIZES", "Benchmark", "main", "run_command"]

SIZES = ("tiny", "quick", "full")

_PACKAGES = ("deltackpt", "numpy", "torch", "zstandard", *MODULES)
_PLOTS = ("intervals", "interval-roles")

Start = Callable[[Sequence[str]], None]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes:
        commands: for each size what to run; ``{out}`` is a folder of its own.
        figures: the file in that folder which has the figures.
    """

    commands: Mapping[str, Sequence[str]]
    figures: str


def _sizes(start: str, tiny: str, quick: str, full: str) -> Mapping[str, Sequence[str]]:
    return {size: (f"{start} {options}",) for size, options in zip(SIZES, (tiny, quick, full), strict=True)}


_FILES = "benchmarks.files {out}/run --folder {out} --json {out}/files.json"

BENCHMARKS: Mapping[str, Benchmark] = {
    "codecs": Benchmark(
        _sizes("benchmarks.codecs --cache {out}/run --out {out}/codecs.json", "--tiny --rounds 1", "--tiny", ""),
        "codecs.json",
    ),
    "save_load": Benchmark(
        _sizes(
            "benchmarks.save_load --folder {out} --json {out}/save_load.json",
            "--sizes 300KB --ranks 1 --repeats 1 --rates 50MB",
            "--sizes 20MB --ranks 1 2 --repeats 2",
            "--sizes 100MB 1GB",
        ),
        "save_load.json",
    ),
    "history": Benchmark(
        _sizes("benchmarks.history --out {out}", "--small --steps 8 --interval 2", "--steps 48", ""), "history.json"
    ),
    "intervals": Benchmark(_sizes("benchmarks.intervals --out {out}", "--tiny", "--quick", "--full"), "intervals.json"),
    "files": Benchmark(
        {
            "tiny": ("benchmarks.olmo_run {out}/run --tiny --checkpoints 3 --every 1", _FILES),
            "quick": ("benchmarks.olmo_run {out}/run --tiny --checkpoints 6 --every 5", _FILES),
            "full": ("benchmarks.olmo_run {out}/run", _FILES),
        },
        "files.json",
    ),
    "scaling": Benchmark(
        _sizes("benchmarks.scaling --json {out}/scaling.json", "--tiny", "--quick", "--full"), "scaling.json"
    ),
}


def run_command(words: Sequence[str]) -> None:
    """Run a module in a process of its own, and wait."""
    subprocess.run([sys.executable, "-m", *words], check=True)


def _circumstances() -> dict[str, Any]:
    """The machine, the versions and the commit."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory": psutil.virtual_memory().total,
            "platform": platform.platform(),
        },
        "versions": versions,
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def _commit() -> str:
    """The commit of this checkout; with a plus where files were changed since."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _run(name: str, size: str, out: Path, start: Start) -> dict[str, Any]:
    benchmark = BENCHMARKS[name]
    own = out / size / name
    own.mkdir(parents=True, exist_ok=True)
    for command in benchmark.commands[size]:
        words = [word.format(out=own) for word in command.split()]
        print(f"python -m {' '.join(words)}", file=sys.stderr)
        start(words)
    return {"size": size, **_circumstances(), "figures": json.loads((own / benchmark.figures).read_text())}


def main(arguments: Sequence[str] | None = None, start: Start = run_command) -> int:
    """Run, and write the figures and the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    size = parser.add_mutually_exclusive_group()
    for name, words in zip(SIZES, ("seconds, to try it out", "minutes (the default)", "hours"), strict=True):
        size.add_argument(f"--{name}", action="store_const", dest="size", const=name, help=words)
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="benchmarks, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="for what they write")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the pages are")
    parser.add_argument("--render", action="store_true", help="run nothing: write the pages from the figures there")
    chosen = parser.parse_args(arguments)
    names = [] if chosen.render else chosen.only.split(",")
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"{name!r} is none of {', '.join(BENCHMARKS)}")
    kept = chosen.docs / "benchmarks.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in names:
        found[name] = _run(name, chosen.size or "quick", chosen.out, start)
        # Those before are not lost where a later one fails.
        kept.write_text(json.dumps(found, indent=1) + "\n")
        if name == "intervals":
            _keep_plots(chosen.out / (chosen.size or "quick") / name, chosen.docs / "images")
    (chosen.docs / "benchmarks.md").write_text(benchmarks_page.render(found))
    if "scaling" in found:
        (chosen.docs / "scaling.md").write_text(scaling_page.render(found["scaling"]["figures"]))
    return 0


def _keep_plots(source: Path, images: Path) -> None:
    for name in _PLOTS:
        for ending in ("png", "svg"):
            plot = source / f"{name}.{ending}"
            if plot.exists():
                images.mkdir(exist_ok=True)
                shutil.copyfile(plot, images / plot.name)


if __name__ == "__main__":
    sys.exit(main())
