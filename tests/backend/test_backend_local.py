from __future__ import annotations

import errno
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.backend import durable, local
from deltackpt.backend.base import Backend, ObjectInfo
from deltackpt.backend.local import LocalBackend
from deltackpt.backend.oserrors import describe_os_error
from deltackpt.errors import (
    BackendError,
    InvalidNameError,
    MissingObjectError,
    NotAStoreError,
    ObjectExistsError,
    StoreNotFoundError,
    TransientBackendError,
    TruncatedObjectError,
)

OPERATIONS: dict[str, Callable[[Backend], object]] = {
    "put": lambda backend: backend.put("packs/x", b"new"),
    "put_if_absent": lambda backend: backend.put_if_absent("packs/y", b"new"),
    "get": lambda backend: backend.get("packs/x"),
    "list": lambda backend: list(backend.list("packs/")),
    "list all": lambda backend: list(backend.list()),
    "delete": lambda backend: backend.delete("packs/x"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def backend(root: Path) -> LocalBackend:
    return LocalBackend(root, create=True)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# The root


def test_objects_are_files(backend: LocalBackend, root: Path) -> None:
    backend.put("packs/ab/x", b"1")
    backend.put_if_absent("store.json", b"2")
    assert files(root) == {"packs/ab/x": b"1", "store.json": b"2"}


def test_files_have_the_mode_that_the_umask_leaves(backend: LocalBackend, root: Path) -> None:
    old = os.umask(0o027)
    try:
        backend.put("a/b", b"")
        backend.put_if_absent("a/c", b"")
    finally:
        os.umask(old)
    modes = [(root / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/c")]
    assert modes == [0o750, 0o640, 0o640]


def test_the_root_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "link").symlink_to("one")
    monkeypatch.chdir(tmp_path)
    backend = LocalBackend("link")
    backend.put("a", b"1")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("two")
    monkeypatch.chdir("/")
    backend.put("b", b"2")
    assert files(tmp_path / "one") == {"a": b"1", "b": b"2"}
    assert backend.url == str(tmp_path / "one")


def test_pickled(backend: LocalBackend) -> None:
    backend.put("a/b", b"1")
    copy = pickle.loads(pickle.dumps(backend))  # noqa: S301
    copy.put("a/c", b"2")
    assert backend.get("a/c") == b"2"
    assert copy.url == backend.url
    assert backend.url in repr(copy)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_a_root_that_is_gone_is_neither_made_again_nor_taken_for_empty(
    backend: LocalBackend, root: Path, operation: Callable[[Backend], object]
) -> None:
    backend.put("packs/x", b"1")
    shutil.rmtree(root)
    with pytest.raises(StoreNotFoundError, match="gone"):
        operation(backend)
    assert not root.exists()


def test_a_root_that_somebody_else_makes_at_the_same_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = os.mkdir

    def raced(path: str) -> None:
        mkdir(path)
        mkdir(path)

    monkeypatch.setattr(os, "mkdir", raced)
    LocalBackend(root / "a" / "b", create=True).put_if_absent("x", b"")


def test_a_file_above_the_root(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotAStoreError):
        LocalBackend(tmp_path / "file", create=True)
    with pytest.raises(BackendError) as caught:
        LocalBackend(tmp_path / "file" / "store", create=True)
    assert caught.value.errno == errno.ENOTDIR


# Nothing leaves the root


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("target", ["../outside", "{tmp}/outside", "inside", ".", "nowhere"])
def test_folders_that_are_symbolic_links_are_refused(
    backend: LocalBackend, root: Path, tmp_path: Path, operation: Callable[[Backend], object], target: str
) -> None:
    for folder in (tmp_path / "outside", root / "inside"):
        folder.mkdir()
        (folder / "x").write_bytes(b"precious")
    (root / "packs").symlink_to(target.format(tmp=tmp_path))
    before = files(tmp_path)
    with pytest.raises(BackendError, match=r"store/packs: .*must not be symbolic links") as caught:
        operation(backend)
    assert caught.value.errno == errno.ELOOP
    assert not isinstance(caught.value, TransientBackendError)
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["get", "list", "list all"])
def test_objects_that_are_symbolic_links_are_refused(
    backend: LocalBackend, root: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "outside").write_bytes(b"precious")
    (root / "packs").mkdir()
    (root / "packs" / "x").symlink_to("../../outside")
    with pytest.raises(BackendError, match=r"store/packs/x: .*must not be symbolic links"):
        OPERATIONS[name](backend)


def test_writing_over_a_symbolic_link_leaves_its_target(backend: LocalBackend, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"precious")
    for name in ("a", "b", "c"):
        (root / name).symlink_to("../outside")
    with pytest.raises(ObjectExistsError):
        backend.put_if_absent("a", b"new")
    backend.put("b", b"new")
    backend.delete("c")
    assert files(tmp_path) == {"outside": b"precious", "store/a": b"precious", "store/b": b"new"}


@pytest.mark.parametrize("name", ["get", "list"])
def test_special_files_are_refused_and_hang_nobody(backend: LocalBackend, root: Path, name: str) -> None:
    (root / "packs").mkdir()
    os.mkfifo(root / "packs" / "x")
    with pytest.raises(BackendError, match=r"packs/x: this is neither a file nor a folder"):
        OPERATIONS[name](backend)


# Names that are folders


@pytest.mark.parametrize("method", ["put", "put_if_absent"])
def test_a_key_cannot_be_the_folder_of_another(backend: LocalBackend, root: Path, method: str) -> None:
    backend.put("a/b", b"1")
    with pytest.raises(InvalidNameError, match="a folder of other objects"):
        getattr(backend, method)("a", b"2")
    with pytest.raises(InvalidNameError, match="object itself"):
        getattr(backend, method)("a/b/c", b"2")
    assert files(root) == {"a/b": b"1"}


def test_folders_that_got_empty_are_removed(backend: LocalBackend, root: Path) -> None:
    backend.put("a/b/c/1", b"")
    backend.put("a/2", b"")
    backend.delete("a/b/c/1")
    assert sorted(path.name for path in root.rglob("*")) == ["2", "a"]
    backend.delete("a/2")
    assert list(root.iterdir()) == []
    backend.put("a", b"now an object")
    assert backend.get("a") == b"now an object"


@pytest.mark.parametrize("method", ["put", "put_if_absent"])
@pytest.mark.parametrize("victim", ["mkdir", "open temporary"])
def test_a_folder_that_a_delete_removes_under_a_put_is_made_again(
    backend: LocalBackend, root: Path, monkeypatch: pytest.MonkeyPatch, method: str, victim: str
) -> None:
    mkdir, os_open = os.mkdir, os.open
    removed: list[str] = []

    def racing_mkdir(path: str, *args: int, dir_fd: int | None = None) -> None:
        mkdir(path, *args, dir_fd=dir_fd)
        if victim == "mkdir" and path == "b" and len(removed) < 3:
            removed.append(path)
            (root / "a" / "b").rmdir()

    def racing_open(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if victim == "open temporary" and flags & os.O_CREAT and len(removed) < 3:
            removed.append(path)
            (root / "a" / "b").rmdir()
            (root / "a").rmdir()
        return os_open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", racing_mkdir)
    monkeypatch.setattr(os, "open", racing_open)
    getattr(backend, method)("a/b/c", b"data")
    assert len(removed) == 3
    assert files(root) == {"a/b/c": b"data"}


def test_a_folder_that_always_vanishes_ends_in_an_error(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "mkdir", lambda *args, **options: None)
    with pytest.raises(BackendError, match="a/b: cannot write the object") as caught:
        backend.put("a/b", b"")
    assert caught.value.errno == errno.ENOENT


# Listing


def test_what_can_be_no_object_is_not_listed(backend: LocalBackend, root: Path) -> None:
    backend.put("a/b", b"")
    for name in (
        ".tmp-0123",
        ".DS_Store",
        "lost+found/x",
        "x~",
        "#x#",
        "a/.nfs0001",
        "a/é",
        "-x",
        "a b",
        ".git/config",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"")
    (root / ".link").symlink_to("/")
    assert list(backend.list()) == [ObjectInfo("a/b", 0)]


PART = st.from_regex(r"\A[aB0_][aB0_.-]{0,2}\Z")


@given(st.sets(st.lists(PART, min_size=1, max_size=3).map("/".join), max_size=10))
def test_lists_are_in_order_and_complete(keys: set[str]) -> None:
    keys = {key for key in keys if not any(other.startswith(key + "/") for other in keys)}
    with tempfile.TemporaryDirectory() as root:
        backend = LocalBackend(root)
        for key in keys:
            os.makedirs(os.path.dirname(f"{root}/{key}"), exist_ok=True)
            Path(root, key).write_bytes(b"")
        for prefix in {key[:length] for key in keys for length in range(len(key) + 1)}:
            expected = sorted(key for key in keys if key.startswith(prefix))
            assert [info.key for info in backend.list(prefix)] == expected


def test_a_listing_survives_folders_that_vanish(backend: LocalBackend, root: Path) -> None:
    for key in ("a", "b/1", "b/2", "c/1", "d/1", "e"):
        backend.put(key, b"")
    listing = backend.list()
    assert next(listing).key == "a"
    shutil.rmtree(root / "c")
    assert next(listing).key == "b/1"
    shutil.rmtree(root / "b")
    assert [info.key for info in listing] == ["d/1", "e"]


def test_listing_opens_only_the_folders_of_the_prefix(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    for branch in ("main", "other"):
        for step in range(3):
            backend.put(f"manifests/{branch}/{step}/000001", b"")
    scanned, scandir = [], os.scandir

    def recording(path: str) -> Iterator[os.DirEntry[str]]:
        scanned.append(os.path.relpath(path, backend.url))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", recording)
    assert [info.key for info in backend.list("manifests/main/1")] == ["manifests/main/1/000001"]
    assert scanned == ["manifests/main", "manifests/main/1"]


# Reading and writing in pieces


def test_short_reads_and_writes_are_continued(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    write, pread, sizes = os.write, os.pread, []

    def short_write(descriptor: int, data: memoryview) -> int:
        return write(descriptor, data[:3])

    def short_pread(descriptor: int, size: int, offset: int) -> bytes:
        sizes.append(size)
        return pread(descriptor, min(size, 4), offset)

    monkeypatch.setattr(os, "write", short_write)
    monkeypatch.setattr(os, "pread", short_pread)
    data = bytes(range(100))
    backend.put("a", data)
    backend.put_if_absent("b", data)
    assert backend.get("a") == backend.get("b") == data
    sizes.clear()
    assert backend.get("a", 10, 9) == data[10:19]
    assert sizes == [9, 5, 1]


def test_no_call_is_larger_than_systems_allow(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_WRITE_MAX", 7)
    monkeypatch.setattr(local, "_READ_MAX", 9)
    write, pread, sizes = os.write, os.pread, set()

    def sized_write(descriptor: int, data: memoryview) -> int:
        sizes.add(len(data))
        return write(descriptor, data)

    def sized_pread(descriptor: int, size: int, offset: int) -> bytes:
        sizes.add(size)
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "write", sized_write)
    monkeypatch.setattr(os, "pread", sized_pread)
    backend.put("a", bytes(range(64)))
    assert backend.get("a") == bytes(range(64))
    assert sizes == {7, 9, 1}


def test_a_write_that_makes_no_progress_ends(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", lambda descriptor, data: 0)
    with pytest.raises(BackendError):
        backend.put("a", b"data")


def test_an_object_cut_off_while_it_is_read(backend: LocalBackend, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.put("packs/a", b"0123456789")
    pread = os.pread

    def cutting(descriptor: int, size: int, offset: int) -> bytes:
        os.truncate(root / "packs" / "a", 6)
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", cutting)
    with pytest.raises(TruncatedObjectError, match=r"packs/a, byte 6: ") as caught:
        backend.get("packs/a", 1, 9)
    assert caught.value.offset == 6


# Errors in words


@pytest.mark.parametrize("method", ["put", "put_if_absent"])
@pytest.mark.parametrize(
    ("function", "code", "words"),
    [
        ("write", errno.ENOSPC, "disk is full"),
        ("fsync", errno.ENOSPC, "disk is full"),
        ("write", errno.EDQUOT, "quota is used up"),
        ("write", errno.EFBIG, "ulimit -f"),
        ("fsync", errno.EIO, "I/O error"),
        ("close", errno.EIO, "I/O error"),
        ("open", errno.EACCES, "permission denied"),
        ("mkdir", errno.EPERM, "does not permit"),
        ("open", errno.EROFS, "read-only"),
        ("open", errno.EMFILE, "too many open files"),
    ],
)
def test_failed_puts_say_why(
    backend: LocalBackend,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    function: str,
    code: int,
    words: str,
) -> None:
    backend.put("old", b"data")
    with monkeypatch.context() as patch:
        original = getattr(os, function)

        def failing(*args: object, **options: object) -> object:
            if function == "close":
                original(*args, **options)
            raise OSError(code, os.strerror(code))

        patch.setattr(os, function, failing)
        with pytest.raises(BackendError, match=words) as caught:
            getattr(backend, method)("packs/ab/x", b"data")
    assert caught.value.errno == code
    assert caught.value.where == str(root / "packs" / "ab" / "x")
    assert caught.value.hint
    assert files(root) == {"old": b"data"}


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        ("open", lambda backend: backend.get("a")),
        ("pread", lambda backend: backend.get("a")),
        ("unlink", lambda backend: backend.delete("a")),
        ("fsync", lambda backend: backend.delete("a")),
        ("scandir", lambda backend: list(backend.list())),
    ],
)
def test_other_failures_say_why(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, function: str, operation: Callable[[Backend], object]
) -> None:
    backend.put("a", b"data")

    def failing(*args: object, **options: object) -> object:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, function, failing)
    with pytest.raises(BackendError, match="permission denied") as caught:
        operation(backend)
    assert caught.value.errno == errno.EACCES
    assert caught.value.where is not None
    assert caught.value.where.startswith(backend.url)


@pytest.mark.parametrize("create", [False, True])
def test_a_root_that_cannot_be_looked_at(root: Path, monkeypatch: pytest.MonkeyPatch, create: bool) -> None:
    def failing(*args: object, **options: object) -> object:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "stat", failing)
    with pytest.raises(BackendError, match="permission denied"):
        LocalBackend(root, create=create)


@pytest.mark.parametrize("method", ["put", "put_if_absent"])
def test_a_name_too_long_for_the_file_system(backend: LocalBackend, root: Path, method: str) -> None:
    with pytest.raises(InvalidNameError, match="too long"):
        getattr(backend, method)("packs/" + "x" * 300, b"")
    assert files(root) == {}


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT, errno.EMFILE, errno.EBUSY])
def test_what_passes_is_marked(code: int) -> None:
    error = describe_os_error(OSError(code, "x"), "read", "/a")
    assert isinstance(error, TransientBackendError)
    assert error.errno == code


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS, errno.ENOENT, None])
def test_what_does_not_pass_is_not_marked(code: int | None) -> None:
    error = describe_os_error(OSError(code, "x") if code else OSError("odd"), "read", "/a")
    assert type(error) is BackendError
    assert error.errno == code
    assert str(error).startswith("/a: cannot read: ")


def test_errors_keep_their_number_between_processes() -> None:
    error = describe_os_error(OSError(errno.ENOSPC, "x"), "write", "/a")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(copy) is BackendError
    assert (copy.errno, str(copy), copy.where) == (errno.ENOSPC, str(error), "/a")


def test_missing_objects_name_their_file(backend: LocalBackend, root: Path) -> None:
    with pytest.raises(MissingObjectError) as caught:
        backend.get("packs/ab/x")
    assert caught.value.where == str(root / "packs" / "ab" / "x")
    assert caught.value.hint


# What killed writers leave


def test_temporaries_of_killed_writers_can_be_removed(backend: LocalBackend, root: Path) -> None:
    backend.put("a/b", b"data")
    for name, age in ((".tmp-old", 90_000), ("a/.tmp-older", 200_000), ("a/.tmp-young", 60), ("a/.other", 200_000)):
        (root / name).write_bytes(b"half")
        written = (root / name).stat().st_mtime - age
        os.utime(root / name, (written, written))
    assert backend.remove_temporaries(min_age=86_400) == 2
    assert files(root) == {"a/b": b"data", "a/.tmp-young": b"half", "a/.other": b"half"}
    assert backend.remove_temporaries(min_age=86_400) == 0


def test_reads_into_memory_of_the_caller(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * 40
    backend.put("a", data)
    real = os.preadv

    def short(descriptor: int, buffers: list[memoryview], at: int) -> int:
        return real(descriptor, [buffers[0][:999]], at)

    monkeypatch.setattr(os, "preadv", short)
    out = bytearray(5000)
    assert backend.get_into("a", 100, memoryview(out))
    assert out == data[100:5100]

    def cutting(descriptor: int, buffers: list[memoryview], at: int) -> int:
        return 0 if at > 2000 else short(descriptor, buffers, at)

    monkeypatch.setattr(os, "preadv", cutting)
    with pytest.raises(TruncatedObjectError, match="changed the file while it was read") as caught:
        backend.get_into("a", 100, memoryview(out))
    assert caught.value.offset == 100 + 2 * 999
