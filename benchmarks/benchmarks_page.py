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
    rows = {(f"{row['role']}, {row['step']}", row["codec"]): row for row in figures["rows"]}
    codecs = list(dict.fromkeys(codec for _, codec in rows))

    def pivot(name: str, digits: int) -> str:
        lines = []
        for data in dict.fromkeys(data for data, _ in rows):
            found = [rows.get((data, codec)) for codec in codecs]
            bound = next((row["bound"] for row in found if row is not None and row["bound"] is not None), None)
            extra = [] if name != "bits" else ["" if bound is None else f"{bound:.{digits}f}"]
            lines.append([data, *extra, *("" if row is None else f"{row[name]:.{digits}f}" for row in found)])
        return table(["data", *(["bound"] if name == "bits" else []), *codecs], lines)

    head = paragraph(
        """What codecs make of the changes between two steps of a real training run: `weights, 10` are fp32 weights ten
        steps apart, `state` all of a checkpoint, `bf16, rl1` bf16 weights one step apart at a rate of 1e-6. Ours is
        measured beside the partners that a save has at hand, and `alone`, where that is something else. Bits are for
        each element, all overhead included; the bound is the conditional entropy of what ours codes, given its
        contexts, which tables of a block can beat; speeds are GB of raw input a second on one core."""
    )
    verdicts = [(one["reached"], one["goal"]) for one in figures.get("verdicts", ())]
    parts = [head, "**Bits an element**\n", pivot("bits", 3), "**Encoding, GB/s**\n", pivot("encode", 2)]
    return "\n".join([*parts, "**Decoding, GB/s**\n", pivot("decode", 2), judged(verdicts)])


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
    results, steps = figures["results"], figures["settings"]["course"]["steps"]
    previous = {(row["interval"], row["key_every"]): row["stored"] for row in results if row["policy"] == "previous"}
    rows = (
        [
            str(row["interval"]),
            row["policy"],
            str(row["key_every"]),
            f"{row['stored'] / 1e6:.1f} MB",
            f"{row['stored'] / previous[row['interval'], row['key_every']]:.1%}",
            str(row["depth"]),
            *(f"{1000 * seconds:.0f} ms" for seconds in row["restore"]),
            f"{row['walk']:.1f} s",
        ]
        for row in results
    )
    head = paragraph(
        f"""{steps} checkpoints of a small GPT with AdamW, some training steps apart, in chains of every kind: what they
        take, how deep they are, and how long a restore of one step takes from memory; `walk` is a load of all of them,
        one after another. What single training steps between saves cost is explained in
        [design/chains.md](design/chains.md)."""
    )
    titles = [
        "steps between",
        "chain",
        "key every",
        "stored",
        "of previous",
        "depth",
        "restore: least",
        "median",
        "most",
    ]
    plot = "![Bytes of all steps against the time of a restore; numbers: steps from key to key](images/history.png)\n"
    return f"{head}\n{table([*titles, 'walk'], rows)}\n{plot}\n{judged(list(goals.history(figures)))}"


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
