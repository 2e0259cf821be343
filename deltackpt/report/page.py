"""The page of a report: one HTML file with everything in it, that neither asks the network nor may."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from importlib import resources

from deltackpt.errors import MissingPackageError
from deltackpt.report.charts import Chart, make_charts
from deltackpt.report.data import ReportData, StepFigures
from deltackpt.text import count, format_metric, format_size

__all__ = ["render_page"]

# Nothing is loaded from anywhere, whatever a name in the store may try.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


def render_page(data: ReportData) -> str:
    """The report as one HTML document, about 5 MB of which are the library that draws the charts.

    Raises:
        MissingPackageError: plotly is not installed.
    """
    charts = make_charts(data)
    figures = [{"name": c.name, "data": c.figure["data"], "layout": _plain_layout(c)} for c in charts]
    title = f"deltackpt: {data.url}"
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<link rel="icon" href="data:,">',
            f"<title>{_text(title)}</title>",
            f"<style>\n{_resource('page.css')}</style>",
            f"<script>{_library()}</script>" if charts else "",
            "</head>",
            "<body>",
            *_head(data),
            *_advice(data),
            '<main class="charts">',
            *(_section(chart) for chart in charts),
            "</main>",
            *_table(data.steps),
            *_damaged(data),
            f'<footer class="quiet">{_text(f"Made by deltackpt {data.version}, {data.created}.")}</footer>',
            f'<script type="application/json" id="charts">{_json(figures)}</script>',
            f"<script>\n{_resource('page.js')}</script>" if charts else "",
            "</body>",
            "</html>",
            "",
        )
    )


def _plain_layout(chart: Chart) -> dict[str, object]:
    """Without plotly's template: 6 KB of defaults that the page replaces."""
    return {name: value for name, value in chart.figure["layout"].items() if name != "template"}


def _head(data: ReportData) -> Iterable[str]:
    keys = sum(step.is_key for step in data.steps)
    raw, stored = data.raw_bytes, data.stored_bytes
    branches = len({step.branch for step in data.steps})
    facts = (
        (f"{len(data.steps):,}", f"steps, {keys} of them key steps"),
        (f"{branches:,}", "branch" if branches == 1 else "branches"),
        (format_size(raw), "of tensors and objects"),
        (format_size(stored), "stored"),
        (f"{raw / stored:.2f}x" if stored else "-", "smaller than full copies"),
        (format_size(stored // max(1, len(data.steps))), "a step, on average"),
    )
    yield f'<header><h1>{_text(data.url)}</h1><p class="quiet">store {_text(data.store_id)}</p></header>'
    yield '<section class="facts">'
    yield from (f'<div class="fact"><b>{_text(value)}</b>{_text(words)}</div>' for value, words in facts)
    yield "</section>"


def _advice(data: ReportData) -> Iterable[str]:
    if data.advice:
        items = "".join(f"<li>{_text(line)}</li>" for line in data.advice)
        yield f'<section class="advice"><h2>Advice</h2><ul>{items}</ul></section>'


def _section(chart: Chart) -> str:
    wide = " wide" if chart.wide else ""
    return (
        f'<section class="chart{wide}"><h2>{_text(chart.title)}</h2><p class="quiet">{_text(chart.note)}</p>'
        f'<div class="plot" id="{chart.name}" role="img" aria-label="{_text(chart.title)}"></div></section>'
    )


def _table(steps: Sequence[StepFigures]) -> Iterable[str]:
    yield f"<details><summary>All figures: {_text(count(len(steps), 'step'))}</summary>"
    yield '<div class="scroll"><table><thead><tr><th>step</th><th class="left">created</th><th class="left">kind</th>'
    yield "<th>depth</th><th>raw</th><th>stored</th><th>ratio</th><th>to restore</th>"
    yield '<th class="left">metrics</th></tr></thead><tbody>'
    for step in steps:
        metrics = ", ".join(f"{name}={format_metric(value)}" for name, value in step.metrics.items())
        ratio = f"{step.raw_bytes / step.stored_bytes:.2f}x" if step.stored_bytes else "-"
        cells = (
            f"<td>{_text(step.name)}</td>",
            f'<td class="left">{_text(step.created)}</td>',
            f'<td class="left">{"key" if step.is_key else "delta"}</td>',
            f"<td>{step.depth}</td>",
            f"<td>{format_size(step.raw_bytes)}</td>",
            f"<td>{format_size(step.stored_bytes)}</td>",
            f"<td>{ratio}</td>",
            f"<td>{format_size(step.restore_bytes)}</td>",
            f'<td class="left">{_text(metrics)}</td>',
        )
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div></details>"


def _damaged(data: ReportData) -> Iterable[str]:
    if data.damaged:
        items = "".join(f"<li>{_text(step.name)}: {_text(str(step.error))}</li>" for step in data.damaged)
        yield f'<section class="advice"><h2>Steps that cannot be read</h2><ul>{items}</ul></section>'


def _text(text: str) -> str:
    """Text for HTML, also in attributes: names in a store may come from anybody."""
    return html.escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


def _json(value: object) -> str:
    """JSON that may stand in a script element: nothing in it ends one."""
    from plotly.utils import PlotlyJSONEncoder

    return json.dumps(value, cls=PlotlyJSONEncoder, separators=(",", ":")).replace("<", "\\u003c")


def _resource(name: str) -> str:
    return (resources.files("deltackpt.report") / name).read_text(encoding="utf-8")


def _library() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingPackageError(
            "a report needs the package plotly", hint="install it: pip install 'deltackpt[report]'"
        ) from error
    found: str = get_plotlyjs()
    return found
