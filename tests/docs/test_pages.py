"""The Python examples of the pages work, one after another, and so do the commands between them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from deltackpt import schedule
from deltackpt.cli.main import main
from deltackpt.store.config import parse_config

DOCS = Path(__file__).parents[2] / "docs"


def run_page(page: str) -> None:
    """Run the blocks of a page in order, in the current folder."""
    text = (DOCS / page).read_text(encoding="utf-8")
    namespace = {"__name__": "example"}
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        language, block = found[1], found[2]
        if language == "python":
            exec(compile(block, page, "exec"), namespace)  # noqa: S102 - of this repository
        elif language == "bash":
            for words in filter(None, (shlex.split(line, comments=True) for line in block.splitlines())):
                assert words[0] == "deltackpt", words
                assert main(words[1:]) == 0, words


def test_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    run_page("training.md")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a new run"
    full = ["model", "optim", "train"]
    assert lines[1] == str([(100, full), (200, ["model", "train"]), (300, ["model", "train"])])
    assert lines[2] == str([100, 200, 225, 250])
    assert lines[3] == "1000 [(1100, 'it was saved without optim')]"


def test_the_configuration_of_the_page_is_one() -> None:
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    config = parse_config(example.encode(), source="training.md")
    assert config.options == {"key_every": 32, "pack_bytes": 128 << 20}
    assert config.contents is not None
    assert list(config.contents) == ["model", "optim"]


def test_the_rules_of_the_page_are_rules() -> None:
    """Each row of the table has the same schedule twice."""
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .+ \| `(.+)` \| `(\{.+\})` \|$", text, re.MULTILINE)
    assert len(rows) == 8
    for code, written in rows:
        rule = eval(code.replace(r"\|", "|"), vars(schedule))  # noqa: S307 - of this repository
        assert schedule.parse_schedule(yaml.safe_load(written)) == rule


@pytest.mark.parametrize("page", ["restore.md", "reading.md", "watch.md", "estimate.md"])
def test_getting_files_out(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DELTACKPT_CACHE", "")  # a page may set it
    run_page(page)


def test_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    run_page("history.md")
    layer, same, duplicates = capsys.readouterr().out.splitlines()
    assert layer == "model.layers.0 2 0.5 8.0 1.0 1.0"
    assert (same, duplicates) == ("['model.layers.0.frozen']", "1")


def test_dcp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page("dcp.md")


def test_retention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page("retention.md")
