"""One pass over the bytes of a file: its own hash, and the checksums that it keeps of its parts."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from deltackpt.errors import DamagedFileError
from deltackpt.formats.parsers.found import Check
from deltackpt.formats.parsers.source import SourceFile

__all__ = ["scan"]

# The second hash finds it in a cache of the processor.
_PIECE: Final = 1 << 20


def scan(file: SourceFile, checks: Sequence[Check], progress: Callable[[int], None]) -> str:
    """The SHA-256 of a file in hexadecimal digits.

    One core takes about 0.9 ns a byte for the hash and 0.5 ns for CRC-32.

    Args:
        checks: in the order of the file; none overlaps another.
        progress: called with the number of bytes of each piece that was read.

    Raises:
        DamagedFileError: a part has another checksum than the file says.
    """
    whole = hashlib.sha256()
    waiting = list(reversed(checks))
    crc = 0
    buffer = np.empty(min(_PIECE, file.size), dtype=np.uint8)
    with file:
        for start in range(0, file.size, _PIECE):
            read = buffer[: file.size - start]
            file.read_into(read, start)
            piece = read.data
            whole.update(piece)
            while waiting and waiting[-1].start < start + len(piece):
                check = waiting[-1]
                end = check.start + check.length
                crc = zlib.crc32(piece[max(0, check.start - start) : end - start], crc)
                if end > start + len(piece):
                    break
                if crc != check.crc32:
                    raise DamagedFileError(
                        f"{check.what} has another checksum than the file says",
                        where=str(file.path),
                        offset=check.start,
                        hint="the file is damaged; copy it again",
                    )
                waiting.pop()
                crc = 0
            progress(len(piece))
    return whole.hexdigest()
