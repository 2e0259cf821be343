"""Images -> files: every stored piece is decoded once, block by block, and written to its place.

Holds a handful of blocks a thread, however large the files are.
"""

from __future__ import annotations

import errno
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deltackpt.backend.oserrors import os_errors
from deltackpt.errors import CorruptObjectError
from deltackpt.format.manifest import Manifest
from deltackpt.formats.flat import boxes_of_range, ranges_of_box
from deltackpt.formats.image import Crc32, FileImage, Stored
from deltackpt.pipeline.load import load_wanted
from deltackpt.pipeline.plan_load import Wanted
from deltackpt.store.opened import OpenStore
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_code

__all__ = ["Sink", "wanted_of", "write_images"]

# Files that are open at once: far below the usual limit of 1,024.
_OPEN_FILES: Final = 128

# What is read back at a time for a hash, which finds it in a cache of the processor.
_CHUNK: Final = 1 << 20

Sink: TypeAlias = "Callable[[int, NDArray[np.uint8]], None]"
"""Takes contiguous bytes, and where they lie among those of a :class:`Stored`. Called from many threads."""


def write_images(
    store: OpenStore, manifest: Manifest, images: Sequence[FileImage], folder: Path, *, threads: int
) -> list[Path]:
    """Write every image below ``folder``, durably, and check the hashes that are known in advance.

    Returns:
        The files, in the order of the images.

    Raises:
        CorruptObjectError: a file has another hash than it should have; as :func:`load_wanted`.
        BackendError: the disk is full, or the like.
    """
    paths = [folder / image.path for image in images]
    for start in range(0, len(images), _OPEN_FILES):
        part = slice(start, start + _OPEN_FILES)
        _write_some(store, manifest, list(zip(images[part], paths[part], strict=True)), threads)
    return paths


def _write_some(store: OpenStore, manifest: Manifest, files: Sequence[tuple[FileImage, Path]], threads: int) -> None:
    with ExitStack() as stack:
        opened = []
        for image, path in files:
            opened.append(_Open.create(image, path))
            stack.callback(opened[-1].close)
        wanted = [want for file in opened for want in file.wanted(manifest)]
        load_wanted(store, manifest, wanted, threads=threads)
        with ThreadPoolExecutor(threads, thread_name_prefix="deltackpt-restore") as executor:
            for _ in executor.map(_Open.finish, opened):
                pass


@dataclass(frozen=True, slots=True)
class _Open:
    """A file while it is written."""

    image: FileImage
    path: Path
    descriptor: int

    @classmethod
    def create(cls, image: FileImage, path: Path) -> _Open:
        with os_errors("write the file", str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = cls(image, path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
            try:
                file._begin()
            except BaseException:
                file.close()
                raise
        return file

    def _begin(self) -> None:
        os.ftruncate(self.descriptor, self.image.size)
        for start, piece in zip(self.image.starts, self.image.pieces, strict=True):
            if isinstance(piece, bytes):
                self._put(start, memoryview(piece))

    def wanted(self, manifest: Manifest) -> Iterator[Wanted]:
        """What is to be decoded for it."""
        for start, piece in zip(self.image.starts, self.image.pieces, strict=True):
            if isinstance(piece, Stored):
                yield from wanted_of(manifest, piece, self._sink(start))

    def _sink(self, start: int) -> Sink:
        def write(at: int, data: NDArray[np.uint8]) -> None:
            with os_errors("write the file", str(self.path)):
                self._put(start + at, data.data)

        return write

    def finish(self) -> None:
        """Fill in checksums, compare the hash, make the file durable."""
        with os_errors("write the file", str(self.path)):
            for checksum in self.image.checksums:
                self._fill_in(checksum)
            if self.image.sha256 is not None:
                self._check(self.image.sha256)
            if self.image.mode is not None:
                os.fchmod(self.descriptor, self.image.mode)
            if self.image.mtime_ns is not None:
                os.utime(self.descriptor, ns=(self.image.mtime_ns, self.image.mtime_ns))
            os.fsync(self.descriptor)

    def _fill_in(self, checksum: Crc32) -> None:
        value = 0
        for data in self._read(checksum.start, checksum.length):
            value = zlib.crc32(data, value)
        for at in checksum.at:
            self._put(at, memoryview(value.to_bytes(4, "little")))

    def _check(self, expected: str) -> None:
        digest = hashlib.sha256()
        for data in self._read(0, self.image.size):
            digest.update(data)
        if digest.hexdigest() != expected:
            raise CorruptObjectError(
                f"the restored file {self.image.path} has another SHA-256 than the file that was imported",
                where=self.image.path,
                hint="run `deltackpt verify --deep` on the store",
            )

    def _read(self, start: int, length: int) -> Iterator[memoryview]:
        """The bytes of a range, piece by piece, each in the memory of the one before."""
        buffer = memoryview(bytearray(min(_CHUNK, length)))
        at, end = start, start + length
        while at < end:
            count = os.preadv(self.descriptor, [buffer[: end - at]], at)
            if count == 0:
                raise OSError(errno.EIO, "the file became shorter while it was written")
            yield buffer[:count]
            at += count

    def _put(self, at: int, data: memoryview) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self.descriptor, data[done:], at + done)

    def close(self) -> None:
        os.close(self.descriptor)


def wanted_of(manifest: Manifest, stored: Stored, write: Sink) -> Iterator[Wanted]:
    """The requests that give the bytes of ``stored``, in contiguous parts, to ``write``.

    Raises:
        TensorNotFoundError: the step has no such entry.
        CorruptObjectError: the entry has fewer bytes.
    """
    entry = manifest.entries[manifest.find(stored.fqn)]
    itemsize = by_code(entry.dtype, where=stored.fqn).itemsize
    shape = entry.shape
    first = stored.start // itemsize
    last = -(-(stored.start + stored.length) // itemsize)
    if last > Box.whole(shape).numel:
        raise CorruptObjectError(
            f"bytes {stored.start} to {stored.start + stored.length} of an entry of "
            f"{Box.whole(shape).numel * itemsize} bytes",
            where=stored.fqn,
            hint="run `deltackpt verify --deep` on the store",
        )

    def take(place: Box, elements: NDArray[np.generic]) -> None:
        starts, count = ranges_of_box(shape, place)
        flat = np.ascontiguousarray(elements).reshape(-1).view(np.uint8)
        for number, begin in enumerate(starts):
            data = flat[number * count * itemsize : (number + 1) * count * itemsize]
            at = begin * itemsize - stored.start
            # A range of bytes may begin and end inside an element.
            write(max(at, 0), data[max(-at, 0) : stored.length - at])

    for box in boxes_of_range(shape, first, last):
        yield Wanted(stored.fqn, box, take)
