"""What every backend must do, as a pytest suite.

Subclass :class:`BackendConformance` in a test module and give it a fixture ``backend``::

    class TestMine(BackendConformance):
        @pytest.fixture
        def backend(self) -> Iterator[Backend]:
            yield MyBackend(...)          # fresh and empty for every test

For failures in full detail call ``pytest.register_assert_rewrite("deltackpt.testing.backend_conformance")`` in
``conftest.py``.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from deltackpt.backend.base import Backend, Buffer, ObjectInfo, ReadsInto
from deltackpt.errors import (
    InvalidArgumentError,
    InvalidNameError,
    MissingObjectError,
    ObjectExistsError,
    TruncatedObjectError,
)

__all__ = ["BAD_KEYS", "BackendConformance"]

# Each of them is wrong in its own way; some would leave the folder of a store on a file system.
BAD_KEYS = (
    "",
    "/",
    "/etc/passwd",
    "a/",
    "a//b",
    "//a",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/..",
    "a/./b",
    ".hidden",
    "a/.tmp-1",
    "-a",
    "a b",
    "a\n",
    "a\\b",
    "a\0b",
    "C:/a",
    "~/a",
    "a%2e",
    "a/\u00e9",
    "\u0661",
)

GOOD_KEYS = ("a", "Z", "0", "_", "a-b", "a.b", "a..b", "_.json", "a.", "a/b/c/d/e/f", "x" * 128, "000000001000")

_THREADS = 16


class BackendConformance:
    """One method for each clause of the contract in ``deltackpt.backend.base``."""

    # Put and get

    def test_is_a_backend_with_a_url(self, backend: Backend) -> None:
        assert isinstance(backend, Backend)
        assert backend.url

    @pytest.mark.parametrize("key", GOOD_KEYS)
    def test_what_was_put_is_got(self, backend: Backend, key: str) -> None:
        backend.put(key, b"some bytes")
        assert backend.get(key) == b"some bytes"
        assert list(backend.list()) == [ObjectInfo(key, 10)]

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    @pytest.mark.parametrize("method", ["put", "put_if_absent"])
    def test_takes_every_kind_of_buffer(self, backend: Backend, kind: Callable[[bytes], Buffer], method: str) -> None:
        getattr(backend, method)("a", kind(b"\x00\x01\xff"))
        got = backend.get("a")
        assert got == b"\x00\x01\xff"
        assert type(got) is bytes

    @pytest.mark.parametrize("method", ["put", "put_if_absent"])
    def test_takes_views_of_wider_items(self, backend: Backend, method: str) -> None:
        getattr(backend, method)("a", memoryview(bytes(range(24))).cast("I", (2, 3)))
        assert backend.get("a") == bytes(range(24))
        assert list(backend.list()) == [ObjectInfo("a", 24)]

    @pytest.mark.parametrize("method", ["put", "put_if_absent"])
    def test_refuses_views_with_gaps(self, backend: Backend, method: str) -> None:
        with pytest.raises(InvalidArgumentError, match="contiguous"):
            getattr(backend, method)("a", memoryview(b"abcdef")[::2])
        assert list(backend.list()) == []

    @pytest.mark.parametrize("method", ["put", "put_if_absent"])
    def test_does_not_keep_the_callers_buffer(self, backend: Backend, method: str) -> None:
        data = bytearray(b"before")
        getattr(backend, method)("a", data)
        data[:] = b"after!"
        assert backend.get("a") == b"before"
        # A buffer that something still holds cannot be resized.
        data.extend(b"more")

    @pytest.mark.parametrize("method", ["put", "put_if_absent"])
    def test_empty_objects(self, backend: Backend, method: str) -> None:
        getattr(backend, method)("a/empty", b"")
        assert backend.get("a/empty") == b""
        assert backend.get("a/empty", 0, 0) == b""
        assert list(backend.list()) == [ObjectInfo("a/empty", 0)]
        with pytest.raises(TruncatedObjectError):
            backend.get("a/empty", 0, 1)

    @pytest.mark.parametrize("method", ["put", "put_if_absent"])
    def test_large_objects(self, backend: Backend, method: str) -> None:
        data = random.Random(0).randbytes((8 << 20) + 13)
        getattr(backend, method)("large", data)
        # Plain comparisons: the difference of two such objects is no help in a report.
        assert (backend.get("large") == data) is True
        assert (backend.get("large", 1 << 20, (5 << 20) + 1) == data[1 << 20 : (6 << 20) + 1]) is True
        assert list(backend.list()) == [ObjectInfo("large", len(data))]

    @pytest.mark.parametrize("size", [0, 3, 100])
    def test_put_replaces_the_whole_object(self, backend: Backend, size: int) -> None:
        backend.put("a", b"x" * 10)
        backend.put("b", b"other")
        backend.put("a", b"y" * size)
        assert backend.get("a") == b"y" * size
        assert backend.get("b") == b"other"
        assert list(backend.list()) == [ObjectInfo("a", size), ObjectInfo("b", 5)]

    # Put if absent

    def test_put_if_absent_leaves_what_is_there(self, backend: Backend) -> None:
        for first in (b"", b"1", b"first"):
            key = f"a/{len(first)}"
            backend.put_if_absent(key, first)
            for data in (first, b"second, longer", b""):
                with pytest.raises(ObjectExistsError, match=key):
                    backend.put_if_absent(key, data)
                assert backend.get(key) == first

    def test_put_if_absent_after_put_and_after_delete(self, backend: Backend) -> None:
        backend.put("a", b"")
        with pytest.raises(ObjectExistsError):
            backend.put_if_absent("a", b"new")
        backend.delete("a")
        backend.put_if_absent("a", b"new")
        assert backend.get("a") == b"new"
        backend.put("a", b"newer")
        assert backend.get("a") == b"newer"

    def test_one_of_many_concurrent_put_if_absent_succeeds(self, backend: Backend) -> None:
        barrier = threading.Barrier(_THREADS)

        def attempt(key: str, thread: int) -> bool:
            barrier.wait()
            try:
                backend.put_if_absent(key, _uniform(thread, 10_000 + thread))
            except ObjectExistsError:
                # The winner may not have returned yet, but what is there is whole.
                assert _is_uniform(backend.get(key))
                return False
            return True

        with ThreadPoolExecutor(_THREADS) as pool:
            for key in (f"race/{number % 3}/{number}" for number in range(10)):
                futures = [pool.submit(attempt, key, thread) for thread in range(_THREADS)]
                won = [thread for thread, future in enumerate(futures) if future.result()]
                assert len(won) == 1
                assert backend.get(key) == _uniform(won[0], 10_000 + won[0])

    # Ranges

    @pytest.mark.parametrize(
        ("start", "length", "expected"),
        [
            (0, None, b"0123456789"),
            (0, 10, b"0123456789"),
            (0, 4, b"0123"),
            (3, 4, b"3456"),
            (6, 4, b"6789"),
            (6, None, b"6789"),
            (9, 1, b"9"),
            (5, 0, b""),
            (10, 0, b""),
            (10, None, b""),
        ],
    )
    def test_ranges(self, backend: Backend, start: int, length: int | None, expected: bytes) -> None:
        backend.put("a", b"0123456789")
        assert backend.get("a", start, length) == expected
        if isinstance(backend, ReadsInto):
            out = bytearray(len(expected))
            assert backend.get_into("a", start, memoryview(out)) in (True, False)
            assert not backend.get_into("a", start, memoryview(out)) or out == expected

    @pytest.mark.parametrize(("start", "length"), [(0, 11), (9, 2), (10, 1), (11, 0), (11, None), (2**40, 2**40)])
    def test_a_range_past_the_end_is_an_error(self, backend: Backend, start: int, length: int | None) -> None:
        backend.put("some/object", b"0123456789")
        with pytest.raises(TruncatedObjectError, match="some/object") as caught:
            backend.get("some/object", start, length)
        assert caught.value.offset == 10
        if length is not None and length < 100 and isinstance(backend, ReadsInto):
            able = backend.get_into("some/object", 0, memoryview(bytearray(1)))
            with pytest.raises(TruncatedObjectError, match="some/object") if able else nullcontext():
                backend.get_into("some/object", start, memoryview(bytearray(length)))

    @pytest.mark.parametrize(("start", "length"), [(-1, 1), (-1, None), (0, -1), (5, -1)])
    def test_a_negative_range_is_an_error(self, backend: Backend, start: int, length: int | None) -> None:
        backend.put("a", b"0123456789")
        with pytest.raises(InvalidArgumentError):
            backend.get("a", start, length)

    @pytest.mark.parametrize("key", ["a", "b/c", "b/c/d"])
    def test_an_absent_object_is_missing(self, backend: Backend, key: str) -> None:
        backend.put("b/other", b"")
        for start, length in ((0, None), (0, 0), (5, 5)):
            with pytest.raises(MissingObjectError, match=key):
                backend.get(key, start, length)

    def test_the_folder_of_an_object_is_no_object(self, backend: Backend) -> None:
        backend.put("a/b/c", b"data")
        for key in ("a", "a/b", "a/b/c/d"):
            with pytest.raises(MissingObjectError):
                backend.get(key)
            backend.delete(key)
        assert [info.key for info in backend.list()] == ["a/b/c"]

    # Delete

    def test_delete(self, backend: Backend) -> None:
        backend.put("a/b", b"1")
        backend.put("a/c", b"2")
        backend.delete("a/b")
        with pytest.raises(MissingObjectError):
            backend.get("a/b")
        assert [info.key for info in backend.list()] == ["a/c"]
        assert backend.get("a/c") == b"2"

    def test_deleting_what_is_absent_is_no_error(self, backend: Backend) -> None:
        backend.delete("a")
        backend.delete("b/c/d")
        backend.put("a", b"")
        backend.delete("a")
        backend.delete("a")
        assert list(backend.list()) == []

    def test_concurrent_puts_and_deletes_in_one_folder(self, backend: Backend) -> None:
        """A folder that gets empty and is needed again at the same moment must not fail anybody."""

        def churn(thread: int) -> None:
            for turn in range(25):
                key = f"folder/inner/{thread}"
                backend.put(key, _uniform(turn, 100))
                assert backend.get(key) == _uniform(turn, 100)
                backend.delete(key)

        with ThreadPoolExecutor(8) as pool:
            _wait_all([pool.submit(churn, thread) for thread in range(8)])
        assert list(backend.list()) == []

    # List

    def test_list_of_an_empty_backend(self, backend: Backend) -> None:
        assert list(backend.list()) == []
        assert list(backend.list("a/b/")) == []

    def test_list_is_in_key_order(self, backend: Backend) -> None:
        # '-' and '.' sort before '/', letters and digits after: folders must not be listed by their bare names.
        keys = ["a-b", "a.b", "a/b", "a/b.c/d", "a/b0", "a0", "a/c/x", "A", "_", "b/a/a", "b/a.a", "b/a-a", "b/aa"]
        shuffled = keys.copy()
        random.Random(1).shuffle(shuffled)
        for key in shuffled:
            backend.put(key, key.encode())
        assert list(backend.list()) == [ObjectInfo(key, len(key)) for key in sorted(keys)]

    def test_list_of_a_prefix(self, backend: Backend) -> None:
        keys = [
            "manifests/main/1",
            "manifests/main/2",
            "manifests/main.old/1",
            "manifests/mainly",
            "packs/ab/1",
            "store.json",
        ]
        for key in keys:
            backend.put(key, b"")
        for prefix in (
            "",
            "m",
            "manifests/",
            "manifests/main",
            "manifests/main/",
            "manifests/main/1",
            "packs/ab",
            "x",
            "x/y/",
        ):
            expected = sorted(key for key in keys if key.startswith(prefix))
            assert [info.key for info in backend.list(prefix)] == expected
        assert [info.key for info in backend.list("store.json/")] == []

    def test_list_sees_every_completed_put_and_no_completed_delete(self, backend: Backend) -> None:
        steady = {f"steady/{number:02}" for number in range(20)}
        for key in steady:
            backend.put(key, b"steady")
        stop = threading.Event()

        def churn(thread: int) -> None:
            turn = 0
            while not stop.is_set() or turn < 5:
                key = f"churn/{thread}/{turn % 7}"
                backend.put(key, _uniform(turn, 50))
                assert key in {info.key for info in backend.list(f"churn/{thread}/")}
                backend.delete(key)
                assert key not in {info.key for info in backend.list(f"churn/{thread}/")}
                turn += 1

        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(churn, thread) for thread in range(4)]
            try:
                for _ in range(20):
                    found = list(backend.list())
                    assert found == sorted(found, key=lambda info: info.key)
                    assert steady <= {info.key for info in found}
                    assert {info.size for info in found} <= {6, 50}
            finally:
                stop.set()
            _wait_all(futures)
        assert {info.key for info in backend.list()} == steady

    def test_objects_may_be_deleted_while_they_are_listed(self, backend: Backend) -> None:
        keys = [f"a/{number:02}/x" for number in range(20)]
        for key in keys:
            backend.put(key, b"")
        seen = []
        for info in backend.list("a/"):
            seen.append(info.key)
            backend.delete(info.key)
        assert seen == keys
        assert list(backend.list()) == []

    # Concurrent readers

    def test_readers_see_the_old_or_the_new_object_whole(self, backend: Backend) -> None:
        backend.put("a/b", _uniform(0, 1000))
        stop = threading.Event()

        def read() -> int:
            count = 0
            while not stop.is_set() or count == 0:
                assert _is_uniform(backend.get("a/b"))
                assert _is_uniform(backend.get("a/b", 100, 800))
                count += 1
            return count

        with ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(read) for _ in range(4)]
            try:
                for turn in range(100):
                    backend.put("a/b", _uniform(turn, 1000 + 977 * (turn % 200)))
            finally:
                stop.set()
            _wait_all(readers)
        assert backend.get("a/b") == _uniform(99, 1000 + 977 * 99)

    # Names

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_refuses_keys_that_are_not_allowed(self, backend: Backend, key: str) -> None:
        operations: list[Callable[[], object]] = [
            lambda: backend.put(key, b""),
            lambda: backend.put_if_absent(key, b""),
            lambda: backend.get(key),
            lambda: backend.delete(key),
        ]
        for operation in operations:
            with pytest.raises(InvalidNameError):
                operation()
        assert list(backend.list()) == []

    @pytest.mark.parametrize("prefix", [key for key in BAD_KEYS if key not in ("", "a/")])
    def test_refuses_prefixes_that_no_key_can_have(self, backend: Backend, prefix: str) -> None:
        with pytest.raises(InvalidNameError):
            backend.list(prefix)


def _uniform(number: int, size: int) -> bytes:
    """An object of which every part shows to which write it belongs."""
    return bytes([number % 256]) * size


def _is_uniform(data: bytes) -> bool:
    return len(data) > 0 and data == data[:1] * len(data)


def _wait_all(futures: list[Future[None]] | list[Future[int]]) -> None:
    for future in futures:
        future.result(timeout=60)
