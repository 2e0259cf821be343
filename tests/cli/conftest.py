from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from deltackpt import Store
from deltackpt.cli.main import main
from tests.cli.helpers import Ran, Run, save


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process."""

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def saved_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of steps 100, 200 and 300 on main, each based on the one before, and 250 on the branch tuned."""
    path = tmp_path_factory.mktemp("saved") / "store"
    store = Store.create(path, chain="previous", key_every=16)
    save(store, 100, metrics={"loss": 2.5, "lr": 1e-3})
    save(store, 200, metrics={"loss": math.nan, "worst": math.inf, "best": -math.inf})
    save(store, 300, metrics={"loss": 1.25, "note": "warm [bold]", "done": True, "eval": None})
    save(store, 250, branch="tuned", metrics={"loss": 1})
    return path


@pytest.fixture
def store(saved_store: Path, tmp_path: Path) -> Path:
    """A copy of ``saved_store`` that a test may damage."""
    return Path(shutil.copytree(saved_store, tmp_path / "store"))


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the developer's terminal and settings reaches a test."""
    for name in (
        "COLUMNS",
        "DELTACKPT_DEBUG",
        "FORCE_COLOR",
        "NO_COLOR",
        "PYTHONUNBUFFERED",
        "TTY_COMPATIBLE",
        "TTY_INTERACTIVE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
