"""Files as they would be written, without their bytes: what each is made of, in order. Pure.

Restoring a file, opening one to read parts of it and listing a step as a folder all begin with images.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Crc32", "FileImage", "Piece", "Stored", "join_pieces", "piece_length"]


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


def piece_length(piece: Piece) -> int:
    """How many bytes a piece has."""
    return piece.length if isinstance(piece, Stored) else len(piece)


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
