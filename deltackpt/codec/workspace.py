"""Memory that is used again from block to block.

Buffers of megabytes that are allocated for every block go back to the system when they are freed, and every page of the
next one is cleared and mapped anew: about a fifth of the time of encoding, and most of what keeps two threads from
being twice as fast as one, because mapping is serialized within a process.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

__all__ = ["Workspace"]

Bytes = NDArray[np.uint8]

# Smaller ones come from the allocator's own free lists.
_LEAST = 1 << 16


# A block may be kept for long: its buffer is larger than it by no more than one part in so many.
_BLOCK_SLACK = 8
# Large buffers are left to those who need them: none is taken for a use that needs less than one part in so many of it.
_LEAST_USED = 8


class _Returned(deque[Bytes]):
    """Buffers of blocks that nobody looks at any more. Appended to without a lock, so at any moment: the garbage
    collector may run while its own thread holds the one of the pool.
    """


class _Lease:
    """What the array of a block, and every view of it, keeps alive; its end gives the buffer back.

    As ``__array_interface__`` says (numpy, "The array interface protocol", version 3), an array that is made from an
    object refers to it for as long as it looks at its memory.
    """

    def __init__(self, buffer: Bytes, size: int, returned: weakref.ref[_Returned]) -> None:
        self.__array_interface__ = {**buffer.__array_interface__, "shape": (size,)}
        self._buffer = buffer
        self._returned = returned

    def __del__(self) -> None:
        returned = self._returned()
        if returned is not None:
            returned.append(self._buffer)


class Workspace:
    """A pool of buffers; safe to use from many threads. All of it that is not in use is freed with it.

    Who takes a buffer owns it: giving it back is not an obligation, only cheap. The buffer of a block comes back by
    itself.

    Args:
        budget: bytes that the pool keeps at most, beside what is in use.
    """

    def __init__(self, budget: int = 1 << 28) -> None:
        self._budget = budget
        self._free: list[Bytes] = []
        self._bytes = 0
        self._returned = _Returned()
        self._lock = threading.Lock()

    def take(self, size: int) -> Bytes:
        """A buffer of at least ``size`` bytes, with anything in it."""
        return self._take(size, _LEAST_USED * size)

    def block(self, size: int) -> Bytes:
        """An array of ``size`` bytes with anything in it, like a new one: nobody else has its memory before the last
        view of it is gone, also if that is after the end of the pool.
        """
        if size < _LEAST:
            return np.empty(size, dtype=np.uint8)
        buffer = self._take(size, size + size // _BLOCK_SLACK)
        return np.asarray(_Lease(buffer, size, weakref.ref(self._returned)))

    def clear(self) -> None:
        """Free all that is not in use."""
        with self._lock:
            self._returned.clear()
            self._free.clear()
            self._bytes = 0

    def _take(self, size: int, most: int) -> Bytes:
        """A buffer of ``size`` to ``most`` bytes."""
        if size < _LEAST:
            return np.empty(size, dtype=np.uint8)
        while self._returned:
            try:
                buffer = self._returned.pop()
            except IndexError:
                break
            self.give(buffer)
        with self._lock:
            fitting = [number for number, buffer in enumerate(self._free) if size <= buffer.size <= most]
            if fitting:
                # Of the smallest the one that was given back last: its bytes may still be in a cache.
                best = min(reversed(fitting), key=lambda number: self._free[number].size)
                self._bytes -= self._free[best].size
                return self._free.pop(best)
        return np.empty(size, dtype=np.uint8)

    def give(self, buffer: Bytes) -> None:
        """Give a whole buffer back that nobody looks at any more."""
        if not _LEAST <= buffer.size <= self._budget:
            return
        with self._lock:
            self._free.append(buffer)
            self._bytes += buffer.size
            while self._bytes > self._budget:
                self._bytes -= self._free.pop(0).size

    @contextmanager
    def lend(self, size: int) -> Iterator[Bytes]:
        """A buffer for the time of a ``with`` block."""
        buffer = self.take(size)
        try:
            yield buffer
        finally:
            self.give(buffer)
