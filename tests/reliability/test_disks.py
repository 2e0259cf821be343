"""Real file systems that are full or read-only: a clear error, nothing lost, and the next save works."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deltackpt.backend.local import LocalBackend
from deltackpt.errors import BackendError
from deltackpt.store.catalog import visible_steps
from deltackpt.store.opened import create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import State, load_step, save_step, state_bytes
from tests.reliability.checks import check_store, digest


def mount(*arguments: str) -> None:
    program = shutil.which("mount")
    if program is None or subprocess.run([program, *arguments], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system in memory")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place))
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)


def state(seed: int) -> State:
    """About 900 KB that do not compress."""
    return {"w": np.random.default_rng(seed).integers(0, 256, 900_000, dtype=np.uint8)}


def test_a_disk_that_fills_up(small_disk: Path) -> None:
    store = create_store(LocalBackend(small_disk / "store", create=True), StoreOptions(block_elements=1 << 16))
    saved: list[int] = []

    def fill() -> None:
        for step in range(10):
            save_step(store, state(step), step=step)
            saved.append(step)

    with pytest.raises(BackendError) as caught:
        fill()
    assert caught.value.errno == errno.ENOSPC
    assert "no space" in str(caught.value).lower()
    assert caught.value.hint is not None
    assert 2 <= len(saved) < 10
    possible = {("main", step): {digest(state_bytes(state(step)))} for step in saved}
    backend = LocalBackend(small_disk / "store")
    check_store(backend, possible)
    assert list(small_disk.rglob(".tmp-*")) == []
    # Room again: the same save works.
    fresh = open_store(backend)
    newest = visible_steps(fresh)[-1]
    for path in (small_disk / "store" / "manifests" / "main" / f"{newest.key.step:012d}").iterdir():
        path.unlink()
    named = {pack.name.hex() for step in visible_steps(fresh) for pack in fresh.manifest(step.key).packs}
    for path in (small_disk / "store" / "packs").glob("*/*"):
        if path.name not in named:
            path.unlink()
    save_step(open_store(backend), state(50), step=50)
    assert load_step(open_store(backend), 50) == state_bytes(state(50))


def test_a_disk_that_became_read_only(small_disk: Path) -> None:
    backend = LocalBackend(small_disk / "store", create=True)
    store = create_store(backend, StoreOptions())
    save_step(store, state(0), step=0)
    mount("-o", "remount,ro", str(small_disk))
    with pytest.raises(BackendError, match="read-only") as caught:
        save_step(store, state(1), step=1)
    assert caught.value.errno == errno.EROFS
    # Everything that only reads goes on.
    check_store(backend, {("main", 0): {digest(state_bytes(state(0)))}})
