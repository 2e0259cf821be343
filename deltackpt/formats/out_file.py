"""A file while it is written, from many threads: past the page cache where the file system can do that.

Written as usual, every byte goes through pages that the kernel clears, maps and copies to, and that push out what other
programs have there. On a machine with fresh memory that is most of the time of a restore (``docs/design/import.md``).
Direct writes need whole pages of the file and of memory: what lies between a range's first and last whole page is
copied to memory of ours and written directly, its ends as usual.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["OutFile", "PageBuffers"]

_PAGE: Final = 4096
# As much of a range is written at a time. With 4 MiB a drive is as fast as it gets; shorter ranges are not worth it.
_CHUNK: Final = 4 << 20
_LEAST: Final = 256 << 10
_DIRECT: Final = getattr(os, "O_DIRECT", 0)
_NOT_SUPPORTED: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP})


class PageBuffers:
    """Memory for direct reads and writes that begins at a page, used again; safe to use from many threads."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []
        self._lock = threading.Lock()

    @contextmanager
    def lend(self) -> Iterator[memoryview]:
        """4 MiB for the time of a ``with`` block."""
        with self._lock:
            buffer = self._free.pop() if self._free else mmap.mmap(-1, _CHUNK)
        with memoryview(buffer) as view:
            yield view
        with self._lock:
            self._free.append(buffer)


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
            if buffers is not None and _DIRECT and size >= _LEAST:
                self._direct = _open_direct(path)
        except BaseException:
            self.close()
            raise

    @property
    def descriptor(self) -> int:
        """For what is done to the file as a whole."""
        return self._descriptor

    def write(self, at: int, data: memoryview) -> None:
        """Write bytes to a place."""
        first = -at % _PAGE
        whole = (len(data) - first) // _PAGE * _PAGE
        if self._direct is None or whole < _LEAST:
            _put(self._descriptor, at, data)
            return
        _put(self._descriptor, at, data[:first])
        done = self._write_pages(self._direct, at + first, data[first : first + whole])
        # The rest, and all of what the file system did not take.
        _put(self._descriptor, at + first + done, data[first + done :])

    def _write_pages(self, direct: int, at: int, data: memoryview) -> int:
        """Write whole pages; gives how many bytes were written."""
        assert self._buffers is not None
        done = 0
        with self._buffers.lend() as buffer:
            while done < len(data):
                part = data[done : done + _CHUNK]
                buffer[: len(part)] = part
                try:
                    count = os.pwrite(direct, buffer[: len(part)], at + done)
                except OSError as error:
                    if error.errno not in _NOT_SUPPORTED:
                        raise
                    return done
                done += count
                if count < len(part):
                    # As when a drive is full: the next write says why.
                    return done
        return done

    def read(self, start: int, length: int) -> Iterator[memoryview]:
        """The bytes of a range, piece by piece, each in the memory of the one before.

        Raises:
            OSError: the file is shorter.
        """
        buffers = PageBuffers() if self._buffers is None else self._buffers
        at, end = start, start + length
        with buffers.lend() as buffer:
            while at < end:
                low = at // _PAGE * _PAGE
                count = self._read(buffer[: min(_CHUNK, -(-(end - low) // _PAGE) * _PAGE)], low)
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
                if error.errno not in _NOT_SUPPORTED:
                    raise
        return os.preadv(self._descriptor, [buffer], at)

    def close(self) -> None:
        """Close it; it is not durable by that."""
        for descriptor in (self._direct, self._descriptor):
            if descriptor is not None:
                os.close(descriptor)


def _open_direct(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | _DIRECT)
    except OSError as error:
        if error.errno in _NOT_SUPPORTED:
            return None
        raise


def _put(descriptor: int, at: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], at + done)
