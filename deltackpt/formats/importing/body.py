"""The body of a file: its structure, then its literal bytes, cut where their content says so."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pyfastcdc import FastCDC

from deltackpt.formats.parsers.source import SourceFile
from deltackpt.tensor.box import Box

__all__ = ["Body", "cut_body"]

# FastCDC (Xia et al., 2020) with 16 KiB to 256 KiB, 64 KiB on average: what the index says of a chunk is then below
# 0.1% of it. Of a file in which something is inserted, a few chunks are new.
_AVERAGE: Final = 64 << 10

Ranges = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """The bytes of one entry, from memory and from a file.

    Attributes:
        head: the structure.
        file: where the literals are.
        ranges: start and length of each, in order.
        chunks: the shards: start and length in the body, without gaps.
    """

    head: bytes
    file: SourceFile
    ranges: Ranges
    chunks: Ranges

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.head) + sum(length for _, length in self.ranges)

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Bytes of the body as a new array."""
        return _Pieces(self.head, self.file, self.ranges).array(box.offsets[0], box.sizes[0])


def cut_body(head: bytes, file: SourceFile, ranges: Ranges) -> Body:
    """Cut a body into chunks. Reads all of its literals."""
    head_chunks = [(chunk.offset, chunk.length) for chunk in FastCDC(_AVERAGE).cut_buf(head)]
    with file:
        stream = _Stream(_Pieces(b"", file, ranges))
        chunks = [(len(head) + chunk.offset, chunk.length) for chunk in FastCDC(_AVERAGE).cut_stream(stream)]
    return Body(head, file, ranges, (*head_chunks, *chunks))


class _Pieces:
    """Bytes from memory and ranges of a file, as if they followed one another."""

    def __init__(self, head: bytes, file: SourceFile, ranges: Ranges) -> None:
        self._head = np.frombuffer(head, dtype=np.uint8)
        self._file = file
        self._ranges = ranges
        self._starts = list(itertools.accumulate((length for _, length in ranges), initial=len(head)))

    @property
    def size(self) -> int:
        return self._starts[-1]

    def array(self, start: int, length: int) -> NDArray[np.uint8]:
        """Bytes ``[start, start + length)`` as a new array."""
        parts = list(self._parts(start, start + length))
        return parts[0].copy() if len(parts) == 1 else np.concatenate([np.empty(0, dtype=np.uint8), *parts])

    def _parts(self, start: int, end: int) -> Iterator[NDArray[np.uint8]]:
        if start < len(self._head):
            yield self._head[start:end]
        number = max(0, bisect.bisect_right(self._starts, start) - 1)
        for (place, length), first in zip(self._ranges[number:], self._starts[number:], strict=False):
            if first >= end:
                return
            low, high = max(start, first), min(end, first + length)
            if low < high:
                yield self._file.array(place + low - first, high - low)


class _Stream:
    """Bytes to be read in order, in the form that the chunker takes."""

    def __init__(self, pieces: _Pieces) -> None:
        self._pieces = pieces
        self._at = 0

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer; the number of bytes is 0 at the end."""
        count = min(len(buffer), self._pieces.size - self._at)
        buffer[:count] = self._pieces.array(self._at, count).data
        self._at += count
        return count
