"""Files as they would be written, without their bytes: what each is made of, in order. Pure.

Restoring a file, opening one to read parts of it and listing a step as a folder all begin with images.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Crc32", "FileImage", "Piece", "Stored", "cut_pieces", "join_pieces", "piece_length", "pieces_length"]


@dataclass(frozen=True, slots=True)
class Stored:
    """The bytes ``[start, start + length)`` of an entry of the step, its elements in C order."""

    fqn: str
    start: int
    length: int


Piece: TypeAlias = "bytes | Stored"


@dataclass(frozen=True, slots=True)
class Crc32:
    """The CRC-32 of the bytes ``[start, start + length)`` of a file, which the file itself has at some places.

    Attributes:
        at: where its four bytes (little-endian) stand; zero where nobody filled them in.
    """

    start: int
    length: int
    at: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FileImage:
    """What a file is made of.

    Attributes:
        path: where it lies in its folder; ``/`` between folders.
        pieces: its content, none of them empty.
        mode: its permission bits; None for those that new files get.
        mtime_ns: when it was last changed, in nanoseconds since 1970; None where that says nothing.
        sha256: of its bytes, in hexadecimal digits, where that is known in advance.
        checksums: what has to be filled in once its bytes are there.
    """

    path: str
    pieces: tuple[Piece, ...]
    mode: int | None = None
    mtime_ns: int | None = None
    sha256: str | None = None
    checksums: tuple[Crc32, ...] = ()
    starts: tuple[int, ...] = field(init=False, repr=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        ends = list(itertools.accumulate(map(piece_length, self.pieces), initial=0))
        object.__setattr__(self, "starts", tuple(ends[:-1]))
        object.__setattr__(self, "size", ends[-1])

    def cut(self, start: int, length: int) -> tuple[Piece, ...]:
        """What the bytes ``[start, start + length)`` are made of; as much of that as the file has."""
        first = max(0, bisect.bisect_right(self.starts, start) - 1)
        last = bisect.bisect_left(self.starts, start + length, lo=first)
        return cut_pieces(self.pieces[first:last], start - self.starts[first], length) if self.pieces else ()


def piece_length(piece: Piece) -> int:
    """How many bytes a piece has."""
    return piece.length if isinstance(piece, Stored) else len(piece)


def pieces_length(pieces: Sequence[Piece]) -> int:
    """How many bytes some pieces have."""
    return sum(map(piece_length, pieces))


def cut_pieces(pieces: Sequence[Piece], start: int, length: int) -> tuple[Piece, ...]:
    """The bytes ``[start, start + length)`` of those that the pieces have one after another; none of it is empty."""
    found: list[Piece] = []
    at = 0
    for piece in pieces:
        size = piece_length(piece)
        low, high = max(start - at, 0), min(start + length - at, size)
        if low < high:
            if isinstance(piece, Stored):
                found.append(Stored(piece.fqn, piece.start + low, high - low))
            else:
                found.append(piece[low:high])
        at += size
    return tuple(found)


def join_pieces(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """The same bytes with neighbouring literals joined, and without empty pieces."""
    joined: list[Piece] = []
    literals: list[bytes] = []
    # The end of the list is an empty piece: it closes the last run of literals.
    for piece in (*filter(piece_length, pieces), Stored("", 0, 0)):
        if isinstance(piece, bytes):
            literals.append(piece)
            continue
        if literals:
            joined.append(b"".join(literals))
            literals = []
        joined.append(piece)
    return tuple(joined[:-1])
