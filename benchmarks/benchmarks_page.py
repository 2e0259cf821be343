"""``docs/benchmarks.md`` from the figures that :mod:`benchmarks.all` keeps. Pure: no figure is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import goals, interval_page
from benchmarks.page import goals as judged
from benchmarks.page import origin, paragraph, table

__all__ = ["render"]

_INTRODUCTION = """# Benchmarks

Written by `python -m benchmarks.all` from `benchmarks.json` beside this page: no figure is typed by hand. Ours and the
peers are measured in one run, on the same data, and every figure is of something that was read back and compared.
`make benchmarks` measures quick sizes in some minutes, which say little of large models; `make benchmarks SIZE=full`
takes about an hour after a first training of the models.

"""


def render(found: Mapping[str, Any]) -> str:
    """The page: a section for each benchmark that was run."""
    sections = [
        f"## {title}\n\n{origin(found[name])}\n{show(found[name]['figures'])}"
        for name, (title, show) in _SECTIONS.items()
        if name in found
    ]
    if "scaling" in found:
        words = "Time and memory against sizes and steps, and large runs: [scaling.md](scaling.md).\n"
        reached = judged(list(goals.listing(found["scaling"]["figures"])))
        sections.append(f"## Scaling\n\n{origin(found['scaling'])}\n{words}\n{reached}".rstrip() + "\n")
    return _INTRODUCTION + "\n".join(sections)


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
    head = paragraph(
        """What codecs make of the changes between two steps of a real training run: `weights, 10` are fp32 weights ten
        steps apart, `state` all of a checkpoint, `bf16, rl1` bf16 weights one step apart at a rate of 1e-6. Bits are
        for each element, all overhead included; `bound` is the conditional entropy of what is coded; speeds are GB of
        raw input a second on one core."""
    )
    verdicts = [(one["reached"], one["goal"]) for one in figures.get("verdicts", ())]
    shown = table(["data", "codec", "bits", "bound", "encode", "decode"], rows)
    return f"{head}\n{shown}\n{judged(verdicts)}"


_SAVE_LOAD = """A synthetic AdamW state in fp32, sharded over the ranks, is saved step after step and loaded again.
Seconds are of the slowest rank, the best of the repeats: a whole synchronous save of a key step and of a delta step;
`blocked` until `async_save` returns; a load of the first step, and of the last of a chain of eight. Bytes of a step are
shares of the state, memory is what a rank took beyond what it had, as shares of its part of the state.
"""


def _save_load(figures: Sequence[Mapping[str, Any]]) -> str:
    times, bytes_ = ("key save", "delta save", "blocked", "key load", "deep load"), ("key bytes", "delta bytes")
    memory = ("save memory", "async memory", "load memory")
    parts = [_SAVE_LOAD]
    for plan in figures:
        raw, own = plan["raw"], plan["raw"] / plan["ranks"]
        rows = (
            [
                name,
                *(f"{row[what]:.3f} s" for what in times),
                *(f"{row[what] / raw:.3f}" for what in bytes_),
                *(f"{row[what] / own:.2f}" if what in row else "" for what in memory),
            ]
            for name, row in plan["peers"].items()
        )
        parts.append(f"**{raw / 1e6:,.0f} MB on {plan['ranks']} rank{'s' * (plan['ranks'] > 1)}**\n")
        parts.append(table(["program", *times, *bytes_, *memory], rows))
    slow = [(plan, row) for plan in figures for row in plan.get("throttled", ())]
    if slow:
        names = [name for name in slow[0][1] if name != "rate"]
        parts.append("A delta step through a throttle that lets so many bytes a second through, over all ranks:\n")
        parts.append(
            table(
                ["state, disk", *names],
                (
                    [
                        f"{plan['raw'] / 1e6:,.0f} MB on {plan['ranks']}, {row['rate'] / 1e6:g} MB/s",
                        *(f"{row[name]:.3f} s" for name in names),
                    ]
                    for plan, row in slow
                ),
            )
        )
    return "\n".join([*parts, judged(list(goals.save_load(figures)))])


def _history(figures: Mapping[str, Any]) -> str:
    settings = figures["settings"]
    rows = (
        [
            str(row["interval"]),
            row["policy"],
            str(row["key_every"]),
            f"{row['stored'] / 1e6:.1f} MB",
            str(row["depth"]),
            *(f"{1000 * seconds:.0f} ms" for seconds in row["restore"]),
        ]
        for row in figures["results"]
    )
    head = (
        f"{settings['course']['steps']} checkpoints of a small GPT, some training steps apart. Restores are of one.\n\n"
    )
    titles = ["training steps between", "chain", "key every", "stored", "depth", "restore, least", "median", "most"]
    return head + table(titles, rows)


def _files(figures: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for row in figures:
        out = "" if row["out_wall"] is None else f"{row['out_bytes'] / 1e6 / row['out_wall']:.0f}"
        stored = f"{row['stored'] / 1e6:.1f}"
        speed = f"{row['raw'] / 1e6 / row['in_wall']:.0f}"
        rows.append([row["name"], stored, f"{row['raw'] / row['stored']:.3f}", speed, f"{row['in_cpu']:.1f}", out])
    head = paragraph(
        f"""{figures[0]["raw"] / 1e6:,.1f} MB of checkpoints in OLMo's layout, taken in one after another; the last one
        is given back and compared. Rates are of raw bytes by the clock; where there is none, a program gives nothing
        back by itself."""
    )
    shown = table(["program", "stored MB", "times smaller", "in MB/s", "in, CPU s", "out MB/s"], rows)
    return f"{head}\n{shown}\n{judged(list(goals.files(figures)))}"


_SECTIONS: Mapping[str, tuple[str, Any]] = {
    "intervals": ("Storage cost across step intervals", interval_page.render),
    "files": ("Checkpoint files", _files),
    "save_load": ("Saving and loading through DCP", _save_load),
    "history": ("Chains", _history),
    "codecs": ("Codecs", _codecs),
}
