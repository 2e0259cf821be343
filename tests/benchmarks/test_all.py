"""All benchmarks together: each is started as it wants to be, and the pages say what they found and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks import all as everything
from benchmarks import benchmarks_page, page, scaling_page

DOCS = Path(__file__).parents[2] / "docs"


def test_pages_are_of_the_figures_beside_them() -> None:
    kept = DOCS / "benchmarks.json"
    if not kept.exists():
        pytest.skip("no figures are kept")
    found = json.loads(kept.read_text())
    assert (DOCS / "benchmarks.md").read_text() == benchmarks_page.render(found)
    if "scaling" in found:
        scaling = found["scaling"]
        assert (DOCS / "scaling.md").read_text() == scaling_page.render(scaling["figures"], page.origin(scaling))


@pytest.mark.parametrize("name", everything.BENCHMARKS)
@pytest.mark.parametrize("size", everything.SIZES)
def test_every_command_is_one(name: str, size: str) -> None:
    benchmark = everything.BENCHMARKS[name]
    assert re.match(rf"benchmarks\.{name} ", benchmark.commands[size])
    for command in (benchmark.commands[size], *filter(None, [benchmark.prepare.get(size)])):
        module, *words = command.format(out="OUT", cache="CACHE").split()
        assert find_spec(module) is not None
        assert "CACHE" in words or size not in benchmark.prepare


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_one_of_them(tmp_path: Path) -> None:
    ran: list[str] = []

    def start(words: Sequence[str]) -> None:
        ran.append(words[0])
        assert import_module(words[0]).main(words[1:]) == 0

    options = ["--tiny", "--only", "intervals", "--out", str(tmp_path / "out"), "--docs", str(tmp_path)]
    assert everything.main(options, start) == 0
    assert ran == 2 * ["benchmarks.intervals"]
    kept = json.loads((tmp_path / "benchmarks.json").read_text())
    assert set(kept) == {"intervals"}
    assert set(kept["intervals"]) == {"size", "machine", "versions", "commit", "seconds", "figures"}
    page = " ".join((tmp_path / "benchmarks.md").read_text().split())
    assert "| deltackpt | " in page
    assert f"commit {kept['intervals']['commit']}" in page
    if find_spec("matplotlib") is not None:
        for image in re.findall(r"\(images/(\S+)\.png\)", page):
            assert (tmp_path / "images" / f"{image}.png").exists()


def test_commands_have_a_process_of_their_own() -> None:
    everything.run_command(["platform"])
    with pytest.raises(subprocess.CalledProcessError):
        everything.run_command(["platform.nothing"])


def interval_costs() -> list[dict[str, Any]]:
    run = {"size": "1M", "optimizer": "adamw", "precision": "fp32", "regime": "late", "base": 9, "batch": 2}
    return [
        {**run, "program": name, "interval": n, "parameters": 10**6, "raw": 12 * 10**6, "key": 9, "delta": [9, 9, 9]}
        | {"by_role": {"weight": 9} if name == "deltackpt" else {}, "step": step, "per_thousand": 1000 / n * step}
        | {"per_parameter": step / 10**6, "ratio": 12e6 / step}
        for name, step in (("deltackpt", 6e6), ("torch.save", 12e6))
        for n in (1, 10)
    ]


def kept(**figures: object) -> dict[str, Any]:
    machine = {"processor": "a processor", "cores": 2, "memory": 10**9, "platform": "here"}
    versions = {"python": "3", "torch": "2", "numpy": "2"}
    circumstances = {"size": "quick", "machine": machine, "versions": versions, "commit": "abc", "seconds": 90}
    return {name: {**circumstances, "figures": one} for name, one in figures.items()}


def test_figures_of_others_stay(tmp_path: Path) -> None:
    found = kept(intervals={"key_every": 16, "costs": interval_costs()})
    everything.write_figures(tmp_path / "benchmarks.json", found)
    assert json.loads((tmp_path / "benchmarks.json").read_text()) == found

    def start(words: Sequence[str]) -> None:
        if words[0] == "benchmarks.codecs" and "--train" not in words:
            raise subprocess.CalledProcessError(3, words)
        if words[0] == "benchmarks.files":
            Path(words[words.index("--json") + 1]).write_text(json.dumps([FILES]))

    options = ["--tiny", "--only", "codecs,files", "--out", str(tmp_path / "out"), "--docs", str(tmp_path)]
    assert everything.main(options, start) == 1  # and what comes after it was run
    assert set(json.loads((tmp_path / "benchmarks.json").read_text())) == {"intervals", "files"}
    page = (tmp_path / "benchmarks.md").read_text()
    assert "| 1M, AdamW, fp32: late, decayed rate | **2.00** / 1.00 | **2.00** / 1.00 |" in page
    assert "| deltackpt | 1.0 | 2.000 | 4 | 0.2 | 2 |" in page
    assert everything.main(["--render", "--docs", str(tmp_path)], start) == 0
    assert (tmp_path / "benchmarks.md").read_text() == page


FILES = {"name": "deltackpt", "raw": 2e6, "stored": 1e6, "in_wall": 0.5, "in_cpu": 0.2, "out_bytes": 1e6}
FILES |= {"out_wall": 0.5, "out_cpu": 0.1}


def test_preparing_trains_and_measures_nothing(tmp_path: Path) -> None:
    ran: list[str] = []
    options = ["--full", "--prepare", "--out", str(tmp_path), "--docs", str(tmp_path), "--cache", str(tmp_path / "c")]
    assert everything.main(options, lambda words: ran.append(" ".join(words))) == 0
    assert ran == [
        f"benchmarks.codecs --cache {tmp_path}/c/codecs/full --train",
        f"benchmarks.intervals --cache {tmp_path}/c/intervals/full --train --full",
        f"benchmarks.olmo_run {tmp_path}/c/files/full",
    ]
    assert not (tmp_path / "benchmarks.json").exists()


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        everything.main(["--only", "nothing", "--docs", str(tmp_path)])
    assert not list(tmp_path.iterdir())
