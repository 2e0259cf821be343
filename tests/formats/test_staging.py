from __future__ import annotations

from pathlib import Path

import pytest

from deltackpt.errors import ObjectExistsError
from deltackpt.formats.staging import staged


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_files_appear_together(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with staged(out, overwrite=False) as staging:
        staging.add([put(staging.folder, "a", "1")])
        assert not (out / "a").exists()
        staging.add([put(staging.folder, "b", "2")])
    assert staging.published == [out / "a", out / "b"]
    assert {path.name: path.read_text() for path in out.iterdir()} == {"a": "1", "b": "2"}


@pytest.mark.parametrize("there", [False, True])
def test_after_an_error_nothing_is_left(tmp_path: Path, there: bool) -> None:
    out = tmp_path / "out"
    if there:
        out.mkdir()
        put(out, "mine", "kept")

    def restore() -> None:
        with staged(out, overwrite=True) as staging:
            staging.add([put(staging.folder, "a", "1")])
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        restore()
    assert out.exists() == there
    assert not there or [path.name for path in out.iterdir()] == ["mine"]


def test_a_file_that_came_meanwhile_is_not_replaced_unasked(tmp_path: Path) -> None:
    put(tmp_path, "b", "other")
    with pytest.raises(ObjectExistsError, match="appeared meanwhile"), staged(tmp_path, overwrite=False) as staging:
        staging.add([put(staging.folder, "a", "1"), put(staging.folder, "b", "2")])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b": "other"}
    with staged(tmp_path, overwrite=True) as staging:
        staging.add([put(staging.folder, "b", "2")])
    assert (tmp_path / "b").read_text() == "2"
