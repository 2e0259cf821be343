"""The files that a step holds byte for byte, as the store describes them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import CorruptObjectError
from deltackpt.format.manifest import Manifest
from deltackpt.formats.recipe import FILE, FileInfo, Structure, parse_info, parse_structure
from deltackpt.pipeline.load import load_bytes, load_wanted
from deltackpt.pipeline.plan_load import Wanted
from deltackpt.store.opened import OpenStore
from deltackpt.tensor.box import Box

__all__ = ["read_infos", "read_structure"]

Bytes = NDArray[np.uint8]


def read_infos(store: OpenStore, manifest: Manifest, *, threads: int) -> list[FileInfo]:
    """What is known of each file of a step, in the order of the manifest; empty where the step was not imported.

    Raises:
        CorruptObjectError, MissingObjectError: a part of the store is damaged or gone.
    """
    entries = [entry for entry in manifest.entries if entry.encoding == FILE]
    data = {entry.fqn: np.empty(entry.shape, dtype=np.uint8) for entry in entries}
    wanted = [Wanted(fqn, Box.whole(array.shape), _filler(array)) for fqn, array in data.items()]
    load_wanted(store, manifest, wanted, threads=threads)
    return [parse_info(array.tobytes(), fqn) for fqn, array in data.items()]


def _filler(array: Bytes) -> Callable[[Box, NDArray[np.generic]], None]:
    def write(place: Box, elements: NDArray[np.generic]) -> None:
        array[place.slices()] = elements

    return write


def read_structure(store: OpenStore, manifest: Manifest, info: FileInfo, *, threads: int) -> Structure:
    """What a file of the step is made of.

    Raises:
        CorruptObjectError: it is not what the format allows, or its body is missing or too short.
    """
    entry = manifest.entries[manifest.find(info.body)]
    if len(entry.shape) != 1 or entry.shape[0] < info.structure:
        raise CorruptObjectError(
            f"its shape is {list(entry.shape)}, but the structure of the file alone has {info.structure} bytes",
            where=info.body,
        )
    return parse_structure(
        load_bytes(store, manifest, info.body, Box((0,), (info.structure,)), threads=threads).tobytes(), info
    )
