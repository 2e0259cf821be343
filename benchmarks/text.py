"""Real text that every machine has: the sources of the running interpreter's standard library, as token ids."""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Tokenizer", "read_sources"]

# Folders whose presence depends on how Python was installed, and folders of tables rather than text.
_SKIPPED = frozenset(
    {"__pycache__", "dist-packages", "encodings", "idlelib", "pydoc_data", "site-packages", "test", "tests"}
)
_MIN_BYTES = 1 << 16

# Word parts with the space or underscore before them, line breaks with their indentation, runs of spaces, one to three
# signs, single digits and all other bytes. Every byte is in exactly one piece.
_PIECE = re.compile(rb"[ _]?(?:[A-Z]?[a-z]+|[A-Z]+)|\n *| +|[!-/:-@\[-`{-~]{1,3}|(?s:.)")


def _source_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.is_dir():
            if path.name not in _SKIPPED:
                yield from _source_files(path)
        elif path.suffix == ".py":
            yield path


def read_sources(max_bytes: int, root: Path | None = None) -> bytes:
    """Python sources below ``root`` (default: the standard library), joined in path order, at most ``max_bytes``.

    Raises:
        FileNotFoundError: there is less than 64 KiB of source, as in a Python that comes without its sources.
    """
    root = Path(sysconfig.get_path("stdlib")) if root is None else root
    parts: list[bytes] = []
    size = 0
    for path in _source_files(root) if root.is_dir() else ():
        if size >= max_bytes:
            break
        parts.append(path.read_bytes()[: max_bytes - size])
        size += len(parts[-1])
    if size < min(_MIN_BYTES, max_bytes):
        raise FileNotFoundError(
            f"{root} holds {size} bytes of Python sources, too few to train on; "
            "use a Python whose standard library is installed as .py files"
        )
    return b"".join(parts)


class Tokenizer:
    """Bytes <-> ids, without loss: the most frequent pieces of a text, and every single byte for all the rest.

    Args:
        pieces: byte strings in the order of their ids. The first 256 are the single bytes.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = tuple(pieces)
        if self.pieces[:256] != tuple(bytes([value]) for value in range(256)):
            raise ValueError("the first 256 pieces of a tokenizer are the single bytes, in order")
        self._ids = {piece: number for number, piece in enumerate(self.pieces)}

    @classmethod
    def train(cls, text: bytes, vocab: int) -> Tokenizer:
        """A tokenizer of at most ``vocab`` (at least 256) pieces; of equally frequent ones the first in byte order."""
        counts = Counter(piece for piece in _PIECE.findall(text) if len(piece) > 1)
        frequent = sorted(counts, key=lambda piece: (-counts[piece], piece))[: vocab - 256]
        return cls([bytes([value]) for value in range(256)] + frequent)

    def encode(self, text: bytes) -> NDArray[np.uint16]:
        """The ids of ``text``."""
        pieces = _PIECE.findall(text)
        ids = {piece: (self._ids[piece],) if piece in self._ids else tuple(piece) for piece in set(pieces)}
        return np.fromiter(chain.from_iterable(map(ids.__getitem__, pieces)), dtype=np.uint16)

    def decode(self, ids: NDArray[np.uint16]) -> bytes:
        """The bytes that ``ids`` stand for."""
        return b"".join(self.pieces[number] for number in ids.tolist())
