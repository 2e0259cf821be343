"""The figures of the demo in the README are those of a recorded run, and of nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.demo_readme import FIGURES, PAGES, updated

COLUMNS = ("key steps", "deltas over 1 step", "deltas over 5 steps")
ROWS = ("model: fp32 weights", "optim: fp32 moments", "train: bf16 weights", "everything")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_say_what_was_recorded(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert updated(page, json.loads(FIGURES.read_text())) == page


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_figure_is_replaced(path: Path) -> None:
    shares = {column: dict.fromkeys(ROWS, 0.0123) for column in COLUMNS}
    figures = {"stored_of_raw": shares, "seconds": 987, "training_steps": 654, "raw_bytes": 321 << 20}
    page = updated(path.read_text(encoding="utf-8"), figures)
    assert page.count("1.2%") == 12
    assert page.count("| **1.2%** |") == 1
    assert all(page.count(str(number)) == 1 for number in (987, 654, 321))


def test_other_pages_are_refused() -> None:
    with pytest.raises(ValueError, match="no table"):
        updated("nothing", {})
