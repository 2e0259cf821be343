"""A store can be left: every step as files, with hashes, and again after an interruption."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from pathlib import Path

import pytest
import torch

from deltackpt import Store
from deltackpt.errors import BackendError, CorruptObjectError, ObjectExistsError, UntrustedObjectError
from tests.dcp.states import new_store, save_state
from tests.formats.imported import contents, hf_model_folder, import_folder, olmo_folder, weights
from tests.formats.values import identical


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two imported steps, a saved one, and one on a branch."""
    store = new_store()
    import_folder(store, 1, olmo_folder(tmp_path / "in" / "step1-unsharded", 1))
    import_folder(store, 2, hf_model_folder(tmp_path / "in" / "checkpoint-2", 2))
    save_state(store, 3, {"model": weights(3)}, metrics={"loss": 0.5, "worst": math.inf})
    save_state(store, 4, {"model": weights(4)}, branch="tuned")
    store.tag(3, "best")
    store.annotate(3, {"mmlu": 0.25})
    return store


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return contents(folder)


def test_every_step_as_files(store: Store, tmp_path: Path) -> None:
    seen: list[int] = []
    report = store.eject(tmp_path / "out", progress=lambda done, step: seen.append(done))
    assert [(s.branch, s.step, s.status) for s in report.steps] == [
        ("main", 1, "written"),
        ("main", 2, "written"),
        ("main", 3, "written"),
        ("tuned", 4, "written"),
    ]
    assert seen == [1, 2, 3, 4]
    out = tmp_path / "out"
    for name in ("step1-unsharded", "checkpoint-2"):
        assert contents(out / "main" / name) == contents(tmp_path / "in" / name)
    assert identical(torch.load(out / "main" / "step3" / "model.pt", weights_only=True), weights(3))
    assert identical(torch.load(out / "tuned" / "step4" / "model.pt", weights_only=True), weights(4))
    checked = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=out, check=False, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    files = {path for path in contents(out) if path not in ("SHA256SUMS", "steps.json")}
    assert {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()} == files
    third = json.loads((out / "steps.json").read_text())[2]
    assert (third["folder"], third["tags"]) == ("main/step3", ["best"])
    assert third["metrics"] == {"loss": 0.5, "worst": {"float": "inf"}, "mmlu": 0.25}


def test_run_again_it_writes_what_is_missing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"

    def stop(done: int, _: object) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.eject(out, progress=stop)
    before = snapshot(out)
    assert [s.status for s in store.eject(out).steps] == ["there", "there", "written", "written"]
    after = snapshot(out)
    assert {path: after[path] for path in before if path != "SHA256SUMS"} == {
        path: data for path, data in before.items() if path != "SHA256SUMS"
    }
    assert [s.status for s in store.eject(out).steps] == ["there"] * 4
    assert snapshot(out) == after
    # A kill between a folder and its hashes: of imported files these are known, others are written anew.
    (out / "SHA256SUMS").unlink()
    assert [s.status for s in store.eject(out).steps] == ["there", "there", "written", "written"]
    assert snapshot(out) == after


def test_what_is_not_the_step_is_refused_and_stays(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    store.eject(out)
    changed = out / "main" / "step1-unsharded" / "model.pt"
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    (out / "main" / "step3" / "mine").write_text("kept")
    report = store.eject(out)
    assert [s.status for s in report.steps] == ["failed", "there", "failed", "there"]
    assert [type(s.error) for s in report.failed] == [ObjectExistsError] * 2
    assert "model.pt" in str(report.failed[0].error)
    assert changed.read_bytes() == data
    assert (out / "main" / "step3" / "mine").read_text() == "kept"


class Opaque:
    """What is kept as a pickle."""


def test_a_step_that_cannot_be_written_keeps_no_other_from_it(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    for step in (1, 2, 3):
        save_state(store, step, {"model": weights(step), "train": {"odd": Opaque()} if step == 2 else {"n": step}})
    manifest = tmp_path / "store" / "manifests" / "main" / f"{3:012d}" / "000001"
    manifest.write_bytes(manifest.read_bytes()[:100])
    report = Store.open(tmp_path / "store").eject(tmp_path / "out")
    assert {s.step: s.status for s in report.steps} == {1: "written", 2: "failed", 3: "failed"}
    errors = {s.step: s.error for s in report.failed}
    assert isinstance(errors[2], UntrustedObjectError)
    assert isinstance(errors[3], CorruptObjectError)
    assert sorted(path.name for path in (tmp_path / "out" / "main").iterdir()) == ["step1"]
    report = Store.open(tmp_path / "store").eject(tmp_path / "out", trust_objects=True)
    assert {s.step: s.status for s in report.steps} == {1: "there", 2: "written", 3: "failed"}
    with pytest.raises(BackendError):
        Store.open(tmp_path / "store").eject(tmp_path / "store" / "store.json" / "x")


def test_two_steps_of_one_name_and_odd_names(tmp_path: Path) -> None:
    store = new_store()
    for step, folder in ((1, "a/model"), (2, "b/model"), (3, "c/..odd"), (4, "d/step1")):
        import_folder(store, step, olmo_folder(tmp_path / folder, step))
    report = store.eject(tmp_path / "out")
    assert [s.folder.name for s in report.steps] == ["model", "step2", "step3", "step4"]
    sums = (tmp_path / "out" / "SHA256SUMS").read_text()
    for ejected, folder in zip(report.steps, ("a/model", "b/model", "c/..odd", "d/step1"), strict=True):
        assert contents(ejected.folder) == contents(tmp_path / folder)
        assert hashlib.sha256((ejected.folder / "model.pt").read_bytes()).hexdigest() in sums
