"""Writes past the page cache.

Written as usual, every byte goes through pages that the kernel clears, maps and copies to, and that push out what other
programs have there: on a virtual machine whose memory has to be fetched from its host, 0.34 GB/s to a disk that takes
1.8 (``dd`` with ``conv=fsync`` and with ``oflag=direct``). Direct writes need whole pages of the file and of memory, so
they go through memory of ours. They are no more durable than others.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["CHUNK", "LEAST", "NOT_SUPPORTED", "PAGE", "PageBuffers", "open_direct", "write_pages"]

PAGE: Final = 4096
# As much is written at a time. With 4 MiB a drive is as fast as it gets.
CHUNK: Final = 4 << 20
LEAST: Final = 256 << 10
"""Less is not worth it."""

NOT_SUPPORTED: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP})
"""What a file system answers that has no direct reads or writes, or none like this one."""

_DIRECT: Final = getattr(os, "O_DIRECT", 0)


class PageBuffers:
    """Memory for direct reads and writes that begins at a page, used again; safe to use from many threads. A pickled
    one comes back empty.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[PageBuffers], tuple[()]]:
        return (PageBuffers, ())

    @contextmanager
    def lend(self) -> Iterator[memoryview]:
        """``CHUNK`` bytes for the time of a ``with`` block."""
        with self._lock:
            buffer = self._free.pop() if self._free else mmap.mmap(-1, CHUNK)
        with memoryview(buffer) as view:
            yield view
        with self._lock:
            self._free.append(buffer)


def open_direct(path: str | os.PathLike[str], flags: int, *, dir_fd: int | None = None) -> int | None:
    """A second descriptor of a file, for direct reads and writes; None where there is no such thing.

    Raises:
        OSError: the file cannot be opened at all.
    """
    if not _DIRECT:
        return None
    try:
        return os.open(path, flags | os.O_CLOEXEC | _DIRECT, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in NOT_SUPPORTED:
            return None
        raise


def write_pages(descriptor: int, buffers: PageBuffers, at: int, data: memoryview) -> int:
    """Write whole pages to a whole page's place; gives how many bytes were written, fewer if the file system turns out
    not to take them, or as a drive gets full: whoever writes the rest as usual is told why.

    Args:
        descriptor: as :func:`open_direct` gave it.

    Raises:
        OSError: the write failed.
    """
    done = 0
    with buffers.lend() as buffer:
        while done < len(data):
            part = data[done : done + CHUNK]
            buffer[: len(part)] = part
            try:
                count = os.pwrite(descriptor, buffer[: len(part)], at + done)
            except OSError as error:
                if error.errno not in NOT_SUPPORTED:
                    raise
                return done
            done += count
            if count < len(part):
                # The next place may lie within a page.
                return done
    return done
