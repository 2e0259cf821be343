"""Memory that is used again from block to block.

Buffers of megabytes that are allocated for every block go back to the system when they are freed, and every page of the
next one is cleared and mapped anew: about a fifth of the time of encoding, and most of what keeps two threads from
being twice as fast as one, because mapping is serialized within a process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

__all__ = ["Workspace"]

Bytes = NDArray[np.uint8]

# Smaller ones come from the allocator's own free lists.
_LEAST = 1 << 16


class Workspace:
    """A pool of buffers for one save or load; safe to use from many threads. All is freed with it.

    Who takes a buffer owns it: giving it back is not an obligation, only cheap.

    Args:
        budget: bytes that the pool keeps at most, beside what is in use.
    """

    def __init__(self, budget: int = 1 << 28) -> None:
        self._budget = budget
        self._free: list[Bytes] = []
        self._bytes = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> Bytes:
        """A buffer of at least ``size`` bytes, with anything in it."""
        if size < _LEAST:
            return np.empty(size, dtype=np.uint8)
        with self._lock:
            fitting = [number for number, buffer in enumerate(self._free) if buffer.size >= size]
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
