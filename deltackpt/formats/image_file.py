"""An image as a file to read: seekable, and only what is read is decoded."""

from __future__ import annotations

import bisect
import io
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deltackpt.formats.image import FileImage, Stored, piece_length
from deltackpt.formats.image_write import Sink, wanted_of
from deltackpt.formats.source import StepSource
from deltackpt.pipeline.decode import BlockDecoder
from deltackpt.pipeline.load import load_wanted
from deltackpt.pipeline.memo import BlockMemo
from deltackpt.pipeline.plan_load import Wanted
from deltackpt.store.base import index_lookup

__all__ = ["MEMO_BYTES", "ImageFile", "open_image"]

MEMO_BYTES: Final = 64 << 20
"""Decoded blocks that an open file keeps: small reads one after another decode a block once."""

_BUFFER: Final = 1 << 20


class ImageFile(io.RawIOBase):
    """A read-only file whose bytes are decoded when they are read. For one thread at a time, as files are.

    Checksums within a file that ``torch`` does not look at (the CRC-32 of members of a torch file that was never
    written) read as zeros.
    """

    def __init__(self, source: StepSource, image: FileImage, *, memo_bytes: int = MEMO_BYTES) -> None:
        self.name = image.path
        self.mode = "rb"
        self.size = image.size
        self._source = source
        self._image = image
        self._at = 0
        lookup = index_lookup(source.store, source.manifest)
        self._decoder = BlockDecoder(source.store, lookup, BlockMemo(memo_bytes))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"a position before the file: {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: object) -> int:
        """Fill as much of a buffer as the file has bytes for.

        Raises:
            CorruptObjectError, MissingObjectError: a part of the store is damaged or gone.
        """
        if self.closed:
            raise ValueError("the file is closed")
        target = np.frombuffer(memoryview(buffer).cast("B"), dtype=np.uint8)  # type: ignore[arg-type]
        count = max(0, min(target.size, self.size - self._at))
        if count:
            self._fill(target[:count], self._at)
        self._at += count
        return count

    def _fill(self, target: NDArray[np.uint8], start: int) -> None:
        image, end = self._image, start + target.size
        wanted: list[Wanted] = []
        number = bisect.bisect_right(image.starts, start) - 1
        while number < len(image.pieces) and image.starts[number] < end:
            piece, first = image.pieces[number], image.starts[number]
            low, high = max(start, first), min(end, first + piece_length(piece))
            part = target[low - start : high - start]
            if isinstance(piece, Stored):
                inner = Stored(piece.fqn, piece.start + low - first, high - low)
                wanted += wanted_of(self._source.manifest, inner, _copy_into(part))
            else:
                part[:] = np.frombuffer(piece, dtype=np.uint8)[low - first : high - first]
            number += 1
        load_wanted(
            self._source.store, self._source.manifest, wanted, threads=self._source.threads, decoder=self._decoder
        )


def _copy_into(part: NDArray[np.uint8]) -> Sink:
    def write(at: int, data: NDArray[np.uint8]) -> None:
        part[at : at + data.size] = data

    return write


def open_image(source: StepSource, image: FileImage) -> io.BufferedReader:
    """A file to read, with a buffer."""
    return io.BufferedReader(ImageFile(source, image), _BUFFER)
