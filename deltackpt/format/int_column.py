"""Integer columns as byte planes: the values or the differences between neighbours, whichever packs better."""

from __future__ import annotations

from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from deltackpt.errors import InvalidArgumentError
from deltackpt.format.hashing import Buffer

__all__ = ["MODE_DELTA", "MODE_PLAIN", "decode_ints", "encode_ints"]

MODE_PLAIN = 0
MODE_DELTA = 1

# The mode is chosen on this many values from the middle of a column: 128 KiB at most, about 0.2 ms a trial.
_SAMPLE = 1 << 14


def encode_ints(name: str, values: NDArray[Any]) -> bytes:
    """Mode, width and byte planes of a 1-dimensional integer array.

    Raises:
        InvalidArgumentError: a value is negative or above 2**63 - 1. ``name`` is the column's, for the message.
    """
    if len(values) and (int(values.min()) < 0 or int(values.max()) > np.iinfo(np.int64).max):
        raise InvalidArgumentError(f"column {name!r} has a number that is negative or above 2**63 - 1")
    plain = values.astype(np.int64)
    delta = _zigzag(np.diff(plain, prepend=np.int64(0)))
    words = plain.view(np.uint64)
    if _trial(delta) < _trial(words):
        return bytes((MODE_DELTA, _width(delta))) + _planes(delta)
    return bytes((MODE_PLAIN, _width(words))) + _planes(words)


def decode_ints(planes: Buffer, mode: int, width: int) -> NDArray[np.int64] | None:
    """The values of a column, or None where one is negative or above 2**63 - 1.

    Args:
        planes: ``width`` planes of equal length, least significant first.
        mode: ``MODE_PLAIN`` or ``MODE_DELTA``.
        width: 1, 2, 4 or 8.
    """
    matrix = np.frombuffer(planes, np.uint8).reshape(width, -1)
    words = np.ascontiguousarray(matrix.T).reshape(-1).view(f"<u{width}").astype(np.uint64)
    if mode == MODE_DELTA:
        # Sums are modulo 2**64. That hides nothing: from a valid value, any difference leads to the true sum where that
        # is below 2**63, else to a negative int64.
        differences = (words >> np.uint64(1)).view(np.int64) ^ -(words & np.uint64(1)).view(np.int64)
        values = np.cumsum(differences, dtype=np.int64)
    else:
        values = words.view(np.int64)
    if len(values) and int(values.min()) < 0:
        return None
    return values


def _zigzag(differences: NDArray[np.int64]) -> NDArray[np.uint64]:
    return ((differences << 1) ^ (differences >> 63)).view(np.uint64)


def _width(words: NDArray[np.uint64]) -> int:
    top = int(words.max()) if len(words) else 0
    return next(width for width in (1, 2, 4, 8) if top >> (8 * width) == 0)


def _planes(words: NDArray[np.uint64]) -> bytes:
    width = _width(words)
    return words.astype(f"<u{width}").view(np.uint8).reshape(-1, width).T.tobytes()


def _trial(words: NDArray[np.uint64]) -> int:
    """Bytes that a sample of the column takes after zstd's fastest level."""
    start = max(0, (len(words) - _SAMPLE) // 2)
    return len(zstandard.ZstdCompressor(level=1).compress(_planes(words[start : start + _SAMPLE])))
