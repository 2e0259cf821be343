"""Loading, top to bottom: plan -> read records -> decode the chain -> check -> copy. The mirror of ``save.py``."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import CorruptObjectError, DeltackptError, MissingObjectError, UnknownVersionError
from deltackpt.format.manifest import Manifest
from deltackpt.pipeline.decode import BlockDecoder
from deltackpt.pipeline.ordered import ordered_map
from deltackpt.pipeline.plan_load import BlockRead, Wanted, group_reads, plan_load
from deltackpt.pipeline.slots import element_view
from deltackpt.store.base import RecordRef, index_lookup
from deltackpt.store.opened import OpenStore
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_code

__all__ = ["load_bytes", "load_wanted"]

Bytes = NDArray[np.uint8]

_BROKEN = (CorruptObjectError, MissingObjectError, UnknownVersionError)


def load_wanted(
    store: OpenStore,
    manifest: Manifest,
    wanted: Sequence[Wanted],
    *,
    threads: int,
    decoder: BlockDecoder | None = None,
) -> None:
    """Decode what is wanted, block by block, and hand every part to its ``write``.

    Holds a handful of blocks a thread, whatever the length of chains.

    Args:
        decoder: one for the closure of the manifest, if it is to keep blocks from call to call.

    Raises:
        CorruptObjectError, MissingObjectError: a record is damaged or gone; names the tensor and the step.
        UnknownVersionError: a record needs a newer version of this package.
    """
    lookup = index_lookup(store, manifest)
    decoding = BlockDecoder(store, lookup) if decoder is None else decoder
    groups = group_reads(plan_load(manifest, wanted), lookup)

    def read(group: Sequence[BlockRead]) -> None:
        copies = {block.ref: block.copies for block in group}

        def hand_over(ref: RecordRef, data: Bytes) -> None:
            for copy in copies[ref]:
                _hand_over(data, copy.dtype.code, copy.block, copy.box, copy.wanted)

        try:
            decoding.decode_all(list(copies), hand_over)
        except _BROKEN as error:
            if len(group) == 1:
                _name_tensor(error, manifest, group[0])
            # Alone, each says which of them it is that cannot be read.
            for block in group:
                read([block])

    if len(groups) == 1:
        read(groups[0])
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="deltackpt-load") as executor:
        for _ in ordered_map(executor, read, groups, window=2 * threads):
            pass


def load_bytes(store: OpenStore, manifest: Manifest, fqn: str, box: Box | None = None, *, threads: int) -> Bytes:
    """The bytes of an entry, or of a box of it, as a new 1-D array in C order.

    Raises:
        TensorNotFoundError: there is no such entry; otherwise as :func:`load_wanted`.
    """
    entry = manifest.entries[manifest.find(fqn)]
    part = Box.whole(entry.shape) if box is None else box
    dtype = by_code(entry.dtype, where=fqn)
    out = np.empty(part.numel * dtype.itemsize, dtype=np.uint8)
    target = element_view(out, dtype, part.sizes)

    def write(place: Box, elements: NDArray[np.generic]) -> None:
        target[place.relative_to(part).slices()] = elements

    load_wanted(store, manifest, [Wanted(fqn, part, write)], threads=threads)
    return out


def _hand_over(data: Bytes, dtype_code: int, block: Box, box: Box, wanted: Wanted) -> None:
    dtype = by_code(dtype_code)
    if data.size != block.numel * dtype.itemsize:
        raise CorruptObjectError(
            f"a block of {data.size} bytes for {block.numel} elements of {dtype.name}", where=wanted.fqn
        )
    elements = element_view(data, dtype, block.sizes)
    # np.asarray keeps a 0-dimensional part an array.
    wanted.write(box, np.asarray(elements[box.relative_to(block).slices()]))


def _name_tensor(error: DeltackptError, manifest: Manifest, block: BlockRead) -> NoReturn:
    """The same error, with the tensor and step that it keeps from being read."""
    key = manifest.header.key
    raise type(error)(
        f"{error.message}; needed for {block.copies[0].wanted.fqn} of step {key.branch}:{key.step}",
        where=error.where,
        offset=error.offset,
        hint=error.hint,
    ) from error
