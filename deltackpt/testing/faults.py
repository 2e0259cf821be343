"""Backends for tests: they fail on purpose, keep a record of what was done, or hold damaged bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from deltackpt.backend.base import Backend, Buffer, ObjectInfo, byte_view
from deltackpt.errors import BackendError, InvalidArgumentError

__all__ = [
    "Fault",
    "FaultyBackend",
    "Kind",
    "Operation",
    "RecordingBackend",
    "flip_bits",
    "overwrite_bytes",
    "truncate_object",
]

Kind: TypeAlias = Literal["put", "put_if_absent", "get", "list", "delete"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: the operation that fails.
        nth: which of them, counted from 1 among those of this kind whose key (or prefix, for list) starts with
            ``prefix``.
        error: makes the exception to raise. An exception that is no ``Exception``, such as ``KeyboardInterrupt``,
            stands for a kill.
        when: ``before`` the operation took effect, or ``after`` it did, as when the answer is lost.
        times: how many operations in a row fail, from the nth on; None for all.
        prefix: which keys count.
    """

    kind: Kind
    nth: int = 1
    error: Callable[[], BaseException] = lambda: BackendError("a fault injected by a test")
    when: Literal["before", "after"] = "before"
    times: int | None = 1
    prefix: str = ""

    def __post_init__(self) -> None:
        if self.nth < 1 or (self.times is not None and self.times < 1):
            raise InvalidArgumentError(f"a fault that never happens: {self}", hint="nth and times count from 1")

    def strikes(self, count: int) -> bool:
        """Whether the ``count``-th matching operation fails."""
        return count >= self.nth and (self.times is None or count < self.nth + self.times)


class FaultyBackend:
    """Passes everything on to ``inner`` but for the operations that ``plan`` lets fail.

    A fault of a list strikes before its first object or after its last. Thread safe: each operation counts once.
    """

    def __init__(self, inner: Backend, plan: Iterable[Fault]) -> None:
        self._inner = inner
        self._plan = tuple(plan)
        self._seen = [0] * len(self._plan)
        self._struck = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """That of the backend inside."""
        return self._inner.url

    @property
    def struck(self) -> int:
        """How many operations have failed so far: a test of a fault that never came proves nothing."""
        return self._struck

    def put(self, key: str, data: Buffer) -> None:
        self._run("put", key, lambda: self._inner.put(key, data))

    def put_if_absent(self, key: str, data: Buffer) -> None:
        self._run("put_if_absent", key, lambda: self._inner.put_if_absent(key, data))

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return self._run("get", key, lambda: self._inner.get(key, start, length))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        fault = self._next_fault("list", prefix)
        return self._list(self._inner.list(prefix), fault)

    def delete(self, key: str) -> None:
        self._run("delete", key, lambda: self._inner.delete(key))

    def _list(self, found: Iterator[ObjectInfo], fault: Fault | None) -> Iterator[ObjectInfo]:
        self._strike(fault, "before")
        yield from found
        self._strike(fault, "after")

    def _run(self, kind: Kind, key: str, operation: Callable[[], _T]) -> _T:
        fault = self._next_fault(kind, key)
        self._strike(fault, "before")
        result = operation()
        self._strike(fault, "after")
        return result

    def _next_fault(self, kind: Kind, key: str) -> Fault | None:
        """Count the operation for every fault; the first that strikes it."""
        struck: Fault | None = None
        with self._lock:
            for number, fault in enumerate(self._plan):
                if fault.kind == kind and key.startswith(fault.prefix):
                    self._seen[number] += 1
                    if struck is None and fault.strikes(self._seen[number]):
                        struck = fault
        return struck

    def _strike(self, fault: Fault | None, when: Literal["before", "after"]) -> None:
        if fault is not None and fault.when == when:
            with self._lock:
                self._struck += 1
            raise fault.error()


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation that ended.

    Attributes:
        kind: which.
        key: the key, or the prefix of a list.
        start: first byte of a get, else 0.
        size: bytes that went in or came out; objects given out by a list; 0 if it failed.
        failed: whether it raised.
    """

    kind: Kind
    key: str
    start: int
    size: int
    failed: bool


class RecordingBackend:
    """Passes everything on to ``inner`` and keeps a record of it, in the order in which operations end. Thread safe.

    A list is recorded when it was read to its end, or was given up.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self._log: deque[Operation] = deque()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """That of the backend inside."""
        return self._inner.url

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All operations since the start or the last :meth:`clear`."""
        with self._lock:
            return tuple(self._log)

    def clear(self) -> None:
        """Forget what was recorded."""
        with self._lock:
            self._log.clear()

    def count(self, kind: Kind, prefix: str = "") -> int:
        """How many operations of this kind there were whose key starts with ``prefix``, failed ones included."""
        return sum(1 for done in self.operations if done.kind == kind and done.key.startswith(prefix))

    def bytes_read(self, prefix: str = "") -> int:
        """Bytes that gets of keys starting with ``prefix`` gave out."""
        return sum(done.size for done in self.operations if done.kind == "get" and done.key.startswith(prefix))

    def bytes_written(self, prefix: str = "") -> int:
        """Bytes that puts of either kind stored under keys starting with ``prefix``."""
        kinds = ("put", "put_if_absent")
        return sum(done.size for done in self.operations if done.kind in kinds and done.key.startswith(prefix))

    def put(self, key: str, data: Buffer) -> None:
        size = byte_view(data).nbytes
        self._record("put", key, 0, lambda: self._inner.put(key, data), lambda _: size)

    def put_if_absent(self, key: str, data: Buffer) -> None:
        size = byte_view(data).nbytes
        self._record("put_if_absent", key, 0, lambda: self._inner.put_if_absent(key, data), lambda _: size)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return self._record("get", key, start, lambda: self._inner.get(key, start, length), len)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._list(self._inner.list(prefix), prefix)

    def delete(self, key: str) -> None:
        self._record("delete", key, 0, lambda: self._inner.delete(key), lambda _: 0)

    def _list(self, found: Iterator[ObjectInfo], prefix: str) -> Iterator[ObjectInfo]:
        size, failed = 0, False
        try:
            for info in found:
                size += 1
                yield info
        except Exception:
            failed = True
            raise
        finally:
            self._append(Operation("list", prefix, 0, size, failed))

    def _record(self, kind: Kind, key: str, start: int, operation: Callable[[], _T], size: Callable[[_T], int]) -> _T:
        try:
            result = operation()
        except BaseException:
            self._append(Operation(kind, key, start, 0, failed=True))
            raise
        self._append(Operation(kind, key, start, size(result), failed=False))
        return result

    def _append(self, done: Operation) -> None:
        with self._lock:
            self._log.append(done)


def flip_bits(backend: Backend, key: str, offset: int, mask: int = 0xFF) -> None:
    """Flip the bits of ``mask`` (1 to 255) in one stored byte; a negative ``offset`` counts from the end.

    Raises:
        InvalidArgumentError: there is no such byte, or the mask changes nothing.
        MissingObjectError: there is no such object.
    """
    data = bytearray(backend.get(key))
    if not 0 < mask < 256 or not -len(data) <= offset < len(data):
        raise InvalidArgumentError(f"nothing to flip at byte {offset} of {len(data)} with mask {mask}", where=key)
    data[offset] ^= mask
    backend.put(key, data)


def overwrite_bytes(backend: Backend, key: str, offset: int, data: Buffer) -> None:
    """Put ``data`` over the stored bytes from ``offset`` on; the size stays. Negative counts from the end.

    Raises:
        InvalidArgumentError: the bytes do not fit, or are what is stored.
        MissingObjectError: there is no such object.
    """
    stored = backend.get(key)
    start = offset + len(stored) if offset < 0 else offset
    new = byte_view(data)
    if start < 0 or start + len(new) > len(stored) or stored[start : start + len(new)] == new:
        raise InvalidArgumentError(f"{len(new)} bytes at byte {offset} of {len(stored)} change nothing", where=key)
    backend.put(key, stored[:start] + bytes(new) + stored[start + len(new) :])


def truncate_object(backend: Backend, key: str, size: int) -> None:
    """Cut a stored object off after ``size`` bytes; a negative ``size`` says how many are lost.

    Raises:
        InvalidArgumentError: the object is not longer than that.
        MissingObjectError: there is no such object.
    """
    data = backend.get(key)
    keep = size + len(data) if size < 0 else size
    if not 0 <= keep < len(data):
        raise InvalidArgumentError(f"an object of {len(data)} bytes cannot be cut off at {size}", where=key)
    backend.put(key, data[:keep])
