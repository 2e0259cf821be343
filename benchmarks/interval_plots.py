"""Plots of the figures of :mod:`benchmarks.intervals`, as wide as a page of a paper, in colours that most people tell
apart; lines have markers, bars have hatches, so that they can be told apart in grey, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.interval_words import OPTIMIZERS, PRECISIONS, REGIMES, REST, by_words, main_size

__all__ = ["plot", "plots_of"]

_PROGRAMS, _ROLES, _AXES = "intervals", "interval-roles", "interval-axes"

Figures = Sequence[Mapping[str, Any]]

# Okabe and Ito's.
_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_HATCHES = ("", "//", "..", "xx", "\\\\", "--", "oo", "++")
_WIDTH, _HEIGHT = 9.6, 1.9
_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 8,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.4,
    # The same figures give the same bytes.
    "svg.hashsalt": "deltackpt",
}


def plots_of(costs: Figures) -> list[str]:
    """Names of the plots that there are of these figures, without the endings of files."""
    several = any(True for _ in _panels([cost for cost in costs if cost["by_role"]]))
    return [_PROGRAMS, _ROLES, *([_AXES] if several else [])]


def plot(costs: Figures, folder: Path) -> None:
    """Write all plots as PNG and SVG.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    with mpl.rc_context(_STYLE):
        _regimes(costs, folder / _PROGRAMS, "bytes a parameter", _programs)
        ours = [cost for cost in costs if cost["by_role"]]
        found = dict.fromkeys(role for cost in ours for role in by_words(cost["by_role"]) if role != REST)
        roles = [*found, REST]

        def stacked(axes: Any, own: Figures) -> None:
            _stacked(axes, own, roles)

        _regimes(ours, folder / _ROLES, "bytes a parameter", stacked)
        if _AXES in plots_of(costs):
            _axes(ours, folder / _AXES)


def _regimes(costs: Figures, path: Path, label: str, draw: Callable[[Any, Figures], None]) -> None:
    """A row of panels for each precision, a column for each regime: AdamW's at the size with most runs."""
    from matplotlib import pyplot as plt

    size = main_size(costs)
    shown = [cost for cost in costs if cost["size"] == size and cost["optimizer"] == "adamw"] or list(costs)
    regimes = [one for one in REGIMES if any(cost["regime"] == one for cost in shown)]
    seen = {one: {cost["regime"] for cost in shown if cost["precision"] == one} for one in PRECISIONS}
    # A precision that one regime of several has is in the plot of axes.
    precisions = [one for one, own in seen.items() if len(own) >= min(2, max(map(len, seen.values())))]
    figure, grid = plt.subplots(
        len(precisions),
        len(regimes),
        figsize=(_WIDTH * max(2, len(regimes)) / 5, _HEIGHT * len(precisions) + 0.5),
        squeeze=False,
        sharey="row",
        layout="constrained",
    )
    for row, precision in zip(grid, precisions, strict=True):
        drawn = False
        for axes, regime in zip(row, regimes, strict=True):
            own = [cost for cost in shown if (cost["precision"], cost["regime"]) == (precision, regime)]
            if not own:
                axes.set_axis_off()
                continue
            draw(axes, own)
            axes.set_title(f"{REGIMES[regime]},\n{PRECISIONS[precision]}")
            axes.tick_params(labelleft=True)
            if not drawn:
                axes.set_ylabel(label)
            drawn = True
        # At last, for the panels of a row have one scale.
        row[0].set_ylim(0, 1.05 * max(axes.dataLim.y1 for axes in row if axes.axison))
    figure.supxlabel("training steps between checkpoints", fontsize=8)
    _save(figure, [axes for axes in grid.flat if axes.axison], path)


def _programs(axes: Any, own: Figures) -> None:
    """A line for each program."""
    for number, program in enumerate(dict.fromkeys(cost["program"] for cost in own)):
        _line(axes, [cost for cost in own if cost["program"] == program], "per_parameter", number, program)


def _line(axes: Any, own: Figures, what: str, number: int, label: str) -> None:
    axes.plot(
        [cost["interval"] for cost in own],
        [cost[what] for cost in own],
        color=_COLOURS[number],
        marker=_MARKERS[number],
        markersize=3.5,
        linewidth=1.8 if number == 0 else 1.0,
        zorder=3 if number == 0 else 2,
        label=label,
    )
    axes.set(xscale="log")
    longest = axes.dataLim.x1
    decades = [one for one in (1, 10, 100, 1000) if one <= longest]
    axes.set_xticks(decades, labels=list(map(str, decades)))
    axes.set_xticks([one * decade for decade in decades for one in (2, 5) if one * decade <= longest], minor=True)
    axes.tick_params(axis="x", which="minor", labelbottom=False)


def _stacked(axes: Any, own: Figures, roles: Sequence[str]) -> None:
    """A bar for each interval: a delta step by role."""
    below = [0.0] * len(own)
    for number, role in enumerate(roles):
        heights = [by_words(cost["by_role"]).get(role, 0) / cost["parameters"] for cost in own]
        axes.bar(
            [str(cost["interval"]) for cost in own],
            heights,
            bottom=below,
            color=_COLOURS[1:][number % 7],
            hatch=_HATCHES[number % len(_HATCHES)],
            edgecolor="black",
            linewidth=0.4,
            label=role,
        )
        below = [low + height for low, height in zip(below, heights, strict=True)]
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="x", labelrotation=90 if len(own) > 5 else 0)


def _axes(ours: Figures, path: Path) -> None:
    """Sizes, precisions and optimizers, each where all else is equal."""
    from matplotlib import pyplot as plt

    panels = list(_panels(ours))
    figure, grid = plt.subplots(
        1, len(panels), figsize=(_WIDTH * 0.32 * len(panels), 2.6), squeeze=False, layout="constrained"
    )
    for axes, (title, lines) in zip(grid.flat, panels, strict=True):
        for number, (name, own) in enumerate(lines.items()):
            _line(axes, own, "ratio", number, name)
        axes.set_title(title)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("training steps between checkpoints")
        axes.legend(frameon=False, fontsize=7)
    grid.flat[0].set_ylabel("times smaller than torch.save")
    _save(figure, [], path)


def _panels(ours: Figures) -> Iterator[tuple[str, dict[str, Figures]]]:
    size = main_size(ours)
    fixed = {"size": size, "precision": "fp32", "optimizer": "adamw", "regime": "late"}
    words: Mapping[str, Mapping[str, str]] = {"size": {}, "precision": PRECISIONS, "optimizer": OPTIMIZERS}
    for axis, names in words.items():
        rest = {name: value for name, value in fixed.items() if name != axis}
        own = [cost for cost in ours if all(cost[name] == value for name, value in rest.items())]
        lines: dict[str, Figures] = {
            names.get(value, value): [cost for cost in own if cost[axis] == value]
            for value in dict.fromkeys([fixed[axis], *(cost[axis] for cost in own)])
        }
        lines = {name: line for name, line in lines.items() if line}
        if len(lines) > 1:
            kept = [_word(rest[name], name) for name in rest]
            yield f"by {axis}\n({', '.join(kept)})", lines


def _word(value: str, axis: str) -> str:
    """The word for a value of an axis."""
    known: Mapping[str, Mapping[str, str]] = {"precision": PRECISIONS, "optimizer": OPTIMIZERS, "regime": REGIMES}
    return known.get(axis, {}).get(value, value)


def _save(figure: Any, panels: Sequence[Any], path: Path) -> None:
    """As PNG and SVG, with one legend above all panels."""
    from matplotlib import pyplot as plt

    found: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found.update(zip(labels, handles, strict=True))
    if found:
        figure.legend(found.values(), found.keys(), loc="outside upper center", ncol=6, frameon=False)
    figure.savefig(path.with_suffix(".png"), dpi=200)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)
