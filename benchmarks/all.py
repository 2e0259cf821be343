"""All benchmarks, one after another, and the pages with their figures.

    python -m benchmarks.all [--quick | --full] [--only intervals,files] [--out build/benchmarks] [--cache DIR]

Each runs in a process of its own. What they found is kept in ``DOCS/benchmarks.json``, with the machine, the versions
and the commit of each; ``DOCS/benchmarks.md``, ``DOCS/scaling.md`` and the plots are made from that file and from
nothing else. With ``--only``, the figures of the others stay as they are. Where one fails the others still run, its
old figures stay, and the exit status is 1: run it again with ``--only``.

Training runs are kept in the cache (``OUT/cache``): ``--prepare`` trains what is not there yet and measures nothing, so
that a quiet machine has only measuring to do.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import benchmarks_page, history_plot, interval_plots, page, scaling_page
from benchmarks.circumstances import circumstances
from benchmarks.peers import MODULES

__all__ = ["BENCHMARKS", "SIZES", "Benchmark", "main", "run_command", "write_figures"]

SIZES = ("tiny", "quick", "full")

_PACKAGES = ("deltackpt", "numpy", "torch", "zstandard", *MODULES)

# Of a line of the figures.
_LINE = 160

Start = Callable[[Sequence[str]], None]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes:
        commands: for each size what to run; ``{out}`` is a folder of its own, ``{cache}`` one for training runs.
        figures: the file in the first that has the figures.
        prepare: for each size what trains the runs that are not in the cache.
    """

    commands: Mapping[str, str]
    figures: str
    prepare: Mapping[str, str] = field(default_factory=dict)


def _sizes(start: str, tiny: str, quick: str, full: str) -> Mapping[str, str]:
    return {size: f"{start} {options}" for size, options in zip(SIZES, (tiny, quick, full), strict=True)}


_INTERVALS = ("--tiny", "--quick", "--full")

BENCHMARKS: Mapping[str, Benchmark] = {
    "codecs": Benchmark(
        _sizes("benchmarks.codecs --cache {cache} --out {out}/codecs.json", "--tiny --rounds 1", "--tiny", ""),
        "codecs.json",
        _sizes("benchmarks.codecs --cache {cache} --train", "--tiny", "--tiny", ""),
    ),
    "save_load": Benchmark(
        _sizes(
            "benchmarks.save_load --folder {out} --json {out}/save_load.json",
            "--sizes 300KB --ranks 1 --repeats 1 --rates 50MB",
            "--sizes 20MB --ranks 1 2 --repeats 2",
            "--sizes 100MB 1GB 4GB",
        ),
        "save_load.json",
    ),
    "history": Benchmark(
        _sizes("benchmarks.history --cache {cache} --out {out}", "--small --steps 8 --interval 2 1", "--steps 48", ""),
        "history.json",
    ),
    "intervals": Benchmark(
        _sizes("benchmarks.intervals --cache {cache} --out {out}", *_INTERVALS),
        "intervals.json",
        _sizes("benchmarks.intervals --cache {cache} --train", *_INTERVALS),
    ),
    "files": Benchmark(
        _sizes("benchmarks.files {cache} --folder {out} --json {out}/files.json", "", "", ""),
        "files.json",
        _sizes(
            "benchmarks.olmo_run {cache}", "--tiny --checkpoints 3 --every 1", "--tiny --checkpoints 6 --every 5", ""
        ),
    ),
    "scaling": Benchmark(_sizes("benchmarks.scaling --json {out}/scaling.json", *_INTERVALS), "scaling.json"),
}


def run_command(words: Sequence[str]) -> None:
    """Run a module in a process of its own, and wait."""
    subprocess.run([sys.executable, "-m", *words], check=True)


def _start(command: str, name: str, size: str, chosen: argparse.Namespace, start: Start) -> Path:
    """Start one command; the folder that it writes to."""
    out, cache = chosen.out / size / name, (chosen.cache or chosen.out / "cache") / name / size
    for folder in (out, cache):
        folder.mkdir(parents=True, exist_ok=True)
    words = [word.format(out=out, cache=cache) for word in command.split()]
    print(f"python -m {' '.join(words)}", file=sys.stderr, flush=True)
    start(words)
    return Path(out)


def _run(name: str, size: str, chosen: argparse.Namespace, start: Start) -> dict[str, Any] | None:
    """The figures of one benchmark, or with ``--prepare`` none."""
    benchmark = BENCHMARKS[name]
    if size in benchmark.prepare:
        _start(benchmark.prepare[size], name, size, chosen, start)
    if chosen.prepare:
        return None
    measured_on = circumstances(_PACKAGES)
    begun = time.time()
    out = _start(benchmark.commands[size], name, size, chosen, start)
    figures = json.loads((out / benchmark.figures).read_text())
    return {"size": size, **measured_on, "seconds": round(time.time() - begun), "figures": figures}


def write_figures(path: Path, found: Mapping[str, Any]) -> None:
    """As JSON that a person can read and compare: what is short is on one line."""
    part = path.with_suffix(".part")
    part.write_text(_lines(found, "") + "\n")
    part.replace(path)


def _lines(value: Any, indent: str) -> str:
    short = json.dumps(value)
    if len(indent) + len(short) <= _LINE or not isinstance(value, dict | list):
        return short
    inner = indent + " "
    if isinstance(value, dict):
        members = [f"{json.dumps(name)}: {_lines(member, inner)}" for name, member in value.items()]
    else:
        members = [_lines(member, inner) for member in value]
    first, last = "{}" if isinstance(value, dict) else "[]"
    return f"{first}\n{inner}" + f",\n{inner}".join(members) + f"\n{indent}{last}"


def _write_pages(found: Mapping[str, Any], docs: Path) -> None:
    """Pages and plots."""
    (docs / "benchmarks.md").write_text(benchmarks_page.render(found))
    if "scaling" in found:
        (docs / "scaling.md").write_text(
            scaling_page.render(found["scaling"]["figures"], page.origin(found["scaling"]))
        )
    if found.keys() & {"intervals", "history"}:
        if importlib.util.find_spec("matplotlib") is None:
            print("no plots: install matplotlib, which the bench extra has", file=sys.stderr)
            return
        (docs / "images").mkdir(exist_ok=True)
    if "intervals" in found:
        interval_plots.plot(found["intervals"]["figures"]["costs"], docs / "images")
    if "history" in found:
        history_plot.plot(found["history"]["figures"]["results"], docs / "images")


def main(arguments: Sequence[str] | None = None, start: Start = run_command) -> int:
    """Run, and write the figures and the pages; 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    size = parser.add_mutually_exclusive_group()
    for name, words in zip(SIZES, ("seconds, to try it out", "minutes (the default)", "an hour"), strict=True):
        size.add_argument(f"--{name}", action="store_const", dest="size", const=name, default="quick", help=words)
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="benchmarks, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="for what they write")
    parser.add_argument("--cache", type=Path, help="for training runs (default: OUT/cache)")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the pages are")
    parser.add_argument("--prepare", action="store_true", help="only train what is not in the cache")
    parser.add_argument("--render", action="store_true", help="run nothing: write the pages from the figures there")
    chosen = parser.parse_args(arguments)
    names = [] if chosen.render else chosen.only.split(",")
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"{name!r} is none of {', '.join(BENCHMARKS)}")
    kept = chosen.docs / "benchmarks.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    failed = []
    for name in names:
        try:
            one = _run(name, chosen.size, chosen, start)
        except (subprocess.CalledProcessError, OSError, ValueError) as error:
            print(f"{name} failed: {error}", file=sys.stderr, flush=True)
            failed.append(name)
            continue
        if one is not None:
            found[name] = one
            # Those before are not lost where a later one fails.
            write_figures(kept, found)
            _write_pages(found, chosen.docs)
    if not names:
        _write_pages(found, chosen.docs)
    if failed:
        print(f"failed, and with old figures if any: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
