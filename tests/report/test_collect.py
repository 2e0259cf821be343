"""What a report says of a real store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deltackpt import Store
from deltackpt.cli.main import main
from deltackpt.errors import BackendError, CorruptObjectError
from deltackpt.report.data import METADATA, ReportData, collect
from deltackpt.testing.arrays import State, Stored, save_step
from deltackpt.testing.faults import flip_bits


def state(number: int) -> State:
    rng = np.random.default_rng(0)
    layers = {f"model.h.{n}.w": rng.standard_normal((16, 16)).astype(np.float32) for n in range(2)}
    layers["model.h.1.w"] = layers["model.h.1.w"] * np.float32(1 + 0.01 * number)
    moment = Stored(rng.standard_normal((16, 16)).astype(np.float32) + number, artifact="optim", role="exp_avg")
    return {**layers, "optim.state.0.exp_avg": moment}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.create(tmp_path / "store", chain="previous", key_every=3)
    for step in range(5):
        save_step(made.opened, state(step), step=step, metrics={"loss": 1.0 / (step + 1)})
    return made


def collected(store: Store, pairs: int = 24) -> ReportData:
    return collect(store, created="2026-01-01T00:00:00+00:00", version="0", pairs=pairs)


def test_bytes_are_those_that_the_store_tells(store: Store) -> None:
    data = collected(store)
    infos = store.steps()
    assert [step.stored_bytes for step in data.steps] == [info.stored_bytes for info in infos]
    for step in data.steps:
        assert sum(step.stored_by_role.values()) == step.stored_bytes
        assert set(step.stored_by_role) <= {"weight", "exp_avg", METADATA}
    assert [step.is_key for step in data.steps] == [info.is_key for info in infos]
    assert data.steps[1].parent == "main:0"


def test_steps_are_not_looked_for_one_by_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """To find one lists all of them: a report on 1,000 steps would list a million."""
    monkeypatch.setattr(Store, "step", None)
    assert len(collected(store, pairs=0).steps) == 5


def test_changes_are_relative_to_the_weights_of_a_layer(store: Store) -> None:
    data = collected(store)
    assert data.layers == ("model.h.0", "model.h.1")
    assert data.pairs_in_all == len(data.pairs) == 4
    assert data.changes[0] == (0.0, 0.0, 0.0, 0.0)
    assert data.changes[1] == pytest.approx([0.01 / (1 + 0.01 * step) for step in range(4)], rel=1e-3)


def test_few_pairs_are_spread_over_the_history(store: Store) -> None:
    data = collected(store, pairs=2)
    assert data.pairs == (("main:0", "main:1"), ("main:3", "main:4"))
    assert collected(store, pairs=0).pairs == ()


def test_a_damaged_step_is_listed_and_the_others_shown(store: Store) -> None:
    key = max(info.key for info in store.opened.backend.list("manifests/"))
    flip_bits(store.opened.backend, key, -3)
    data = collected(Store.open(store.url))
    assert [step.step for step in data.steps] == [0, 1, 2, 3]
    (damaged,) = data.damaged
    assert damaged.name == "main:4"
    assert "checksum" in str(damaged.error)


def test_the_command_names_a_damaged_step_and_ends_with_its_code(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = max(info.key for info in store.opened.backend.list("manifests/"))
    flip_bits(store.opened.backend, key, -3)
    out = tmp_path / "report.html"
    assert main(["report", store.url, "--out", str(out), "--pairs", "0"]) == CorruptObjectError.exit_code
    assert "warning: main:4 is left out: " in capsys.readouterr().err
    assert out.exists()


def test_a_place_that_cannot_be_written_is_known_before_the_work(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltackpt.report.collect", lambda *_, **__: pytest.fail("it worked all the same"))
    for out in (tmp_path / "none" / "report.html", tmp_path):
        assert main(["report", store.url, "--out", str(out), "--overwrite"]) == BackendError.exit_code
        assert "report" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_report_that_fails_leaves_what_was_there(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BackendError("lost")

    monkeypatch.setattr("deltackpt.report.collect", fail)
    out = tmp_path / "report.html"
    out.write_text("mine")
    assert main(["report", store.url, "--out", str(out), "--overwrite"]) == BackendError.exit_code
    assert out.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "store"]


def test_an_existing_file_is_left_alone(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.html"
    out.write_text("mine")
    assert main(["report", store.url, "--out", str(out)]) != 0
    assert out.read_text() == "mine"
    assert "--overwrite" in capsys.readouterr().err
    assert main(["report", store.url, "--out", str(out), "--overwrite"]) == 0
    assert out.read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "store"]
