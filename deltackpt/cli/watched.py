"""A decorator around a backend that says how much was read, for progress."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from deltackpt.backend.base import Backend, Buffer, ObjectInfo, ReadsInto

__all__ = ["WatchedBackend"]


class WatchedBackend:
    """Passes everything on.

    Args:
        inner: the backend.
        on_read: called after every read, from its thread, with the bytes read so far.
    """

    def __init__(self, inner: Backend, on_read: Callable[[int], None]) -> None:
        self._inner = inner
        self._on_read = on_read
        self._read = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """That of the backend inside."""
        return self._inner.url

    def put(self, key: str, data: Buffer) -> None:
        self._inner.put(key, data)

    def put_if_absent(self, key: str, data: Buffer) -> None:
        self._inner.put_if_absent(key, data)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        data = self._inner.get(key, start, length)
        self._add(len(data))
        return data

    def get_into(self, key: str, start: int, out: memoryview) -> bool:
        done = isinstance(self._inner, ReadsInto) and self._inner.get_into(key, start, out)
        if done:
            self._add(len(out))
        return done

    def _add(self, count: int) -> None:
        with self._lock:
            self._read += count
            self._on_read(self._read)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list(prefix)

    def delete(self, key: str) -> None:
        self._inner.delete(key)
