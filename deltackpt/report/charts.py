"""The charts of a report, as figures of plotly. Pure: numbers in, figures out.

Colours are those of Okabe and Ito (2008), which people with any kind of colour vision can tell apart, and which stand
out on light and dark ground. What depends on the ground (text, grid) is set by the page.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltackpt.errors import MissingPackageError
from deltackpt.report.data import METADATA, ReportData, StepFigures
from deltackpt.text import format_metric, format_size

__all__ = ["Chart", "make_charts"]

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_ROLE_ORDER = ("weight", "master", "exp_avg", "exp_avg_sq", "momentum", "buffer", "other", "object", METADATA)
_KEY = "#D55E00"
_HEIGHT = 340


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure with what is said above and below it.

    Attributes:
        name: an identifier for the page.
        note: what it shows, in a sentence.
        figure: plotly's figure as plain data.
        wide: whether it takes the whole width of the page.
    """

    name: str
    title: str
    note: str
    figure: Mapping[str, Any]
    wide: bool = False


def make_charts(data: ReportData) -> list[Chart]:
    """All charts that the data has something for.

    Raises:
        MissingPackageError: plotly is not installed.
    """
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise MissingPackageError(
            "a report needs the package plotly", hint="install it: pip install 'deltackpt[report]'"
        ) from error
    makers = (_stored, _cumulative, _restore, _metrics, _changes, _branches)
    return [chart for maker in makers if data.steps and (chart := maker(graph_objects, data)) is not None]


def _label(text: str) -> str:
    """A name from a store as plotly shows it, which takes some HTML for its own."""
    return html.escape(text, quote=False)


def _names(steps: Sequence[StepFigures]) -> list[str]:
    """Short where there is one branch."""
    single = len({step.branch for step in steps}) == 1
    return [str(step.step) if single else _label(step.name) for step in steps]


def _in_order(data: ReportData) -> list[StepFigures]:
    """As they were saved."""
    return sorted(data.steps, key=lambda step: (step.created, step.branch, step.step))


def _layout(**more: Any) -> dict[str, Any]:
    return {
        "height": _HEIGHT,
        "margin": {"l": 56, "r": 16, "t": 8, "b": 44},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "hovermode": "x unified",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 11}},
        "colorway": list(_COLOURS),
        **more,
    }


def _bytes_axis(largest: float, **more: Any) -> dict[str, Any]:
    """An axis of bytes with ticks at round binary sizes."""
    step = 2.0 ** max(0, math.ceil(math.log2(max(1.0, largest / 6))))
    ticks = [step * number for number in range(int(largest / step) + 2)]
    words = [format_size(int(tick)).replace(".0 ", " ") if tick else "0" for tick in ticks]
    return {"tickvals": ticks, "ticktext": words, "automargin": True, **more}


def _category_axis(names: Sequence[str], most: int = 6) -> dict[str, Any]:
    """An axis of steps, with as many labels as there is room for."""
    every = -(-len(names) // most)
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": list(names),
        "tickvals": list(names)[::every],
        "tickangle": 0,
        "title": "step",
    }


def _stored(go: Any, data: ReportData) -> Chart:
    """Bytes per step, stacked by role."""
    steps = _in_order(data)
    names = _names(steps)
    roles = sorted(
        {role for step in steps for role in step.stored_by_role},
        key=lambda role: (_ROLE_ORDER.index(role) if role in _ROLE_ORDER else len(_ROLE_ORDER), role),
    )
    figure = go.Figure()
    for role in roles:
        sizes = [step.stored_by_role.get(role, 0) for step in steps]
        figure.add_bar(
            x=names,
            y=sizes,
            name=_label(role),
            customdata=[format_size(size) for size in sizes],
            hovertemplate="%{customdata}",
            marker_line_width=0,
        )
    keys = [(name, step) for name, step in zip(names, steps, strict=True) if step.is_key]
    top = max(step.stored_bytes for step in steps)
    figure.add_scatter(
        x=[name for name, _ in keys],
        y=[step.stored_bytes + 0.03 * top for _, step in keys],
        name="key step",
        mode="markers",
        marker={"symbol": "triangle-down", "size": 8, "color": _KEY},
        hovertemplate="needs no other",
    )
    figure.update_layout(_layout(barmode="stack", bargap=0.15))
    figure.update_xaxes(_category_axis(names))
    figure.update_yaxes(_bytes_axis(1.08 * top))
    note = "What each step added to the store, by what its tensors are to training. Triangles mark key steps."
    return Chart("stored", "Bytes per step", note, figure.to_plotly_json(), wide=True)


def _cumulative(go: Any, data: ReportData) -> Chart:
    """Raw against stored bytes, added up."""
    steps = _in_order(data)
    names = _names(steps)
    raw, stored = [0], [0]
    for step in steps:
        raw.append(raw[-1] + step.raw_bytes)
        stored.append(stored[-1] + step.stored_bytes)
    figure = go.Figure()
    for name, sizes, colour in (("full copies", raw[1:], _COLOURS[1]), ("this store", stored[1:], _COLOURS[0])):
        figure.add_scatter(
            x=names,
            y=sizes,
            name=name,
            mode="lines",
            line={"color": colour, "width": 2},
            fill="tozeroy",
            customdata=[format_size(size) for size in sizes],
            hovertemplate="%{customdata}",
        )
    figure.update_layout(_layout())
    figure.update_xaxes(_category_axis(names))
    figure.update_yaxes(_bytes_axis(raw[-1]))
    ratio = raw[-1] / max(1, stored[-1])
    note = f"All steps so far: {format_size(raw[-1])} kept in {format_size(stored[-1])}, {ratio:.1f} times less."
    return Chart("cumulative", "Full copies and this store", note, figure.to_plotly_json())


def _metrics(go: Any, data: ReportData) -> Chart | None:
    """Losses and learning rates over steps, one below the other."""
    found: dict[str, None] = {}
    for step in data.steps:
        found.update((name, None) for name, value in step.metrics.items() if _is_number(value))
    chosen = sorted(found, key=lambda name: (_metric_rank(name), name))[:3]
    if not chosen:
        return None
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=len(chosen), cols=1, shared_xaxes=True, vertical_spacing=0.08)
    branches = _branch_order(data)
    for row, name in enumerate(chosen, 1):
        for number, branch in enumerate(branches):
            points = [
                (step.step, step.metrics[name])
                for step in data.steps
                if step.branch == branch and _is_number(step.metrics.get(name))
            ]
            figure.add_scatter(
                x=[step for step, _ in points],
                y=[value for _, value in points],
                name=_label(branch),
                row=row,
                col=1,
                mode="lines+markers",
                marker={"size": 4},
                line={"color": _COLOURS[number % len(_COLOURS)], "width": 2},
                legendgroup=branch,
                showlegend=row == 1 and len(branches) > 1,
                customdata=[format_metric(value) for _, value in points],
                hovertemplate=f"{_label(name)} %{{customdata}}<extra>{_label(branch)}</extra>",
            )
        figure.update_yaxes({"title": _label(name), "nticks": 5}, row=row, col=1)
    figure.update_layout(_layout(height=max(_HEIGHT, 170 * len(chosen))))
    figure.update_xaxes({"title": "step"}, row=len(chosen), col=1)
    return Chart("metrics", "Training", "What was recorded with the steps.", figure.to_plotly_json(), wide=True)


def _metric_rank(name: str) -> int:
    lower = name.lower()
    return 0 if "loss" in lower else 1 if lower in {"lr", "learning_rate"} or lower.endswith("/lr") else 2


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _changes(go: Any, data: ReportData) -> Chart | None:
    """Relative change of each layer from step to step."""
    if not data.pairs:
        return None
    single = len({step.branch for step in data.steps}) == 1
    names = [_label(later.split(":", 1)[1] if single else later) for _, later in data.pairs]
    logs = [[None if not value else math.log10(value) for value in row] for row in data.changes]
    words = [["no value" if value is None else f"{100 * value:.3g}%" for value in row] for row in data.changes]
    common = _common_start(data.layers)
    known = [value for row in logs for value in row if value is not None]
    low, high = (min(known), max(known)) if known else (-1.0, 0.0)
    ticks = list(range(math.floor(low), math.ceil(high) + 1))
    figure = go.Figure(
        go.Heatmap(
            x=names,
            y=[_label(layer.removeprefix(common)) for layer in data.layers],
            z=logs,
            customdata=words,
            colorscale="Cividis",
            zmin=low,
            zmax=max(high, low + 0.1),
            hoverongaps=False,
            hovertemplate="%{y}<br>step %{x}<br>changed by %{customdata}<extra></extra>",
            colorbar={"tickvals": ticks, "ticktext": [f"{100 * 10.0**tick:g}%" for tick in ticks], "thickness": 12},
        )
    )
    figure.update_layout(
        _layout(
            hovermode="closest",
            height=max(_HEIGHT, 90 + 20 * len(data.layers)),
            margin={"l": 8, "r": 8, "t": 8, "b": 44},
        )
    )
    figure.update_xaxes(_category_axis(names))
    figure.update_yaxes({"autorange": "reversed", "automargin": True, "type": "category"})
    note = "Norm of the change since the step before, relative to that of the weights, by layer"
    note += f" of {common.rstrip('.')}." if common else "."
    if len(data.pairs) < data.pairs_in_all:
        note += f" {len(data.pairs)} of {data.pairs_in_all} steps were compared."
    return Chart("changes", "What moves", note, figure.to_plotly_json(), wide=True)


def _common_start(names: Sequence[str]) -> str:
    """What all names begin with, up to a dot."""
    parts = [name.split(".")[:-1] for name in names]
    found = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        found.append(level[0])
    return "".join(part + "." for part in found)


def _restore(go: Any, data: ReportData) -> Chart:
    """What it costs to get a step back."""
    steps = _in_order(data)
    names = _names(steps)
    sizes = [step.restore_bytes for step in steps]
    figure = go.Figure()
    figure.add_bar(
        x=names,
        y=sizes,
        name="bytes to read",
        marker={"color": _COLOURS[4], "line": {"width": 0}},
        customdata=[format_size(size) for size in sizes],
        hovertemplate="%{customdata}",
    )
    figure.add_scatter(
        x=names,
        y=[step.depth for step in steps],
        name="depth",
        yaxis="y2",
        mode="lines",
        line={"color": _KEY, "width": 2, "shape": "hvh"},
        hovertemplate="%{y} records deep",
    )
    deepest = max(step.depth for step in steps)
    figure.update_layout(
        _layout(
            margin={"l": 56, "r": 44, "t": 8, "b": 44},
            yaxis=_bytes_axis(max(sizes)),
            yaxis2={
                "overlaying": "y",
                "side": "right",
                "range": [0, 1.1 * deepest],
                "showgrid": False,
                "dtick": -(-deepest // 6),
                "title": "depth",
            },
        )
    )
    figure.update_xaxes(_category_axis(names))
    note = (
        "What a full restore of each step reads, and how many records lie between its deepest block and a key record."
    )
    return Chart("restore", "Getting a step back", note, figure.to_plotly_json())


def _branches(go: Any, data: ReportData) -> Chart:
    """Which step came from which."""
    lanes = {branch: lane for lane, branch in enumerate(_branch_order(data))}
    places = {step.name: (step.step, lanes[step.branch]) for step in data.steps}
    figure = go.Figure()
    for number, branch in enumerate(lanes):
        steps = [step for step in data.steps if step.branch == branch]
        colour = _COLOURS[number % len(_COLOURS)]
        xs: list[int | None] = []
        ys: list[int | None] = []
        for start, end in _links(steps, places):
            xs += [start[0], end[0], None]
            ys += [start[1], end[1], None]
        figure.add_scatter(
            x=xs, y=ys, mode="lines", line={"color": colour, "width": 2}, hoverinfo="skip", showlegend=False
        )
        figure.add_scatter(
            x=[step.step for step in steps],
            y=[lanes[branch]] * len(steps),
            mode="markers",
            name=_label(branch),
            marker={
                "color": colour,
                "size": [9 if step.is_key else 6 for step in steps],
                "symbol": ["diamond" if step.is_key else "circle" for step in steps],
            },
            customdata=[_words(step) for step in steps],
            hovertemplate="%{customdata[0]}, %{customdata[1]}, %{customdata[2]}<extra></extra>",
            showlegend=False,
        )
    figure.update_layout(_layout(hovermode="closest", height=110 + 34 * len(lanes)))
    figure.update_xaxes({"title": "step"})
    figure.update_yaxes(
        {
            "tickvals": list(lanes.values()),
            "ticktext": [_label(branch) for branch in lanes],
            "automargin": True,
            "range": [len(lanes) - 0.4, -0.6],
            "showgrid": False,
            "zeroline": False,
        }
    )
    return Chart("branches", "Branches", "Diamonds are key steps.", figure.to_plotly_json(), wide=True)


def _words(step: StepFigures) -> list[str]:
    return [_label(step.name), "key step" if step.is_key else "delta", format_size(step.stored_bytes)]


def _branch_order(data: ReportData) -> list[str]:
    """Main first, then by the time of the first step."""
    first: dict[str, str] = {}
    for step in _in_order(data):
        first.setdefault(step.branch, step.created)
    return sorted(first, key=lambda branch: (branch != "main", first[branch], branch))


def _links(
    steps: Sequence[StepFigures], places: Mapping[str, tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    for step in steps:
        if step.parent is not None and step.parent in places:
            yield places[step.parent], places[step.name]
