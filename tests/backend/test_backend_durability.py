"""In which order a local put reaches the disk, and what is visible if it stops anywhere on the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deltackpt.backend import durable
from deltackpt.backend.local import LocalBackend
from deltackpt.errors import BackendError, InvalidNameError, ObjectExistsError

# Every function of os that changes something, or that a put relies on.
CALLS = ("open", "mkdir", "write", "fsync", "fstat", "close", "link", "replace", "unlink", "rmdir")
METHODS = ("put", "put_if_absent")
OLD = b"the old object"
NEW = b"the new object, in some writes"


class Killed(BaseException):
    """Stands for the end of the process."""


class Trace:
    """Records the calls to ``os`` by the names of the files, and has one of them fail.

    Args:
        root: names are relative to it.
        fail_at: number of the call that fails, from 1 on; 0 for none.
        error: what it fails with. After ``Killed``, nothing but closing takes effect any more, as in a process that is
            gone.
    """

    def __init__(self, root: Path, fail_at: int = 0, error: type[BaseException] = Killed) -> None:
        self.root = root
        self.fail_at = fail_at
        self.error = error
        self.events: list[str] = []
        self.failed: str | None = None
        self._names: dict[int, str] = {}
        self._count = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self._wrap(name, getattr(os, name)))
            yield

    def _wrap(self, call: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            self._count += 1
            dead = self.error is Killed and self.failed is not None
            if dead or self._count == self.fail_at:
                self.failed = self.failed or call
                if call == "close":
                    original(*args, **options)
                    if dead:
                        return None
                if self.error is Killed:
                    raise Killed
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if call == "write":
                args = (args[0], args[1][:7])
            self._record(call, args, options)
            result = original(*args, **options)
            if call == "open":
                self._names[result] = self._path(args[0], options.get("dir_fd"))
            return result

        return wrapped

    def _record(self, call: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        if call in {"fstat", "close"} or (call == "open" and not args[1] & os.O_CREAT):
            return
        if call in {"write", "fsync"}:
            event = f"{call} {self._names[args[0]]}"
        elif call in {"link", "replace"}:
            target = self._path(args[1], options["dst_dir_fd"])
            event = f"{call} {self._path(args[0], options['src_dir_fd'])} {target}"
        else:
            event = f"{'create' if call == 'open' else call} {self._path(args[0], options.get('dir_fd'))}"
        if not self.events or self.events[-1] != event:
            self.events.append(event)

    def _path(self, name: str, folder: int | None) -> str:
        path = name if folder is None else os.path.join(self._names[folder], name)
        path = os.path.relpath(path, self.root) if os.path.isabs(path) else os.path.normpath(path)
        head, last = os.path.split(path)
        return os.path.join(head, "TEMP") if last.startswith(durable.TEMPORARY_PREFIX) else path


def trace(root: Path, action: Callable[[], object]) -> list[str]:
    recorded = Trace(root)
    with recorded.installed():
        action()
    return recorded.events


PUBLISH = {"put": ["replace a/b/TEMP a/b/c"], "put_if_absent": ["link a/b/TEMP a/b/c"]}


# The order


@pytest.mark.parametrize("method", METHODS)
def test_folders_then_data_then_name_each_durable(tmp_path: Path, method: str) -> None:
    backend = LocalBackend(tmp_path)
    assert trace(tmp_path, lambda: getattr(backend, method)("a/b/c", NEW)) == [
        "mkdir a",
        "fsync .",
        "mkdir a/b",
        "fsync a",
        "create a/b/TEMP",
        "write a/b/TEMP",
        "fsync a/b/TEMP",
        *PUBLISH[method],
        "fsync a/b",
        "unlink a/b/TEMP",
    ]


@pytest.mark.parametrize("method", METHODS)
def test_a_second_put_syncs_only_its_file_and_folder(tmp_path: Path, method: str) -> None:
    backend = LocalBackend(tmp_path)
    backend.put("a/b/x", NEW)
    expected = ["create a/b/TEMP", "write a/b/TEMP", "fsync a/b/TEMP", *PUBLISH[method], "fsync a/b", "unlink a/b/TEMP"]
    assert trace(tmp_path, lambda: getattr(backend, method)("a/b/c", NEW)) == expected


def test_folders_that_another_process_made_are_synced_once(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    backend = LocalBackend(tmp_path)
    assert trace(tmp_path, lambda: backend.put("a/b/c", NEW))[:3] == ["fsync .", "fsync a", "create a/b/TEMP"]
    assert trace(tmp_path, lambda: backend.put("a/b/d", NEW))[0] == "create a/b/TEMP"


def test_a_folder_made_again_is_synced_again(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    backend.put("a/b/c", NEW)
    backend.delete("a/b/c")
    events = trace(tmp_path, lambda: backend.put("a/b/c", NEW))
    assert events[:4] == ["mkdir a", "fsync .", "mkdir a/b", "fsync a"]


def test_what_is_remembered_of_folders_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltackpt.backend.folders._REMEMBERED_MAX", 2)
    backend = LocalBackend(tmp_path)
    for number in range(10):
        backend.put(f"{number}/x", NEW)
        assert len(backend._folders._durable) <= 2
    assert trace(tmp_path, lambda: backend.put("0/x", NEW))[0] == "fsync ."


def test_a_new_root_is_durable(tmp_path: Path) -> None:
    assert trace(tmp_path, lambda: LocalBackend(tmp_path / "x" / "y", create=True)) == [
        "mkdir x",
        "fsync .",
        "mkdir x/y",
        "fsync x",
    ]


def test_a_delete_is_durable_before_folders_are_removed(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    backend.put("a/b/c", NEW)
    events = trace(tmp_path, lambda: backend.delete("a/b/c"))
    assert events == ["unlink a/b/c", "fsync a/b", "rmdir a/b", "rmdir a"]


# Stopping anywhere


def _prepare(root: Path, existing: bool) -> LocalBackend:
    backend = LocalBackend(root, create=True)
    backend.put("other/x", OLD)
    if existing:
        backend.put("a/b/c", OLD)
    # As another process sees it: nothing is remembered.
    return LocalBackend(root)


def _visible(root: Path) -> bytes | None:
    """The object as anybody sees it; checks that nothing else is visible and that nothing is in the way."""
    backend = LocalBackend(root)
    listed = {info.key: info.size for info in backend.list()}
    assert listed.pop("other/x") == len(OLD)
    assert backend.get("other/x") == OLD
    if not listed:
        return None
    data = backend.get("a/b/c")
    assert listed == {"a/b/c": len(data)}
    return data


def _temporaries(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.startswith(durable.TEMPORARY_PREFIX)]


@pytest.mark.parametrize(("method", "existing"), [("put", False), ("put", True), ("put_if_absent", False)])
def test_killed_anywhere_the_object_is_whole_or_not_there(tmp_path: Path, method: str, existing: bool) -> None:
    seen: list[bytes | None] = []
    left = 0
    for fail_at in range(1, 200):
        root = tmp_path / str(fail_at)
        backend = _prepare(root, existing)
        recorded = Trace(root, fail_at)
        try:
            with recorded.installed():
                getattr(backend, method)("a/b/c", NEW)
        except Killed:
            seen.append(_visible(root))
        left += len(_temporaries(root))
        # What was left is in nobody's way, and can be told from objects.
        LocalBackend(root).put("a/b/c", NEW)
        LocalBackend(root).remove_temporaries(min_age=-1)
        assert _temporaries(root) == []
        assert _visible(root) == NEW
        if recorded.failed is None:
            break
    else:
        pytest.fail("the put never came to its end")
    before = OLD if existing else None
    # First the old state, then the new one, with no way back and nothing between.
    switch = seen.index(NEW)
    assert seen[:switch] == [before] * switch
    assert seen[switch:] == [NEW] * (len(seen) - switch)
    assert switch > 10
    assert left > 0


@pytest.mark.parametrize(("method", "existing"), [("put", False), ("put", True), ("put_if_absent", False)])
def test_an_error_anywhere_leaves_no_half_object_no_temporary_and_no_open_file(
    tmp_path: Path, method: str, existing: bool
) -> None:
    before = OLD if existing else None
    failed: dict[str, set[bytes | None]] = {}
    descriptors = len(os.listdir("/proc/self/fd"))
    for fail_at in range(1, 200):
        root = tmp_path / str(fail_at)
        backend = _prepare(root, existing)
        recorded = Trace(root, fail_at, OSError)
        caught: BackendError | None = None
        try:
            with recorded.installed():
                getattr(backend, method)("a/b/c", NEW)
        except BackendError as error:
            caught = error
        if recorded.failed in {None, "unlink"}:
            # Only the removal of a temporary may fail without a word: the object is what counts.
            assert caught is None
            assert _visible(root) == NEW
        else:
            assert caught is not None
            assert caught.errno == errno.EIO
            assert caught.where == str(root / "a" / "b" / "c")
            failed.setdefault(recorded.failed, set()).add(_visible(root))
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert len(_temporaries(root)) == (1 if recorded.failed == "unlink" and method == "put_if_absent" else 0)
        if recorded.failed is None:
            break
    else:
        pytest.fail("the put never came to its end")
    publish = "replace" if method == "put" else "link"
    for call in ("open", "write", "fstat", publish):
        assert failed[call] == {before}
    # The file, and every folder above it, before it is visible; its own folder after that.
    for call in ("fsync", "close"):
        assert failed[call] == {before, NEW}


# File systems that lack something


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_file_systems_without_fsync_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    fsync, synced = os.fsync, []

    def files_only(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(code, os.strerror(code))
        synced.append(descriptor)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    backend = LocalBackend(tmp_path / "new", create=True)
    backend.put("a/b", NEW)
    backend.put_if_absent("a/c", NEW)
    backend.delete("a/c")
    assert len(synced) == 2


@pytest.mark.parametrize("method", METHODS)
def test_a_file_that_cannot_be_synced_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    fsync = os.fsync

    def folders_only(descriptor: int) -> None:
        if not os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", folders_only)
    backend = LocalBackend(tmp_path)
    with pytest.raises(BackendError):
        getattr(backend, method)("a/b", NEW)
    assert list(backend.list()) == []
    assert _temporaries(tmp_path) == []


def _refuse(code: int) -> Callable[..., None]:
    def refusing(*args: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    return refusing


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_hard_links_a_rename_that_does_not_replace_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "link", _refuse(code))
    backend = LocalBackend(tmp_path)
    backend.put("a/folder/x", OLD)
    backend.put_if_absent("a/b", OLD)
    with pytest.raises(ObjectExistsError):
        backend.put_if_absent("a/b", NEW)
    with pytest.raises(InvalidNameError):
        backend.put_if_absent("a/folder", NEW)
    assert backend.get("a/b") == OLD
    assert _temporaries(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_without_either_nothing_is_pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(os, "link", _refuse(errno.EPERM))
    monkeypatch.setattr(durable, "_rename_noreplace", _refuse(code))
    backend = LocalBackend(tmp_path)
    with pytest.raises(BackendError, match=r"a/b: .*neither hard links.*another file system") as caught:
        backend.put_if_absent("a/b", NEW)
    assert caught.value.errno == errno.ENOTSUP
    backend.put("a/c", NEW)
    assert [info.key for info in backend.list()] == ["a/c"]
    assert _temporaries(tmp_path) == []


def test_a_c_library_without_that_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _refuse(errno.EPERM))
    monkeypatch.setattr("ctypes.CDLL", lambda *args, **options: object())
    with pytest.raises(BackendError, match="neither hard links"):
        LocalBackend(tmp_path).put_if_absent("a", NEW)


def test_errors_of_that_rename_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _refuse(errno.EPERM))
    monkeypatch.setattr(durable, "_rename_noreplace", _refuse(errno.EACCES))
    with pytest.raises(BackendError, match="permission denied") as caught:
        LocalBackend(tmp_path).put_if_absent("a", NEW)
    assert caught.value.errno == errno.EACCES


def test_a_link_that_was_made_though_its_answer_says_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An NFS client that repeats a request whose answer was lost is told of its own link."""
    link = os.link

    def repeated(*args: Any, **options: Any) -> None:
        link(*args, **options)
        link(*args, **options)

    monkeypatch.setattr(os, "link", repeated)
    backend = LocalBackend(tmp_path)
    backend.put_if_absent("a/b", NEW)
    assert backend.get("a/b") == NEW
    with pytest.raises(ObjectExistsError):
        backend.put_if_absent("a/b", NEW)
    assert _temporaries(tmp_path) == []
