"""Folders appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deltackpt.errors import BackendError, InvalidArgumentError, ObjectExistsError
from deltackpt.formats.folder import new_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_with_all_it_holds(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with new_folder(out, force=False) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
        assert names(tmp_path / "new") == ["out.partial"]
    assert names(tmp_path / "new") == ["out"]
    assert (out / "sub" / "a").read_text() == "1"


@pytest.mark.parametrize("force", [False, True])
def test_after_an_error_nothing_has_changed(tmp_path: Path, force: bool) -> None:
    out = tmp_path / "out"
    if force:
        out.mkdir()
        (out / "mine").write_text("kept")

    def restore() -> None:
        with new_folder(out, force=force) as folder:
            (folder / "a").write_text("1")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        restore()
    assert names(tmp_path) == (["out"] if force else [])
    assert not force or (out / "mine").read_text() == "kept"


def test_what_is_there_is_replaced_as_a_whole_and_only_if_asked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with new_folder(out, force=False) as folder:  # an empty folder is no loss
        (folder / "a").write_text("1")
    with pytest.raises(ObjectExistsError, match="there already"), new_folder(out, force=False):
        pass
    with new_folder(out, force=True) as folder:
        (folder / "b").write_text("2")
        assert names(out) == ["a"]
    assert names(out) == ["b"]
    assert names(tmp_path) == ["out"]


def test_what_a_killed_process_left_is_no_part_of_the_next(tmp_path: Path) -> None:
    left = tmp_path / "out.partial"
    (left / "sub").mkdir(parents=True)
    (left / "sub" / "half").write_text("x")
    (left / "link").symlink_to(tmp_path)
    with new_folder(tmp_path / "out", force=False) as folder:
        assert folder == left
        (folder / "a").write_text("1")
    assert names(tmp_path / "out") == ["a"]


def test_two_writers_of_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with new_folder(out, force=False) as folder:
        (folder / "a").write_text("1")
        with pytest.raises(ObjectExistsError, match="another process"), new_folder(out, force=False):
            pass
        assert names(folder) == ["a"]
    assert names(out) == ["a"]


def test_a_folder_that_came_meanwhile_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def restore() -> None:
        with new_folder(out, force=False) as folder:
            (folder / "a").write_text("1")
            out.mkdir()
            (out / "theirs").write_text("2")

    with pytest.raises(ObjectExistsError, match="meanwhile"):
        restore()
    assert names(tmp_path) == ["out"]
    assert names(out) == ["theirs"]


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    real = tmp_path / "disk" / "real"
    real.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(real)
    with new_folder(link, force=False) as folder:
        (folder / "a").write_text("1")
    assert link.is_symlink()
    assert names(real) == ["a"]


def test_folders_that_are_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "work" / "inside"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    (tmp_path / "file").write_text("x")
    store = tmp_path / "store"
    store.mkdir()
    (store / "store.json").write_text("{}")
    for out in (tmp_path / "work", tmp_path / "file", store, Path.home(), Path("/")):
        with pytest.raises(InvalidArgumentError), new_folder(out, force=True):
            pass
    assert names(tmp_path) == ["file", "store", "work"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_made_here(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BackendError, match="partial"), new_folder(tmp_path / "out", force=False):
        pass


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BackendError, match="file/out"), new_folder(tmp_path / "file" / "out", force=False):
        pass
