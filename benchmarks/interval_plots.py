"""Plots of :mod:`benchmarks.intervals`, as wide as a page of a paper, in colours that differ in grey too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.intervals import Cost

__all__ = ["plot_bits", "plot_roles"]

# Okabe and Ito's, which most people tell apart.
_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_COLUMNS = 3


def plot_bits(costs: Sequence[Cost], out: Path) -> None:
    """Bits a parameter over the interval: a panel for each run, a line for each program."""
    programs = list(dict.fromkeys(cost.program for cost in costs))
    figure, panels = _panels(list(dict.fromkeys(cost.run for cost in costs)))
    for name, axes in panels.items():
        for number, program in enumerate(programs):
            own = [cost for cost in costs if (cost.run, cost.program) == (name, program)]
            axes.plot(
                [cost.interval for cost in own],
                [cost.bits for cost in own],
                color=_COLOURS[number],
                marker=_MARKERS[number],
                markersize=3,
                linewidth=1.6 if number == 0 else 0.9,
                label=program,
            )
        axes.set(xscale="log")
        axes.set_ylim(bottom=0)
        intervals = sorted({cost.interval for cost in costs if cost.run == name})
        axes.set_xticks(intervals, labels=list(map(str, intervals)))
        axes.set_xticks([], minor=True)
    _save(figure, panels, out / "intervals")


def plot_roles(costs: Sequence[Cost], out: Path) -> None:
    """Of our delta steps the bytes by role: a panel for each run, a bar for each interval."""
    roles = list(dict.fromkeys(role for cost in costs for role in cost.by_role))
    figure, panels = _panels(list(dict.fromkeys(cost.run for cost in costs)))
    for name, axes in panels.items():
        own = [cost for cost in costs if cost.run == name]
        below = [0.0] * len(own)
        for number, role in enumerate(roles):
            heights = [8 * cost.by_role.get(role, 0) / cost.parameters for cost in own]
            axes.bar(
                [str(cost.interval) for cost in own],
                heights,
                bottom=below,
                color=_COLOURS[(number + 1) % len(_COLOURS)],
                label=role,
            )
            below = [low + height for low, height in zip(below, heights, strict=True)]
    _save(figure, panels, out / "interval-roles")


def _panels(names: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = -(-len(names) // _COLUMNS)
    columns = min(_COLUMNS, len(names))
    figure, grid = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.3 * rows + 0.4), squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    panels = dict(zip(names, grid.flat, strict=False))
    for name, axes in panels.items():
        axes.set_title(name, fontsize=8)
        axes.set_xlabel("training steps between checkpoints", fontsize=7)
        axes.set_ylabel("bits a parameter", fontsize=7)
        axes.tick_params(labelsize=7)
    return figure, panels


def _save(figure: Any, panels: dict[str, Any], path: Path) -> None:
    """As PNG and SVG, with one legend below all panels."""
    from matplotlib import pyplot as plt

    handles, labels = next(iter(panels.values())).get_legend_handles_labels()
    columns = max(2, int(figure.get_figwidth() / 1.3))
    lines = -(-len(labels) // columns)
    figure.tight_layout(rect=(0, (0.1 + 0.16 * lines) / figure.get_figheight(), 1, 1))
    figure.legend(handles, labels, loc="lower center", ncol=columns, fontsize=7, frameon=False)
    for ending in ("png", "svg"):
        figure.savefig(path.with_suffix(f".{ending}"), dpi=200)
    plt.close(figure)
