"""A file to be imported: read by ranges, so that memory does not grow with it."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deltackpt.backend.oserrors import os_errors
from deltackpt.errors import DamagedFileError

__all__ = ["Readable", "SourceFile", "Window"]


class Readable(Protocol):
    """Bytes that a parser reads: a file, or a part of one."""

    @property
    def path(self) -> Path:
        """The file, for errors."""
        ...

    @property
    def size(self) -> int:
        """How many bytes there are."""
        ...

    def bytes(self, start: int, length: int) -> bytes:
        """Bytes ``[start, start + length)``; DamagedFileError where they are not all there."""
        ...


class SourceFile:
    """A regular file; safe to read from many threads. It is open only within ``with`` or during a read.

    Args:
        path: where it is; links are followed.

    Raises:
        BackendError: it cannot be looked at.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with os_errors("read the file", str(path)):
            self.stat = path.stat()
        self._descriptor: int | None = None

    @property
    def path(self) -> Path:
        return self._path

    @property
    def size(self) -> int:
        return self.stat.st_size

    def __enter__(self) -> SourceFile:
        self._descriptor = self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open(self) -> int:
        with os_errors("read the file", str(self.path)):
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def array(self, start: int, length: int) -> NDArray[np.uint8]:
        """Bytes ``[start, start + length)`` as a new array.

        Raises:
            DamagedFileError: the file ends before that.
            BackendError: it cannot be read.
        """
        self._check(start, length)
        data = np.empty(length, dtype=np.uint8)
        self.read_into(data, start)
        return data

    def read_into(self, data: NDArray[np.uint8], start: int) -> None:
        """Fill a contiguous array with the bytes from ``start`` on.

        Raises:
            DamagedFileError, BackendError: as :meth:`array`.
        """
        self._check(start, data.size)
        descriptor = self._descriptor
        if descriptor is not None:
            self._fill(descriptor, data.data, start)
            return
        descriptor = self._open()
        try:
            self._fill(descriptor, data.data, start)
        finally:
            os.close(descriptor)

    def _check(self, start: int, length: int) -> None:
        if start < 0 or length < 0 or start + length > self.size:
            raise DamagedFileError(
                f"the file has {self.size} bytes, but something in it is said to lie at {start} to {start + length}",
                where=str(self.path),
                hint="the file is truncated or damaged; copy it again",
            )

    def _fill(self, descriptor: int, view: memoryview, start: int) -> None:
        done = 0
        while done < len(view):
            with os_errors("read the file", str(self.path)):
                count = os.preadv(descriptor, [view[done:]], start + done)
            if count == 0:
                raise DamagedFileError(
                    "the file became shorter while it was read", where=str(self.path), offset=start + done
                )
            done += count

    def bytes(self, start: int, length: int) -> bytes:
        """The same, as bytes."""
        return self.array(start, length).tobytes()

    def is_unchanged(self) -> bool:
        """Whether the path still names this file, with the size and time of change that it had at first."""
        try:
            now = self.path.stat()
        except OSError:
            return False
        then = self.stat
        return (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns) == (
            then.st_dev,
            then.st_ino,
            then.st_size,
            then.st_mtime_ns,
        )


class Window:
    """A part of a file, as if it were one.

    Args:
        file: the file.
        start, length: the part; all of it is in the file.
    """

    def __init__(self, file: Readable, start: int, length: int) -> None:
        self._file = file
        self._start = start
        self._length = length

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def size(self) -> int:
        return self._length

    def bytes(self, start: int, length: int) -> bytes:
        if start < 0 or length < 0 or start + length > self._length:
            raise DamagedFileError(
                f"a part of {self._length} bytes of the file, of which {start} to {start + length} are needed",
                where=str(self.path),
                offset=self._start,
                hint="the file is truncated or damaged; copy it again",
            )
        return self._file.bytes(self._start + start, length)
