"""The SHA-256 of a file whose parts come in about the order in which they lie in it, from many threads."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["HeldParts", "OrderedHash"]

Bytes = NDArray[np.uint8]

# A read of the file costs more than to wait for a part or two.
_MOST_HELD: Final = 64 << 20


@dataclass(slots=True)
class HeldParts:
    """How much all files hold of parts that came too early.

    Attributes:
        left: bytes that may still be held.
    """

    left: int = _MOST_HELD
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, size: int) -> bool:
        """Whether so much more may be held; if so, it counts."""
        with self.lock:
            if size > self.left:
                return False
            self.left -= size
            return True

    def give(self, size: int) -> None:
        """So much is not held any more."""
        with self.lock:
            self.left += size


class OrderedHash:
    """Takes the parts of a file as they are written. Those that come too early are held, as far as there is room; what
    is missing at the end is read back.
    """

    def __init__(self, held: HeldParts) -> None:
        self._hash = hashlib.sha256()
        self._at = 0
        self._waiting: dict[int, Bytes] = {}
        self._busy = False
        self._held = held
        self._lock = threading.Lock()

    def add(self, at: int, data: Bytes) -> None:
        """A part that was written. One thread at a time hashes; the others leave it what they have."""
        with self._lock:
            if at < self._at or (at != self._at and not self._held.take(data.size)):
                return
            if at == self._at and self._busy and not self._held.take(data.size):
                return
            waits = at != self._at or self._busy
            if waits:
                self._waiting[at] = data
            if self._busy:
                return
            self._busy = True
        part: Bytes | None = None if waits else data
        while True:
            if part is not None:
                self._hash.update(part.data)
            with self._lock:
                self._at += 0 if part is None else part.size
                part = self._waiting.pop(self._at, None)
                if part is None:
                    self._busy = False
                    return
                self._held.give(part.size)

    def finish(self, size: int, read: Callable[[int, int], Iterator[memoryview]]) -> str:
        """The hash of all ``size`` bytes in hexadecimal digits; ``read`` gives those of a range of the file."""
        for start in [*sorted(self._waiting), size]:
            for data in read(self._at, start - self._at):
                self._hash.update(data)
            part = self._waiting.pop(start, None)
            self._at = start + (0 if part is None else part.size)
            if part is not None:
                self._hash.update(part.data)
                self._held.give(part.size)
        return self._hash.hexdigest()
