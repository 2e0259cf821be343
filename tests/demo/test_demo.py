from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner

from benchmarks import demo, demo_run
from benchmarks.demo_run import RunLog
from deltackpt import Store
from deltackpt.dcp import DeltaStorageWriter
from deltackpt.errors import BackendError

EQUAL = "equal, bit for bit"


@pytest.fixture(autouse=True)
def torch_settings() -> Iterator[None]:
    threads, algorithms = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(algorithms)


def _run(out: Path, *options: str) -> int:
    return demo.main(["--quick", "--seed", "7", "--out", str(out), *options])


def test_the_quick_demo_proves_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, figures = tmp_path / "demo", tmp_path / "demo.json"
    assert _run(out, "--json", str(figures)) == 0
    text = capsys.readouterr().out
    for column in json.loads(figures.read_text())["stored_of_raw"].values():
        assert f"{column['everything']:.1%}" in text
    # Three restores, the losses of two continuations, and the state after them.
    assert text.count(EQUAL) == 6
    assert "NOT EQUAL" not in text
    assert max(map(len, text.splitlines())) <= 100

    steps = demo_run.save_steps(demo.QUICK.steps, demo.QUICK.save_every, demo.QUICK.stretch)
    infos = Store.open(out / "store").steps()
    assert sorted(info.step for info in infos) == steps
    assert all(set(info.metrics) == {"loss", "lr"} for info in infos)
    assert any(info.is_key for info in infos)
    assert not all(info.is_key for info in infos)
    rows = [line.split() for line in text.splitlines() if " key  " in line or " delta  " in line]
    assert [row[:2] for row in rows] == [
        [str(step), f"+{step - before}"] for before, step in zip([0, *steps[:-1]], steps, strict=True)
    ]


@pytest.mark.parametrize("broken", ["tensor", "loss"])
def test_what_is_not_exact_fails_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    train = demo_run.train

    def remembers_wrongly(*arguments: Any) -> RunLog:
        log = train(*arguments)
        if broken == "tensor":
            for digests in log.digests.values():
                digests["model.blocks.1.up.bias"] = "0" * 64
        else:
            log.losses = {step: loss * (1 + 2**-52) for step, loss in log.losses.items()}
        return log

    monkeypatch.setattr(demo_run, "train", remembers_wrongly)
    assert _run(tmp_path / "demo") == 1
    text = capsys.readouterr().out
    assert "NOT EQUAL" in text
    assert ("model.blocks.1.up.bias: not the same" in text) == (broken == "tensor")
    assert ("losses by dcp.load: NOT EQUAL" in text) == (broken == "loss")
    assert "not restored exactly" in text


def test_a_failed_save_ends_the_demo_with_its_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data = DeltaStorageWriter.write_data
    saves: list[int] = []

    def fails_at_the_third(self: DeltaStorageWriter, plan: SavePlan, planner: SavePlanner) -> Any:
        saves.append(len(plan.items))
        if len(saves) == 3:
            raise BackendError("no space left on the device", where="packs/ab[1]")
        return write_data(self, plan, planner)

    monkeypatch.setattr(DeltaStorageWriter, "write_data", fails_at_the_third)
    out = tmp_path / "demo"
    assert _run(out) == BackendError.exit_code
    assert "packs/ab[1]: no space left on the device" in capsys.readouterr().out
    assert [info.step for info in Store.open(out / "store").steps()] == demo_run.save_steps(20, 4, 4)[:2]


def test_only_a_folder_of_the_demo_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    assert _run(mine) == 2
    assert "--out" in capsys.readouterr().out
    assert (mine / "notes.txt").read_text() == "keep"

    (mine / ".deltackpt-demo").write_text("")
    assert _run(mine, "--steps", "12") == 0
    assert not (mine / "notes.txt").exists()
    assert (mine / "store").is_dir()


def test_a_full_disk_is_noticed_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    assert _run(tmp_path / "demo") == 2
    assert "free space" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("options", [("--steps", "3"), ("--save-every", "30")])
def test_too_few_steps_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, str]
) -> None:
    assert _run(tmp_path / "demo", *options) == 2
    assert "too few" in capsys.readouterr().out
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("options", [("--steps", "0"), ("--save-every", "-1"), ("--steps", "many")])
def test_numbers_must_be_positive(tmp_path: Path, options: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _run(tmp_path, *options)
    assert ended.value.code == 2


def test_the_schedule_has_a_stretch_of_single_steps() -> None:
    assert demo_run.save_steps(20, 5, 3) == [5, 10, 11, 12, 13, 15, 20]
    assert demo_run.save_steps(23, 5, 2) == [5, 10, 11, 12, 15, 20, 23]
    assert demo_run.save_steps(4, 1, 9) == [1, 2, 3, 4]
    full = demo_run.save_steps(demo.FULL.steps, demo.FULL.save_every, demo.FULL.stretch)
    middle = demo_run.middle_step(demo.FULL.steps, demo.FULL.save_every)
    assert middle in full
    assert middle + demo.FULL.repeat in full
