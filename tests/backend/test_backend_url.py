from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deltackpt.backend.local import LocalBackend
from deltackpt.backend.memory import PROCESS_MEMORY, MemoryBackend, MemoryRegistry
from deltackpt.backend.url import open_backend
from deltackpt.errors import InvalidArgumentError, InvalidNameError, NotAStoreError, StoreNotFoundError


@pytest.fixture
def name() -> Iterator[str]:
    yield "test_backend_url"
    PROCESS_MEMORY.discard("test_backend_url")


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "a b" / "é#?%20"
    made = open_backend(root, create=True)
    made.put("key", b"value")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for url in (
        root,
        str(root),
        "a b/é#?%20",
        "~/a b/é#?%20",
        root.as_uri(),
        made.url,
        f"file://localhost{root.as_uri()[7:]}",
    ):
        backend = open_backend(url)
        assert isinstance(backend, LocalBackend)
        assert backend.get("key") == b"value"
        assert backend.url == made.url == str(root)


def test_a_path_object_is_never_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_backend(Path("memory:/x"), create=True)
    assert (tmp_path / "memory:" / "x").is_dir()


@pytest.mark.parametrize("inside", ["nothing", "nothing/below", "file/below"])
def test_nothing_there(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreNotFoundError, match=inside):
        open_backend(tmp_path / inside)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("create", [False, True])
def test_a_file_is_no_store(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(NotAStoreError, match="file"):
        open_backend(tmp_path / "file", create=create)
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_create_where_it_is(tmp_path: Path) -> None:
    open_backend(tmp_path).put("key", b"value")
    assert open_backend(tmp_path, create=True).get("key") == b"value"


@pytest.mark.parametrize("url", ["s3://bucket/store", "gs://x", "HTTP://x", "x+y.z-1://"])
def test_unknown_schemes(url: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"not known.*path.*file:///PATH.*memory://NAME"):
        open_backend(url, create=True)


@pytest.mark.parametrize("url", ["", "file://", "file://host/a", "file:///a?b", "file:///a#b", "a\0b", "file:///a%00b"])
def test_malformed(url: str) -> None:
    with pytest.raises(InvalidArgumentError):
        open_backend(url, create=True)


def test_memory_is_shared_by_name(name: str) -> None:
    with pytest.raises(StoreNotFoundError, match=f"memory://{name}"):
        open_backend(f"memory://{name}")
    made = open_backend(f"memory://{name}", create=True)
    made.put("key", b"value")
    assert open_backend(made.url) is made
    assert open_backend(f"Memory://{name}", create=True) is made
    other = open_backend(f"memory://{name}", create=True, memory=MemoryRegistry())
    assert list(other.list()) == []
    PROCESS_MEMORY.discard(name)
    with pytest.raises(StoreNotFoundError):
        open_backend(f"memory://{name}")


@pytest.mark.parametrize("name", ["", "../x", "/x", "a b"])
def test_names_in_memory_follow_the_rule_of_keys(name: str) -> None:
    with pytest.raises(InvalidNameError):
        open_backend(f"memory://{name}", create=True)
    with pytest.raises(InvalidNameError):
        MemoryBackend(name)
