"""Every backend and every decorator keeps the contract; and the suite that says so can fail."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deltackpt.backend.base import Backend, Buffer, ObjectInfo
from deltackpt.backend.local import LocalBackend
from deltackpt.backend.memory import MemoryBackend
from deltackpt.backend.retry import RetryingBackend
from deltackpt.errors import DeltackptError, ObjectExistsError
from deltackpt.testing import FaultyBackend, RecordingBackend
from deltackpt.testing.backend_conformance import BackendConformance


class TestMemory(BackendConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return MemoryBackend()


class TestLocal(BackendConformance):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return LocalBackend(tmp_path / "store", create=True)

    @pytest.fixture(autouse=True)
    def leaves_no_temporaries(self, tmp_path: Path) -> Iterator[None]:
        yield
        assert [path for path in tmp_path.rglob("*") if path.name.startswith(".")] == []


class TestLocalWithoutHardLinks(TestLocal):
    @pytest.fixture(autouse=True)
    def no_hard_links(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def link(*args: object, **options: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", link)


class TestDecorated(BackendConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return RetryingBackend(RecordingBackend(FaultyBackend(MemoryBackend(), [])))


class CheckedTooLate(MemoryBackend):
    def __init__(self) -> None:
        super().__init__()
        self.checked = threading.Barrier(16)

    def put_if_absent(self, key: str, data: Buffer) -> None:
        if key in self._objects:
            raise ObjectExistsError("taken", where=key)
        self.checked.wait(timeout=60)
        self.put(key, data)


class ShortAnswers(MemoryBackend):
    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        data = super().get(key)
        return data[start:] if length is None else data[start : start + length]


class Torn(MemoryBackend):
    def __init__(self) -> None:
        super().__init__()
        self.seen = threading.Event()

    def put(self, key: str, data: Buffer) -> None:
        if key in self._objects and not self.seen.is_set():
            super().put(key, bytes(data[: len(data) // 2]).ljust(len(data), b"-"))
            self.seen.wait(timeout=60)
        super().put(key, data)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        data = super().get(key, start, length)
        if data.endswith(b"-"):
            self.seen.set()
        return data


class Unsorted(MemoryBackend):
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return iter(sorted(super().list(prefix), key=lambda info: info.key.split("/")))


class WholePartsOnly(MemoryBackend):
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder = prefix.rstrip("/")
        return (info for info in super().list() if not folder or info.key.startswith(folder + "/"))


class Lagging(MemoryBackend):
    def __init__(self) -> None:
        super().__init__()
        self.answer: tuple[ObjectInfo, ...] = ()

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        answer, self.answer = self.answer, tuple(super().list(prefix))
        return iter(answer)


class Lenient(MemoryBackend):
    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        try:
            return super().get(key, start, length)
        except DeltackptError:
            return b""


@pytest.mark.parametrize(
    ("broken", "run"),
    [
        (CheckedTooLate, lambda suite, backend: suite.test_one_of_many_concurrent_put_if_absent_succeeds(backend)),
        (ShortAnswers, lambda suite, backend: suite.test_a_range_past_the_end_is_an_error(backend, 9, 2)),
        (Torn, lambda suite, backend: suite.test_readers_see_the_old_or_the_new_object_whole(backend)),
        (Unsorted, lambda suite, backend: suite.test_list_is_in_key_order(backend)),
        (WholePartsOnly, lambda suite, backend: suite.test_list_of_a_prefix(backend)),
        (Lagging, lambda suite, backend: suite.test_delete(backend)),
        (Lenient, lambda suite, backend: suite.test_an_absent_object_is_missing(backend, "b/c")),
        (Lenient, lambda suite, backend: suite.test_refuses_keys_that_are_not_allowed(backend, "../a")),
    ],
)
def test_the_suite_finds_broken_backends(
    broken: Callable[[], Backend], run: Callable[[BackendConformance, Backend], None]
) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run(BackendConformance(), broken())
