"""A file while it is written, from many threads: past the page cache where the file system can do that.

What lies between a range's first and last whole page is written directly (:mod:`deltackpt.backend.direct`), its ends as
usual.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from deltackpt.backend.direct import CHUNK, LEAST, NOT_SUPPORTED, PAGE, PageBuffers, open_direct, write_pages

__all__ = ["OutFile", "PageBuffers"]


class OutFile:
    """A new file of known size. Ranges of it are written by any thread, and read back.

    Args:
        path: nothing is there.
        buffers: for direct writes; None if everything is to go through the page cache, from where it is read soonest.

    Raises:
        OSError: as any other method.
    """

    def __init__(self, path: Path, size: int, buffers: PageBuffers | None) -> None:
        self._size = size
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._direct: int | None = None
        self._buffers = buffers
        try:
            os.ftruncate(self._descriptor, size)
            if buffers is not None and size >= LEAST:
                self._direct = open_direct(path, os.O_RDWR)
        except BaseException:
            self.close()
            raise

    @property
    def descriptor(self) -> int:
        """For what is done to the file as a whole."""
        return self._descriptor

    def write(self, at: int, data: memoryview) -> None:
        """Write bytes to a place."""
        first = -at % PAGE
        whole = (len(data) - first) // PAGE * PAGE
        if self._direct is None or self._buffers is None or whole < LEAST:
            _put(self._descriptor, at, data)
            return
        _put(self._descriptor, at, data[:first])
        done = write_pages(self._direct, self._buffers, at + first, data[first : first + whole])
        # The rest, and all of what the file system did not take.
        _put(self._descriptor, at + first + done, data[first + done :])

    def read(self, start: int, length: int) -> Iterator[memoryview]:
        """The bytes of a range, piece by piece, each in the memory of the one before.

        Raises:
            OSError: the file is shorter.
        """
        buffers = PageBuffers() if self._buffers is None else self._buffers
        at, end = start, start + length
        with buffers.lend() as buffer:
            while at < end:
                low = at // PAGE * PAGE
                count = self._read(buffer[: min(CHUNK, -(-(end - low) // PAGE) * PAGE)], low)
                if low + count <= at:
                    raise OSError(errno.EIO, "the file became shorter while it was written")
                high = min(low + count, end)
                yield buffer[at - low : high - low]
                at = high

    def _read(self, buffer: memoryview, at: int) -> int:
        if self._direct is not None:
            try:
                return os.preadv(self._direct, [buffer], at)
            except OSError as error:
                if error.errno not in NOT_SUPPORTED:
                    raise
        return os.preadv(self._descriptor, [buffer], at)

    def close(self) -> None:
        """Close it; it is not durable by that."""
        for descriptor in (self._direct, self._descriptor):
            if descriptor is not None:
                os.close(descriptor)


def _put(descriptor: int, at: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], at + done)
