"""A file to be imported: read by ranges, so that memory does not grow with it."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from deltackpt.backend.oserrors import os_errors
from deltackpt.errors import DamagedFileError

__all__ = ["SourceFile"]


class SourceFile:
    """A regular file, open for reading; safe to use from many threads.

    Args:
        path: where it is; links are followed.

    Raises:
        BackendError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with os_errors("read the file", str(path)):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.stat = os.fstat(self._descriptor)
        self.size = self.stat.st_size

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it; what was read stays valid."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def array(self, start: int, length: int) -> NDArray[np.uint8]:
        """Bytes ``[start, start + length)`` as a new array.

        Raises:
            DamagedFileError: the file ends before that.
            BackendError: it cannot be read.
        """
        if start < 0 or length < 0 or start + length > self.size:
            raise DamagedFileError(
                f"the file has {self.size} bytes, but something in it is said to lie at {start} to {start + length}",
                where=str(self.path),
                hint="the file is truncated or damaged; copy it again",
            )
        data = np.empty(length, dtype=np.uint8)
        view = data.data
        done = 0
        while done < length:
            with os_errors("read the file", str(self.path)):
                count = os.preadv(self._descriptor, [view[done:]], start + done)
            if count == 0:
                raise DamagedFileError(
                    "the file became shorter while it was read", where=str(self.path), offset=start + done
                )
            done += count
        return data

    def bytes(self, start: int, length: int) -> bytes:
        """The same, as bytes."""
        return self.array(start, length).tobytes()

    def is_unchanged(self) -> bool:
        """Whether the path still names this file, with the size and time of change that it was opened with."""
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
