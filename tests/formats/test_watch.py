"""Checkpoints are taken in when they are complete, not before; sources go when their steps are known to be good."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from deltackpt import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import BackendError, InvalidArgumentError
from deltackpt.formats.watch import PATIENCE, Watch, WatchEvent
from deltackpt.store.opened import OpenStore
from deltackpt.testing.faults import Fault, FaultyBackend
from tests.dcp.states import new_store
from tests.formats.imported import contents, olmo_folder


class Scene:
    """A folder that is watched, with a clock in the test's hands."""

    def __init__(self, tmp_path: Path, store: Store | None = None, **options: object) -> None:
        self.store = store or new_store()
        self.folder = tmp_path / "run"
        self.now = 0.0
        self.events: list[WatchEvent] = []
        self.watch: Watch = self.store.watch(self.folder, self.events.append, settle=10, **options)  # type: ignore[arg-type]
        self.watch.clock = lambda: self.now

    def after(self, seconds: float) -> list[tuple[str, int]]:
        """What a look that much later does."""
        self.now += seconds
        self.events.clear()
        self.watch.look()
        return [(e.kind, e.step.step if e.step is not None else -1) for e in self.events]

    def save(self, step: int) -> Path:
        return olmo_folder(self.folder / f"step{step}-unsharded", step)

    @property
    def steps(self) -> list[int]:
        return [info.step for info in self.store.steps()]


def test_a_checkpoint_is_taken_in_once_it_has_settled(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert scene.after(0) == []  # the folder is not there yet
    saved = scene.save(100)
    assert scene.after(0) == []
    assert scene.after(9) == []
    os.utime(saved / "model.pt")  # still written to
    assert scene.after(9) == []
    assert scene.after(10) == [("imported", 100)]
    assert scene.after(100) == []
    scene.store.step(100).restore(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(saved)
    assert saved.is_dir()


def test_an_unfinished_folder_is_left_alone(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    olmo_folder(scene.folder / "step1-unsharded-tmp", 1)
    for _ in range(3):
        assert scene.after(1000) == []
    (scene.folder / "step1-unsharded-tmp").rename(scene.folder / "step1-unsharded")
    assert scene.after(0) == []
    assert scene.after(10) == [("imported", 1)]


def test_a_link_says_that_a_checkpoint_is_whole(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    saved = scene.save(5)
    (scene.folder / "latest-unsharded").symlink_to(saved.name)
    assert scene.after(0) == [("imported", 5)]


def test_an_incomplete_checkpoint_waits_for_its_files(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    saved = scene.save(1)
    (saved / "optim.pt").rename(tmp_path / "optim.pt")
    assert scene.after(0) == []
    assert scene.after(50) == []
    (tmp_path / "optim.pt").rename(saved / "optim.pt")
    assert scene.after(1) == []
    assert scene.after(10) == [("imported", 1)]
    (scene.save(2) / "optim.pt").unlink()
    assert scene.after(0) == []
    assert scene.after(10 * PATIENCE - 1) == []
    assert scene.after(1) == [("imported", 2)]
    (scene.save(3) / "optim.pt").unlink()
    scene.save(4)
    assert scene.after(0) == []
    assert scene.after(10) == [("imported", 3), ("imported", 4)]  # a later one is complete
    assert [lack.path for lack in scene.events[0].step.lacks] == ["optim.pt"]  # type: ignore[union-attr]


def test_strict_never_takes_in_what_lacks_files(tmp_path: Path) -> None:
    scene = Scene(tmp_path, strict=True)
    (scene.save(1) / "optim.pt").unlink()
    scene.after(0)
    assert scene.after(10_000) == [("failed", 1)]
    assert scene.after(10) == []
    assert scene.steps == []


def test_sources_go_but_for_the_newest(tmp_path: Path) -> None:
    scene = Scene(tmp_path, remove_source=True, keep_source=1)
    for step in (1, 2, 3):
        scene.save(step)
    scene.after(0)
    copies = {step: contents(scene.folder / f"step{step}-unsharded") for step in (1, 2, 3)}
    assert scene.after(10) == [("imported", 1), ("imported", 2), ("imported", 3), ("removed", 1), ("removed", 2)]
    assert [path.name for path in scene.folder.iterdir()] == ["step3-unsharded"]
    for step in (1, 2):
        scene.store.step(step).restore(tmp_path / str(step))
        assert contents(tmp_path / str(step)) == copies[step]
    assert scene.after(10) == []


def test_a_source_that_a_link_points_to_stays(tmp_path: Path) -> None:
    scene = Scene(tmp_path, remove_source=True, keep_source=0)
    saved = scene.save(1)
    scene.save(2)
    (scene.folder / "latest").symlink_to(saved.name)
    scene.after(0)
    scene.after(10)
    assert sorted(path.name for path in scene.folder.iterdir()) == ["latest", "step1-unsharded"]


def test_a_source_whose_step_is_damaged_stays(tmp_path: Path) -> None:
    inner = MemoryBackend()
    scene = Scene(tmp_path, new_store(inner), remove_source=True, keep_source=0)
    scene.save(1)
    scene.watch.settings = replace(scene.watch.settings, keep_source=1)
    scene.after(0)
    assert scene.after(10) == [("imported", 1)]
    for found in list(inner.list("packs/")):
        data = bytearray(inner.get(found.key))
        data[len(data) // 2] ^= 1
        inner.put(found.key, bytes(data))
    scene.save(2)
    scene.after(0)
    events = scene.after(10)
    assert ("imported", 2) in events
    assert ("failed", 1) in events
    assert (scene.folder / "step1-unsharded" / "model.pt").exists()


def test_a_damaged_checkpoint_is_said_once_and_tried_again_when_it_changed(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    saved = scene.save(1)
    whole = (saved / "model.pt").read_bytes()
    (saved / "model.pt").write_bytes(whole[:100])
    scene.save(2)
    scene.after(0)
    assert scene.after(10) == [("failed", 1), ("imported", 2)]
    assert scene.after(100) == []
    (saved / "model.pt").write_bytes(whole)
    assert scene.after(0) == []
    assert scene.after(10) == [("imported", 1)]
    assert scene.steps == [1, 2]


def test_a_full_disk_is_said_once_and_waited_for(tmp_path: Path) -> None:
    inner = MemoryBackend()
    store = new_store(inner)

    def full() -> BackendError:
        error = BackendError("full")
        error.errno = errno.ENOSPC
        return error

    failing = FaultyBackend(inner, [Fault("put", 1, error=full, times=6, prefix="packs/")])
    scene = Scene(tmp_path, Store(OpenStore(failing, store.opened.config)))
    scene.save(1)
    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        if scene.steps or looks > 20:
            scene.watch.stop.set()
        return 100.0 * looks

    scene.watch.clock = clock
    scene.watch.settings = replace(scene.watch.settings, every=0.001)
    scene.watch.run()
    assert [event.kind for event in scene.events] == ["trouble", "imported"]
    assert scene.steps == [1]


def test_it_stops_between_steps(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for step in (1, 2, 3):
        scene.save(step)
    scene.watch.report = lambda event: scene.watch.stop.set()
    scene.watch.look(settled=True)
    assert scene.steps == [1]


def test_a_second_watch_takes_up_where_the_first_one_was(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.save(1)
    scene.watch.look(settled=True)
    again = Scene(tmp_path, scene.store, remove_source=True, keep_source=0)
    again.save(2)
    again.watch.look(settled=True)
    assert [(e.kind, e.step.step) for e in again.events if e.step is not None] == [
        ("imported", 2),
        ("removed", 1),
        ("removed", 2),
    ]
    shutil.rmtree(again.folder)
    assert again.after(0) == []


def test_wrong_settings(tmp_path: Path) -> None:
    for options in ({"settle": -1}, {"every": 0}, {"keep_source": -1}):
        with pytest.raises(InvalidArgumentError):
            new_store().watch(tmp_path, lambda event: None, **options)  # type: ignore[arg-type]
