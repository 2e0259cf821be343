"""The benchmark of histories, with sizes that take seconds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import history, history_plot


def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "plot", lambda results, out: None)
    arguments = ["--small", "--steps", "6", "--interval", "2", "1", "--out", str(tmp_path)]
    assert history.main(arguments) == 0
    found = json.loads((tmp_path / "history.json").read_text())
    policies = ("previous", "anchor", "skip", "auto")
    assert [(r["interval"], r["policy"], r["key_every"]) for r in found["results"]] == [
        *((2, policy, every) for every in (4, 8) for policy in policies),
        (2, "repack, depth 8", 8),
        *((1, policy, 8) for policy in policies),
        (1, "repack, depth 8", 8),
    ]
    assert all(r["stored"] > 0 and min(r["restore"]) > 0 for r in found["results"])
    said = capsys.readouterr().out
    assert said.count("(goal ") == 4
    # The run is trained once.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trajectory/*/*")}
    assert len(before) == 2 * (6 + 1)
    assert history.main(arguments) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("trajectory/*/*")}


def test_a_step_that_is_not_what_was_saved_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    states = [{"w": np.full(8, step, np.float32)} for step in range(3)]
    monkeypatch.setattr(history, "read_states", lambda course, cache: iter(states))
    monkeypatch.setattr(history, "state_bytes", lambda state: {"w": (state["w"] + (state["w"] == 2)).tobytes()})
    with pytest.raises(AssertionError, match="step 2 is not what was saved"):
        history.run(history.Settings(restores=1, key_every=(4,)), tmp_path, Console(quiet=True))


def test_the_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = [
        history.Result(interval, policy, 8, 1000, 3, (0.1, 0.2, 0.3), 1.0, 2.0)
        for interval in (10, 1)
        for policy in ("previous", "skip")
    ]
    history_plot.plot([asdict(result) for result in results], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.png", "history.svg"]
