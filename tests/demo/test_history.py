"""The benchmark of histories, with sizes that take seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import history


def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "plot", lambda results, out: None)
    assert history.main(["--small", "--steps", "6", "--interval", "2", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "history.json").read_text())
    assert [(r["policy"], r["key_every"]) for r in found["results"]] == [
        *((policy, every) for every in (4, 8) for policy in ("previous", "skip", "anchor", "auto")),
        ("repack, depth 8", 8),
    ]
    assert all(r["stored"] > 0 and min(r["restore"]) > 0 for r in found["results"])
    assert "repack, depth 8" in capsys.readouterr().out
    # The run is trained once.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trajectory/*/*")}
    assert history.main(["--small", "--steps", "6", "--interval", "2", "--out", str(tmp_path)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("trajectory/*/*")}


def test_the_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = [history.Result(policy, 8, 1000, 3, (0.1, 0.2, 0.3), 1.0) for policy in ("previous", "skip")]
    history.plot(results, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.png", "history.svg"]
