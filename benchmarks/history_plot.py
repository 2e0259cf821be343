"""Stored bytes against the time of a restore, as a plot: one panel for each interval between saves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.history import Result

__all__ = ["plot"]


def plot(results: Sequence[Result], out: Path) -> None:
    """Bytes against the median restore, with the range, as ``history.png`` and ``history.svg`` in ``out``."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    intervals = sorted({result.interval for result in results}, reverse=True)
    figure, panels = plt.subplots(1, len(intervals), figsize=(1 + 5.5 * len(intervals), 4.5), squeeze=False)
    for axes, interval in zip(panels[0], intervals, strict=True):
        _panel(axes, [result for result in results if result.interval == interval])
        axes.set_title(f"{interval} training step{'s' * (interval > 1)} between saves")
    figure.tight_layout()
    for ending in ("png", "svg"):
        figure.savefig(out / f"history.{ending}")
    plt.close(figure)


def _panel(axes: Any, results: Sequence[Result]) -> None:
    for policy in dict.fromkeys(r.policy for r in results):
        own = [r for r in results if r.policy == policy]
        middle = [1000 * r.restore[1] for r in own]
        spread = [[m - 1000 * r.restore[0] for m, r in zip(middle, own, strict=True)]]
        spread.append([1000 * r.restore[2] - m for m, r in zip(middle, own, strict=True)])
        axes.errorbar([r.stored / 1e6 for r in own], middle, yerr=spread, marker="o", capsize=3, label=policy)
        for result, height in zip(own, middle, strict=True):
            place = result.stored / 1e6, height
            axes.annotate(str(result.key_every), place, xytext=(4, 4), textcoords="offset points")
    axes.set(xlabel="stored, MB", ylabel="restore of one step, ms (median, range)", yscale="log")
    axes.legend()
