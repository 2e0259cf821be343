"""A store in the memory of this process, for tests and experiments. Nothing of it outlives the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from deltackpt.backend.base import Buffer, ObjectInfo, byte_view, check_key, check_prefix, resolve_range
from deltackpt.errors import MissingObjectError, ObjectExistsError, StoreNotFoundError

__all__ = ["PROCESS_MEMORY", "MemoryBackend", "MemoryRegistry"]


class MemoryBackend:
    """Objects are values of a dictionary."""

    def __init__(self, name: str = "unnamed") -> None:
        check_key(name)
        self._url = f"memory://{name}"
        self._lock = threading.Lock()
        self._objects: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"<MemoryBackend {self._url}>"

    @property
    def url(self) -> str:
        """``memory://NAME``; opens to this object only if it came from the process's registry."""
        return self._url

    def put(self, key: str, data: Buffer) -> None:
        check_key(key)
        stored = bytes(byte_view(data))
        with self._lock:
            self._objects[key] = stored

    def put_if_absent(self, key: str, data: Buffer) -> None:
        check_key(key)
        stored = bytes(byte_view(data))
        with self._lock:
            if key in self._objects:
                raise ObjectExistsError(
                    "the object exists already", where=self._where(key), hint="it was left as it is"
                )
            self._objects[key] = stored

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        check_key(key)
        with self._lock:
            stored = self._objects.get(key)
        if stored is None:
            raise MissingObjectError(
                "there is no such object", where=self._where(key), hint="it was never written, or was deleted"
            )
        start, end = resolve_range(self._where(key), len(stored), start, length)
        return stored[start:end]

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        with self._lock:
            found = [ObjectInfo(key, len(data)) for key, data in self._objects.items() if key.startswith(prefix)]
        return iter(sorted(found, key=lambda info: info.key))

    def delete(self, key: str) -> None:
        check_key(key)
        with self._lock:
            self._objects.pop(key, None)

    def _where(self, key: str) -> str:
        return f"{self._url}/{key}"


class MemoryRegistry:
    """Memory backends by name, so that everybody who opens ``memory://NAME`` gets the same one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._backends: dict[str, MemoryBackend] = {}

    def open(self, name: str, *, create: bool = False) -> MemoryBackend:
        """The backend of this name; with ``create`` it is made where there is none.

        Raises:
            InvalidNameError: the name is not allowed; it follows the rule for keys.
            StoreNotFoundError: there is none, and not ``create``.
        """
        check_key(name)
        with self._lock:
            if create and name not in self._backends:
                self._backends[name] = MemoryBackend(name)
            backend = self._backends.get(name)
        if backend is None:
            raise StoreNotFoundError(
                "this process has no store of that name in memory",
                where=f"memory://{name}",
                hint="create it first; other processes cannot see it",
            )
        return backend

    def discard(self, name: str) -> None:
        """Forget the backend of this name, if there is one. Who holds it may go on using it."""
        with self._lock:
            self._backends.pop(name, None)


# The only state of the process in this package's backends: what memory:// URLs name.
PROCESS_MEMORY = MemoryRegistry()
