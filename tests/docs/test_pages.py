"""The Python examples of the pages work, one after another, and so do the commands between them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from deltackpt.cli.main import main

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
    assert lines[2].startswith("2000 []")


@pytest.mark.parametrize("page", ["restore.md", "reading.md"])
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
