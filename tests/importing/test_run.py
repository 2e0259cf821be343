"""Imports of whole folders: done once, past bad steps, and never with a source lost."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from deltackpt.api import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import BackendError, DamagedFileError, IncompleteCheckpointError, InvalidArgumentError
from deltackpt.formats.importing.report import ImportReport
from deltackpt.formats.layouts.discover import discover
from deltackpt.store.opened import create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import load_manifest
from deltackpt.testing.faults import Fault, FaultyBackend, Kind, RecordingBackend
from tests.importing import layouts
from tests.importing.files import new_store, originals, restored


def run(store: Store, *sources: Path, **options: Any) -> ImportReport:
    return store.import_checkpoints(sources, threads=2, base_memory=1 << 24, **options)


def status(report: ImportReport) -> list[tuple[int, str]]:
    return [(one.step, one.status) for one in report.steps]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for step in (1, 2, 10):
        layouts.olmo(tmp_path / "run", step)
    return tmp_path / "run"


def test_steps_are_imported_in_order_and_come_back(root: Path) -> None:
    store = Store(new_store())
    report = run(store, root)
    assert status(report) == [(1, "imported"), (2, "imported"), (10, "imported")]
    for one in report.steps:
        assert restored(store.opened, one.step) == originals(one.source)
    assert [step.parent for step in store.steps()] == [None, "main:1", "main:2"]
    # Weights are predicted from the step before: that is what their names are for.
    manifest = load_manifest(store.opened, 10)
    assert manifest.header.depth > 1
    about = store.step(10).info.writer
    assert (about["layout"], about["source"], about["files"]) == ("olmo", "step10-unsharded", 4)


def test_what_is_there_is_not_imported_again(root: Path) -> None:
    store = Store(new_store())
    run(store, root)
    before = {info.key for info in store.opened.backend.list("")}
    layouts.olmo(root, 11)
    again = run(store, root)
    assert status(again) == [(1, "present"), (2, "present"), (10, "present"), (11, "imported")]
    os.utime(root / "step2-unsharded" / "model.pt", (7, 7))
    assert status(run(store, root))[1] == (2, "present")
    assert before < {info.key for info in store.opened.backend.list("")}
    assert len(store.steps()) == 4


def test_other_files_under_the_same_step_are_refused(root: Path) -> None:
    store = Store(new_store())
    run(store, root)
    layouts.text(root / "step2-unsharded" / "config.yaml", "other: true\n")
    report = run(store, root)
    assert status(report) == [(1, "present"), (2, "failed"), (10, "present")]
    assert report.failed[0].error is not None
    assert report.failed[0].error.kind == "step-exists"
    assert store.step(2).key.generation == 1
    assert status(run(store, root, overwrite=True)) == [(1, "present"), (2, "imported"), (10, "present")]
    assert store.step(2).key.generation == 2
    assert restored(store.opened, 2) == originals(root / "step2-unsharded")


def test_a_damaged_step_does_not_keep_the_others_from_the_store(root: Path) -> None:
    file = root / "step2-unsharded" / "optim.pt"
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2])
    store = Store(new_store())
    report = run(store, root)
    assert status(report) == [(1, "imported"), (2, "failed"), (10, "imported")]
    error = report.failed[0].error
    assert isinstance(error, DamagedFileError)
    assert error.where == str(file)
    assert [step.step for step in store.steps()] == [1, 10]
    file.write_bytes(good)
    assert status(run(store, root)) == [(1, "present"), (2, "imported"), (10, "present")]
    assert restored(store.opened, 2) == originals(root / "step2-unsharded")


def test_a_damaged_file_can_be_kept_as_bytes(root: Path) -> None:
    file = root / "step2-unsharded" / "optim.pt"
    file.write_bytes(file.read_bytes()[:-50])
    store = Store(new_store())
    assert status(run(store, root, as_bytes=["opt*.pt"])) == [(1, "imported"), (2, "imported"), (10, "imported")]
    assert restored(store.opened, 2) == originals(root / "step2-unsharded")
    assert not store.step(2).entries("optim.")
    assert store.step(2).entries("model.")


def test_strict_refuses_what_is_incomplete(root: Path) -> None:
    (root / "step1-unsharded" / "optim.pt").unlink()
    store = Store(new_store())
    report = run(store, root, strict=True)
    assert status(report) == [(1, "failed"), (2, "imported"), (10, "imported")]
    error = report.failed[0].error
    assert isinstance(error, IncompleteCheckpointError)
    assert "optim.pt (weights only: training cannot resume)" in error.message
    assert status(run(store, root)) == [(1, "imported"), (2, "present"), (10, "present")]


def test_a_dry_run_writes_nothing(root: Path) -> None:
    store = Store(new_store())
    before = {info.key for info in store.opened.backend.list("")}
    assert status(run(store, root, dry_run=True)) == [(1, "planned"), (2, "planned"), (10, "planned")]
    assert {info.key for info in store.opened.backend.list("")} == before


def test_a_folder_without_checkpoints_is_an_error(tmp_path: Path) -> None:
    layouts.text(tmp_path / "step5-unsharded-tmp" / "x", "x")
    with pytest.raises(InvalidArgumentError, match=r"no checkpoint in it.*unfinished"):
        run(Store(new_store()), tmp_path)


def test_sources_are_removed_once_they_were_read_back(root: Path) -> None:
    kept = {one.name: originals(one) for one in root.iterdir()}
    store = Store(new_store())
    report = run(store, root, remove_source=True)
    assert all(one.removed for one in report.steps)
    assert not list(root.iterdir())
    for one in report.steps:
        assert restored(store.opened, one.step) == kept[one.source.name]


def test_a_source_that_was_imported_before_is_removed_too(root: Path) -> None:
    store = Store(new_store())
    run(store, root)
    os.utime(root / "step2-unsharded" / "model.pt", (7, 7))
    report = run(store, root, remove_source=True)
    assert [(one.status, one.removed) for one in report.steps] == [("present", True)] * 3
    assert not list(root.iterdir())


def test_a_source_that_cannot_be_had_back_is_kept(root: Path) -> None:
    store = Store(new_store())
    run(store, root)
    backend = store.opened.backend
    packs = sorted(info.key for info in backend.list("packs/"))
    for key in packs:
        data = bytearray(backend.get(key))
        data[len(data) // 2] ^= 1
        backend.put(key, bytes(data))
    report = run(Store(open_store(backend)), root, remove_source=True)
    assert report.failed
    for one in report.steps:
        assert one.removed == (one.status != "failed")
        assert one.source.exists() == (one.status == "failed")


def test_a_source_with_more_files_than_were_imported_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deltackpt.formats.importing.readback import check_files

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        layouts.text(root / "step1-unsharded" / "late.txt", "x")
        return check_files(*args, **kwargs)

    monkeypatch.setattr("deltackpt.formats.importing.run.check_files", meanwhile)
    report = run(Store(new_store()), root / "step1-unsharded", remove_source=True)
    assert status(report) == [(1, "failed")]
    assert (root / "step1-unsharded" / "model.pt").exists()


def test_memory_for_bases_does_not_change_what_comes_back(root: Path) -> None:
    store = Store(new_store(key_every=2, block_elements=32))
    store.import_checkpoints([root], threads=1, base_memory=0)
    for step in (1, 2, 10):
        assert restored(store.opened, step) == originals(root / f"step{step}-unsharded")


def test_progress_reaches_the_end(root: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = run(Store(new_store()), root, progress=lambda meter: seen.append((meter.done, meter.total)))
    total = sum(one.raw_bytes for one in report.steps)
    assert seen[-1][1] == total
    assert seen[-1][0] >= total * 0.99


def copy_of(backend: MemoryBackend) -> MemoryBackend:
    copy = MemoryBackend()
    for info in backend.list():
        copy.put(info.key, backend.get(info.key))
    return copy


def test_an_import_that_is_cut_off_at_any_operation_is_run_again(tmp_path: Path) -> None:
    for step in (1, 2):
        layouts.lightning(tmp_path / "run", step)
    base = MemoryBackend()
    create_store(base, StoreOptions(block_elements=64, pack_bytes=2048))
    recorder = RecordingBackend(copy_of(base))
    run(Store(open_store(recorder)), tmp_path / "run", remove_source=False)
    kinds: tuple[Kind, ...] = ("put", "put_if_absent", "get", "list")
    for kind in kinds:
        for nth in range(1, recorder.count(kind) + 1, 1 if kind.startswith("put") else 4):
            backend = copy_of(base)
            killed = Fault(kind, nth=nth, times=None, error=lambda: BackendError("gone"))
            report: ImportReport | None = None
            with suppress(BackendError):
                report = run(Store(open_store(FaultyBackend(backend, [killed]))), tmp_path / "run", remove_source=True)
            # Whatever step is visible has all of its files; what is not, still has its source.
            visible = {info.step for info in Store(open_store(backend)).steps()}
            for step in visible:
                assert len(restored(open_store(backend), step)) == 1
            sources = {one.step for one in discover([tmp_path / "run"]).checkpoints}
            assert visible | sources == {1, 2}, (kind, nth, report)
            for step in (1, 2):
                if step not in sources:
                    layouts.lightning(tmp_path / "run", step)
            again = run(Store(open_store(backend)), tmp_path / "run", overwrite=True)
            assert not again.failed
            assert [info.step for info in Store(open_store(backend)).steps()] == [1, 2]
