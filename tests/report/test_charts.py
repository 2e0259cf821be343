from __future__ import annotations

from typing import Any

import pytest

from deltackpt.report.charts import Chart, make_charts
from deltackpt.report.data import METADATA
from tests.report.made import made, step


def charts() -> dict[str, Chart]:
    return {chart.name: chart for chart in make_charts(made())}


def traces(chart: Chart) -> dict[str, Any]:
    return {trace["name"]: trace for trace in chart.figure["data"] if trace.get("name")}


def test_there_is_a_chart_for_each_question() -> None:
    assert list(charts()) == ["stored", "cumulative", "restore", "metrics", "changes", "branches"]


def test_the_bars_of_a_step_add_up_to_what_it_stored() -> None:
    found = traces(charts()["stored"])
    bars = {name: trace for name, trace in found.items() if trace["type"] == "bar"}
    assert list(bars) == ["weight", "exp_avg", METADATA, "odd role"]
    in_order = sorted(made().steps, key=lambda s: (s.created, s.branch))
    assert [sum(sizes) for sizes in zip(*(bar["y"] for bar in bars.values()), strict=True)] == [
        s.stored_bytes for s in in_order
    ]
    assert list(found["key step"]["x"]) == ["main:1"]


def test_sums_grow_to_the_totals() -> None:
    found = traces(charts()["cumulative"])
    assert found["full copies"]["y"][-1] == made().raw_bytes
    assert found["this store"]["y"][-1] == made().stored_bytes


def test_only_numbers_are_drawn_and_losses_first() -> None:
    layout = charts()["metrics"].figure["layout"]
    titles = [layout[name]["title"]["text"] for name in ("yaxis", "yaxis2")]
    assert titles == ["val/loss", "lr"]
    assert "yaxis3" not in layout


def test_what_did_not_change_has_no_colour() -> None:
    chart = charts()["changes"]
    (heat,) = chart.figure["data"]
    assert [list(row) for row in heat["z"]] == [[-1.0, -2.0], [None, None], [pytest.approx(-5), pytest.approx(0.30103)]]
    assert list(heat["y"][:2]) == ["h.0", "h.1"]
    assert "2 of 4 steps" in chart.note


def test_lines_join_steps_and_the_steps_they_came_from() -> None:
    chart = charts()["branches"]
    lines = [trace for trace in chart.figure["data"] if trace["mode"] == "lines"]
    # main, the branch with the odd name and tuned, each in its own lane; the parent of one is gone.
    assert [list(line["x"]) for line in lines] == [[1, 2, None, 2, 3, None], [2, 3, None], []]
    assert lines[1]["y"][0] == 0


def test_a_store_without_steps_has_no_charts() -> None:
    assert make_charts(made(())) == []


def test_names_are_short_where_there_is_one_branch() -> None:
    (first, *_) = make_charts(made((step(1, key=True), step(2, parent="main:1"))))
    assert list(traces(first)["weight"]["x"]) == ["1", "2"]
