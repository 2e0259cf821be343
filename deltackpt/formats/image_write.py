"""Images -> files: every stored piece is decoded once, block by block, and written to its place.

Holds a handful of blocks a thread, however large the files are.
"""

from __future__ import annotations

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
from deltackpt.formats.ordered_hash import HeldParts, OrderedHash
from deltackpt.formats.out_file import OutFile, PageBuffers
from deltackpt.pipeline.load import load_wanted
from deltackpt.pipeline.plan_load import Wanted
from deltackpt.store.opened import OpenStore
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_code

__all__ = ["Sink", "wanted_of", "write_images"]

# Files that are open at once: far below the usual limit of 1,024.
_OPEN_FILES: Final = 128

Sink: TypeAlias = "Callable[[int, NDArray[np.uint8]], None]"
"""Takes contiguous bytes, and where they lie among those of a :class:`Stored`. Called from many threads."""


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all files of a restore have in common: memory for direct writes, if these are wanted, and for hashing."""

    buffers: PageBuffers | None
    held: HeldParts


def write_images(
    store: OpenStore,
    manifest: Manifest,
    images: Sequence[FileImage],
    folder: Path,
    *,
    threads: int,
    direct: bool = False,
) -> list[Path]:
    """Write every image below ``folder``, durably, and check the hashes that are known in advance.

    Args:
        direct: whether large files are written past the page cache, where the file system can do that.

    Returns:
        The files, in the order of the images.

    Raises:
        CorruptObjectError: a file has another hash than it should have; as :func:`load_wanted`.
        BackendError: the disk is full, or the like.
    """
    paths = [folder / image.path for image in images]
    shared = _Shared(PageBuffers() if direct else None, HeldParts())
    for start in range(0, len(images), _OPEN_FILES):
        part = slice(start, start + _OPEN_FILES)
        _write_some(store, manifest, list(zip(images[part], paths[part], strict=True)), shared, threads)
    return paths


def _write_some(
    store: OpenStore, manifest: Manifest, files: Sequence[tuple[FileImage, Path]], shared: _Shared, threads: int
) -> None:
    with ExitStack() as stack:
        opened = []
        for image, path in files:
            opened.append(_Target(image, path, shared))
            stack.callback(opened[-1].close)
            opened[-1].begin()
        wanted = [want for file in opened for want in file.wanted(manifest)]
        load_wanted(store, manifest, wanted, threads=threads, in_order=True)
        with ThreadPoolExecutor(threads, thread_name_prefix="deltackpt-restore") as executor:
            for _ in executor.map(_Target.finish, opened):
                pass


class _Target:
    """A file that an image is written to."""

    def __init__(self, image: FileImage, path: Path, shared: _Shared) -> None:
        self._image = image
        self._path = path
        self._hash = None if image.sha256 is None else OrderedHash(shared.held)
        with os_errors("write the file", str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = OutFile(path, image.size, shared.buffers)

    def begin(self) -> None:
        """Write what is no stored bytes."""
        with os_errors("write the file", str(self._path)):
            for start, piece in zip(self._image.starts, self._image.pieces, strict=True):
                if isinstance(piece, bytes):
                    self._put(start, np.frombuffer(piece, dtype=np.uint8))

    def wanted(self, manifest: Manifest) -> Iterator[Wanted]:
        """What is to be decoded for it, in the order of the file."""
        for start, piece in zip(self._image.starts, self._image.pieces, strict=True):
            if isinstance(piece, Stored):
                yield from wanted_of(manifest, piece, self._sink(start))

    def _sink(self, start: int) -> Sink:
        def write(at: int, data: NDArray[np.uint8]) -> None:
            with os_errors("write the file", str(self._path)):
                self._put(start + at, data)

        return write

    def _put(self, at: int, data: NDArray[np.uint8]) -> None:
        self._file.write(at, data.data)
        if self._hash is not None:
            self._hash.add(at, data)

    def finish(self) -> None:
        """Fill in checksums, compare the hash, make the file durable."""
        with os_errors("write the file", str(self._path)):
            for checksum in self._image.checksums:
                self._fill_in(checksum)
            self._check()
            descriptor = self._file.descriptor
            if self._image.mode is not None:
                os.fchmod(descriptor, self._image.mode)
            if self._image.mtime_ns is not None:
                os.utime(descriptor, ns=(self._image.mtime_ns, self._image.mtime_ns))
            os.fsync(descriptor)

    def _fill_in(self, checksum: Crc32) -> None:
        value = 0
        for data in self._file.read(checksum.start, checksum.length):
            value = zlib.crc32(data, value)
        for at in checksum.at:
            self._file.write(at, memoryview(value.to_bytes(4, "little")))

    def _check(self) -> None:
        if self._hash is None:
            return
        if self._hash.finish(self._image.size, self._file.read) != self._image.sha256:
            raise CorruptObjectError(
                f"the restored file {self._image.path} has another SHA-256 than the file that was imported",
                where=self._image.path,
                hint="run `deltackpt verify --deep` on the store",
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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
