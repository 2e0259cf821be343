"""The benchmark of files measures all that is installed, and compares what comes back. Figures are not tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import files
from benchmarks.file_peers import PEERS
from benchmarks.olmo_run import TINY, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run", run=TINY, checkpoints=3, every=1)
    return tmp_path / "run"


def test_the_store_is_measured_beside_others(run: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    chunks = [peer for peer in PEERS if not peer.needs]
    rows = files.measure_run(run, tmp_path / "work", chunks)
    assert [row.name for row in rows] == ["deltackpt", *(peer.name for peer in chunks)]
    assert len({row.raw for row in rows}) == 1
    assert rows[0].stored < rows[1].stored < rows[1].raw
    assert rows[0].out_wall is not None
    assert rows[0].out_slowest is not None
    assert rows[0].out_slowest >= rows[0].out_wall
    # Nothing is left of what was made.
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_all_peers_are_measured(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    (tmp_path / "work").mkdir()
    files.main([str(run), "--folder", str(tmp_path / "work"), "--json", str(out)])
    rows = json.loads(out.read_text())
    assert [row["name"] for row in rows] == ["deltackpt", *(peer.name for peer in PEERS if peer.is_installed())]
    assert all(row["stored"] > 0 and row["in_wall"] > 0 for row in rows)
    assert "| deltackpt |" in capsys.readouterr().out
    assert not list((tmp_path / "work").iterdir())
