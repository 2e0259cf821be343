"""All benchmarks together: each is started as it wants to be, and the pages say what they found and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import all as everything
from benchmarks import benchmarks_page, scaling_page

DOCS = Path(__file__).parents[2] / "docs"


def test_pages_are_of_the_figures_beside_them() -> None:
    kept = DOCS / "benchmarks.json"
    if not kept.exists():
        pytest.skip("no figures are kept")
    found = json.loads(kept.read_text())
    assert (DOCS / "benchmarks.md").read_text() == benchmarks_page.render(found)
    if "scaling" in found:
        assert (DOCS / "scaling.md").read_text() == scaling_page.render(found["scaling"]["figures"])


@pytest.mark.parametrize("name", everything.BENCHMARKS)
@pytest.mark.parametrize("size", everything.SIZES)
def test_every_command_is_one(name: str, size: str) -> None:
    benchmark = everything.BENCHMARKS[name]
    last = benchmark.commands[size][-1]
    assert re.match(rf"benchmarks\.{name} ", last)
    assert all(word.count("{out}") <= 1 for word in last.split())


def test_one_of_them(tmp_path: Path) -> None:
    ran: list[Sequence[str]] = []

    def start(words: Sequence[str]) -> None:
        ran.append(words)
        everything.run_command(words)

    options = ["--tiny", "--only", "files", "--out", str(tmp_path / "out"), "--docs", str(tmp_path)]
    assert everything.main(options, start) == 0
    assert [words[0] for words in ran] == ["benchmarks.olmo_run", "benchmarks.files"]
    kept = json.loads((tmp_path / "benchmarks.json").read_text())
    assert set(kept) == {"files"}
    assert set(kept["files"]) == {"size", "machine", "versions", "commit", "figures"}
    page = (tmp_path / "benchmarks.md").read_text()
    assert "| deltackpt | " in page
    assert f"commit {kept['files']['commit']}" in page


def test_figures_of_others_stay(tmp_path: Path) -> None:
    costs = [
        {"run": "a run", "program": name, "interval": n, "bits": 8.0 / n, "ratio": 2.0, "parameters": 10**6}
        for name in ("deltackpt", "torch.save")
        for n in (1, 10)
    ]
    machine = {"processor": "a processor", "cores": 2, "memory": 10**9, "platform": "here"}
    versions = {"python": "3", "torch": "2", "numpy": "2"}
    one = {"size": "quick", "machine": machine, "versions": versions, "commit": "abc"}
    (tmp_path / "benchmarks.json").write_text(
        json.dumps({"intervals": {**one, "figures": {"key_every": 16, "costs": costs}}})
    )
    row = {"policy": "skip", "key_every": 8, "stored": 10**6, "depth": 3, "restore": [0.1, 0.2, 0.3], "save": 1.0}

    def start(words: Sequence[str]) -> None:
        out = Path(words[words.index("--out") + 1])
        (out / "history.json").write_text(json.dumps({"settings": {"steps": 8, "interval": 2}, "results": [row]}))

    options = ["--tiny", "--only", "history", "--out", str(tmp_path / "out"), "--docs", str(tmp_path)]
    assert everything.main(options, start) == 0
    page = (tmp_path / "benchmarks.md").read_text()
    assert "| deltackpt | 8.00 (2.00x) | 0.80 (2.00x) |" in page
    assert "| skip | 8 | 1.0 MB | 3 | 100 ms | 200 ms | 300 ms |" in page
    before = page
    assert everything.main(["--render", "--docs", str(tmp_path)], start) == 0
    assert (tmp_path / "benchmarks.md").read_text() == before


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        everything.main(["--only", "nothing", "--docs", str(tmp_path)])
    assert not list(tmp_path.iterdir())
