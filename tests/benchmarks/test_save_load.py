"""The benchmark of saving and loading measures everything, and checks what it loads. Figures are not tested."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pytest

from benchmarks import save_load
from benchmarks.save_load_peers import PEERS, Throttle


def test_all_peers_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    options = ["--sizes", "300KB", "--ranks", "1", "--repeats", "1", "--rates", "50MB", "--folder", str(tmp_path)]
    save_load.main([*options, "--json", str(out)])
    (row,) = json.loads(out.read_text())
    assert set(row["peers"]) == set(PEERS)
    assert all(value >= 0 for found in row["peers"].values() for value in found.values())
    assert row["raw"] > 290_000
    ours, files = row["peers"]["deltackpt"], row["peers"]["FileSystemWriter"]
    assert ours["delta bytes"] < ours["key bytes"] < files["delta bytes"]
    assert set(row["throttled"][0]) == {"rate", "deltackpt", "FileSystemWriter"}
    assert "through a throttle" in capsys.readouterr().out
    # Nothing is left of what was saved.
    assert list(tmp_path.iterdir()) == [out]


def test_a_throttle_makes_bytes_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "perf_counter", lambda: 10.0)
    monkeypatch.setattr(time, "sleep", pauses.append)
    throttle = Throttle(100.0)
    for nbytes in (50, 200):
        throttle.wait(nbytes)
    assert pauses == [0.5, 2.5]


def test_sizes() -> None:
    assert save_load.parse_size("1.5GB") == 1_500_000_000
    with pytest.raises(argparse.ArgumentTypeError, match="'12' is not a size"):
        save_load.parse_size("12")
