"""Stored bytes against the time of a restore, as a plot: one panel for each interval between saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["plot"]

Row = Mapping[str, Any]


def plot(rows: Sequence[Row], out: Path) -> None:
    """Bytes against the median restore, with the range, as ``history.png`` and ``history.svg`` in ``out``.

    Args:
        rows: the fields of :class:`benchmarks.history.Result`.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    intervals = sorted({row["interval"] for row in rows}, reverse=True)
    figure, panels = plt.subplots(1, len(intervals), figsize=(1 + 5.5 * len(intervals), 4.5), squeeze=False)
    for axes, interval in zip(panels[0], intervals, strict=True):
        _panel(axes, [row for row in rows if row["interval"] == interval])
        axes.set_title(f"{interval} training step{'s' * (interval > 1)} between saves")
    figure.tight_layout()
    for ending in ("png", "svg"):
        figure.savefig(out / f"history.{ending}")
    plt.close(figure)


def _panel(axes: Any, rows: Sequence[Row]) -> None:
    for policy in dict.fromkeys(row["policy"] for row in rows):
        own = [row for row in rows if row["policy"] == policy]
        least, middle, most = ([1000 * row["restore"][k] for row in own] for k in range(3))
        spread = [[m - low for m, low in zip(middle, least, strict=True)]]
        spread.append([high - m for m, high in zip(middle, most, strict=True)])
        axes.errorbar([row["stored"] / 1e6 for row in own], middle, yerr=spread, marker="o", capsize=3, label=policy)
        for row, height in zip(own, middle, strict=True):
            place = row["stored"] / 1e6, height
            axes.annotate(str(row["key_every"]), place, xytext=(4, 4), textcoords="offset points")
    axes.set(xlabel="stored, MB", ylabel="restore of one step, ms (median, range)", yscale="log")
    axes.legend()
