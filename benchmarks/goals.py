"""What saving, files and long histories are meant to reach, and whether figures do. Pure; the codecs' goals are in
:mod:`benchmarks.verdicts`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["files", "history", "listing", "save_load"]

Verdict = tuple[bool, str]

_OURS, _DCP = "deltackpt", "FileSystemWriter"
_DEEP = 3.0
# Disks of so many bytes a second, or slower, should make fewer bytes worth their coding.
_SLOW_DISK = 400e6
_IMPORT, _RESTORE = 300e6, 500e6
_SKIP, _REPACK = 1.04, 1.0
_LISTED, _GC, _STEPS = 1.0, 10.0, 10_000


def save_load(figures: Sequence[Mapping[str, Any]]) -> Iterator[Verdict]:
    """Against DCP's own files in the same run."""
    for plan in figures:
        if not {_OURS, _DCP} <= set(plan["peers"]):
            continue
        ours, files = plan["peers"][_OURS], plan["peers"][_DCP]
        where = f"{plan['raw'] / 1e6:,.0f} MB on {plan['ranks']} rank{'s' * (plan['ranks'] > 1)}"
        for what, words, most in (
            ("blocked", "async_save blocks", 1.0),
            ("delta save", "a delta step's save takes", 1.0),
            ("key load", "a key step's load takes", 1.0),
            ("deep load", "a depth-8 load takes", _DEEP),
        ):
            ratio = ours[what] / files[what]
            yield ratio <= most, f"{where}: {words} {ratio:.2f} times that of DCP's own files (goal {most:g})"
        for row in plan.get("throttled", ()):
            if row["rate"] <= _SLOW_DISK:
                ratio = row[_DCP] / row[_OURS]
                yield ratio > 1, f"{where}: a save at {row['rate'] / 1e6:g} MB/s is {ratio:.2f} times as fast (goal 1)"


def history(figures: Mapping[str, Any]) -> Iterator[Verdict]:
    """Of chains whose depth is bounded, against the smallest there is without looking back."""
    rows = figures["results"]
    previous = {(row["interval"], row["key_every"]): row["stored"] for row in rows if row["policy"] == "previous"}
    for policy, most in (("skip", _SKIP), ("repack", _REPACK)):
        for interval in dict.fromkeys(interval for interval, _ in previous):
            shares = [
                row["stored"] / previous[interval, row["key_every"]]
                for row in rows
                if row["policy"].startswith(policy) and row["interval"] == interval
            ]
            if shares:
                steps = f"{interval} training step{'s' * (interval > 1)} between saves"
                words = f"{policy}, {steps}: {max(shares):.1%} of the bytes of previous (goal {most:.0%})"
                yield max(shares) <= most, words


def files(figures: Sequence[Mapping[str, Any]]) -> Iterator[Verdict]:
    """Of an import and a restore, and against everything else that keeps files."""
    ours = figures[0]
    taken, given = ours["raw"] / ours["in_wall"], ours["out_bytes"] / (ours.get("out_slowest") or ours["out_wall"])
    yield taken >= _IMPORT, f"import at {taken / 1e6:.0f} MB/s (goal {_IMPORT / 1e6:.0f})"
    yield given >= _RESTORE, f"restore of any step at {given / 1e6:.0f} MB/s (goal {_RESTORE / 1e6:.0f})"
    for row in figures[1:]:
        share = ours["stored"] / row["stored"]
        yield share < 1, f"{share:.3f} of the bytes of {row['name']} (goal 1)"


def listing(figures: Mapping[str, Any]) -> Iterator[Verdict]:
    """Of stores with 10,000 steps."""
    for row in figures["steps"]:
        if row["steps"] == _STEPS:
            yield row["log"] < _LISTED, f"{_STEPS:,} steps are listed in {row['log']:.2f} s (goal {_LISTED:g})"
            yield row["gc"] < _GC, f"gc --dry-run of {_STEPS:,} steps takes {row['gc']:.2f} s (goal {_GC:g})"
