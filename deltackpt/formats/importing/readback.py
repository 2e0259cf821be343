"""Files of a step, read back from the store and hashed: what has to hold before a source may be removed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import CorruptObjectError
from deltackpt.format.manifest import Manifest
from deltackpt.formats.recipe import FileInfo, Segment
from deltackpt.formats.recorded import read_infos, read_structure
from deltackpt.pipeline.load import load_wanted
from deltackpt.pipeline.plan_load import Wanted
from deltackpt.pipeline.slots import element_view
from deltackpt.store.opened import OpenStore
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_code

__all__ = ["check_files"]

_AT_ONCE: Final = 64 << 20


def check_files(store: OpenStore, manifest: Manifest, *, threads: int) -> list[FileInfo]:
    """Decode every file of a step and compare it with its hash. Holds the tensors of 64 MiB of a file, or one tensor.

    Returns:
        The files.

    Raises:
        CorruptObjectError, MissingObjectError: a file cannot be had back as it was.
    """
    infos = read_infos(store, manifest, threads=threads)
    for info in infos:
        found = _digest(store, manifest, info, threads)
        if found != info.sha256:
            raise CorruptObjectError(
                f"the file {info.path} has the SHA-256 {found} where {info.sha256} was imported",
                where=info.fqn,
                hint="keep the source; run `deltackpt verify --deep` on the store",
            )
    return infos


def _digest(store: OpenStore, manifest: Manifest, info: FileInfo, threads: int) -> str:
    structure = read_structure(store, manifest, info, threads=threads)
    whole = hashlib.sha256()
    batch: list[Segment] = []
    size = 0
    for segment in structure.segments:
        batch.append(segment)
        size += segment.length
        if size >= _AT_ONCE:
            _update(whole, store, manifest, info, batch, threads)
            batch, size = [], 0
    _update(whole, store, manifest, info, batch, threads)
    return whole.hexdigest()


def _update(
    whole: hashlib._Hash, store: OpenStore, manifest: Manifest, info: FileInfo, batch: list[Segment], threads: int
) -> None:
    """Add the bytes of some segments to a hash."""
    buffers, wanted = [], []
    for segment in batch:
        fqn = segment.fqn or info.body
        start = segment.start if segment.fqn else segment.start + info.structure
        entry = manifest.entries[manifest.find(fqn)]
        item = by_code(entry.dtype).itemsize
        box = _box(entry.shape, start // item, segment.length // item)
        data = np.empty(segment.length, dtype=np.uint8)
        target = element_view(data, by_code(entry.dtype), box.sizes)
        wanted.append(Wanted(fqn, box, _filler(box, target)))
        buffers.append(data)
    load_wanted(store, manifest, wanted, threads=threads)
    for data in buffers:
        whole.update(data.data)


def _box(shape: tuple[int, ...], start: int, count: int) -> Box:
    """The box of consecutive elements of a tensor, which are rows of it."""
    if not shape:
        return Box((), ())
    inner = int(np.prod(shape[1:], dtype=np.int64))
    return Box((start // inner, *(0,) * (len(shape) - 1)), (count // inner, *shape[1:]))


def _filler(box: Box, target: NDArray[np.generic]) -> Callable[[Box, NDArray[np.generic]], None]:
    def write(place: Box, elements: NDArray[np.generic]) -> None:
        target[place.relative_to(box).slices()] = elements

    return write
