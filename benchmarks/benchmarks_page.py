"""``docs/benchmarks.md`` from the figures that :mod:`benchmarks.all` keeps. Pure: no figure is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.scaling_page import table

__all__ = ["render"]

_INTRODUCTION = """# Benchmarks

Written by `python -m benchmarks.all` from `benchmarks.json` beside this page. Ours and the peers are measured in one
run, on the same data, and every figure is of something that was read back and compared. Quick sizes say little of large
models.

"""


def render(found: Mapping[str, Any]) -> str:
    """The page: a section for each benchmark that was run."""
    sections = [
        f"## {title}\n\n{_origin(found[name])}\n\n{show(found[name]['figures'])}"
        for name, (title, show) in _SECTIONS.items()
        if name in found
    ]
    if "scaling" in found:
        words = "Time and memory against sizes and steps, and large runs: [scaling.md](scaling.md)."
        sections.append(f"## Scaling\n\n{words}\n")
    return _INTRODUCTION + "\n".join(sections)


def _origin(one: Mapping[str, Any]) -> str:
    machine = one["machine"]
    versions = ", ".join(f"{name} {one['versions'][name]}" for name in ("python", "torch", "numpy"))
    return (
        f"{one['size'].capitalize()} sizes, on {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory'] / 1e9:.0f} GB;\n{versions}; commit {one['commit']}."
    )


def _codecs(figures: Mapping[str, Any]) -> str:
    rows = (
        [
            f"{row['role']}, {row['step']}",
            row["codec"],
            f"{row['bits']:.3f}",
            "" if row["bound"] is None else f"{row['bound']:.3f}",
            *(f"{row[name]:.2f}" for name in ("encode", "decode")),
        ]
        for row in figures["rows"]
    )
    head = "Bits an element of deltas of a real run, so many steps apart (rl: at a rate of 1e-6); GB/s of one core.\n\n"
    return head + table(["data", "codec", "bits", "bound", "encode", "decode"], rows)


def _save_load(figures: Sequence[Mapping[str, Any]]) -> str:
    times = ("key save", "delta save", "blocked", "key load", "deep load")
    parts = ["Seconds of the slowest rank; bytes as shares of the state.\n"]
    for plan in figures:
        raw = plan["raw"]
        rows = (
            [name, *(f"{row[t]:.3f}" for t in times), *(f"{row[b] / raw:.3f}" for b in ("key bytes", "delta bytes"))]
            for name, row in plan["peers"].items()
        )
        parts.append(f"{raw / 1e6:,.0f} MB on {plan['ranks']} ranks:\n")
        parts.append(table(["", *times, "key bytes", "delta bytes"], rows))
    return "\n".join(parts)


def _history(figures: Mapping[str, Any]) -> str:
    settings = figures["settings"]
    rows = (
        [
            row["policy"],
            str(row["key_every"]),
            f"{row['stored'] / 1e6:.1f} MB",
            str(row["depth"]),
            *(f"{1000 * seconds:.0f} ms" for seconds in row["restore"]),
        ]
        for row in figures["results"]
    )
    head = f"{settings['steps']} checkpoints of a small GPT, {settings['interval']} training steps apart.\n\n"
    return head + table(["chain", "key every", "stored", "depth", "restore, least", "median", "most"], rows)


def _intervals(figures: Mapping[str, Any]) -> str:
    costs = figures["costs"]
    parts = [
        f"Bits a parameter of the model for each checkpoint, with a key step in {figures['key_every']}; in brackets\n"
        "how many times smaller than the files of torch.save.\n"
    ]
    for run in dict.fromkeys(cost["run"] for cost in costs):
        own = [cost for cost in costs if cost["run"] == run]
        intervals = list(dict.fromkeys(cost["interval"] for cost in own))
        cells = {(cost["program"], cost["interval"]): f"{cost['bits']:.2f} ({cost['ratio']:.2f}x)" for cost in own}
        programs = dict.fromkeys(cost["program"] for cost in own)
        rows = ([name, *(cells[name, interval] for interval in intervals)] for name in programs)
        parts.append(f"{run}, {own[0]['parameters'] / 1e6:.2f} M parameters:\n")
        parts.append(table(["steps between checkpoints", *map(str, intervals)], rows))
    parts.append("![Bits a parameter over the interval](images/intervals.png)\n")
    parts.append("![Bits a parameter of our delta steps, by role](images/interval-roles.png)\n")
    return "\n".join(parts)


def _files(figures: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for row in figures:
        out = "" if row["out_wall"] is None else f"{row['out_bytes'] / 1e6 / row['out_wall']:.0f}"
        stored = f"{row['stored'] / 1e6:.1f}"
        speed = f"{row['raw'] / 1e6 / row['in_wall']:.0f}"
        rows.append([row["name"], stored, f"{row['raw'] / row['stored']:.3f}x", speed, f"{row['in_cpu']:.1f}", out])
    head = f"{figures[0]['raw'] / 1e6:.1f} MB of checkpoint files.\n\n"
    return head + table(["program", "stored MB", "smaller", "in MB/s", "in, CPU s", "out MB/s"], rows)


_SECTIONS: Mapping[str, tuple[str, Any]] = {
    "intervals": ("Storage cost across step intervals", _intervals),
    "files": ("Checkpoint files", _files),
    "save_load": ("Saving and loading through DCP", _save_load),
    "history": ("Chains", _history),
    "codecs": ("Codecs", _codecs),
}
