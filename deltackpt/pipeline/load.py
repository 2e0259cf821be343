"""Loading, top to bottom: plan -> read records -> decode the chain -> check -> copy. The mirror of ``save.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import CorruptObjectError, DeltackptError
from deltackpt.format.manifest import Manifest
from deltackpt.pipeline.chains import Lookup, chain_of
from deltackpt.pipeline.decode import BlockDecoder
from deltackpt.pipeline.decode_tasks import DecodeError, TaskDecoder
from deltackpt.pipeline.ordered import ordered_map
from deltackpt.pipeline.plan_decode import DecodeTask, plan_decoding
from deltackpt.pipeline.plan_load import BlockRead, Wanted, plan_load
from deltackpt.pipeline.shelf import Shelf
from deltackpt.pipeline.slots import element_view
from deltackpt.store.base import UNUSABLE, RecordRef, index_lookup
from deltackpt.store.opened import OpenStore
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_code

__all__ = ["DECODE_MEMORY", "load_bytes", "load_wanted"]

Bytes = NDArray[np.uint8]
_Item = TypeVar("_Item")

DECODE_MEMORY = 256 << 20
"""What a load may hold beside a handful of blocks a thread: half of it bytes read ahead, half shared blocks."""


def load_wanted(
    store: OpenStore,
    manifest: Manifest,
    wanted: Sequence[Wanted],
    *,
    threads: int,
    memory: int = DECODE_MEMORY,
    shelf: Shelf | None = None,
    decoder: BlockDecoder | None = None,
    in_order: bool = False,
) -> None:
    """Decode what is wanted, and hand every part to its ``write``. Every record is read and decoded once.

    Args:
        memory: bytes, half of them for what is read ahead, half for blocks that several chains share; where those are
            more, some are decoded again. Beside that a handful of blocks a thread are held, however long chains are.
        shelf: where a walk over many steps keeps blocks.
        decoder: one for the closure of the manifest, if small parts are read one after another. It keeps blocks from
            call to call, and nothing is planned.
        in_order: whether blocks are decoded in about the order in which they are wanted, not in which they are stored.

    Raises:
        CorruptObjectError, MissingObjectError: a record is damaged or gone; names the tensor and the step.
        UnknownVersionError: a record needs a newer version of this package.
    """
    lookup = index_lookup(store, manifest)
    reads = plan_load(manifest, wanted, in_order=in_order)
    if decoder is not None:
        _run(lambda read: _read_alone(decoder, manifest, read), reads, threads)
        return
    kept = Shelf(0) if shelf is None else shelf
    available = kept.held()
    blocks = [read.ref for read in reads]

    def give(number: int, data: Bytes) -> None:
        _copy(reads[number], data)

    try:
        tasks = _plan(blocks, lookup, memory // 2, available)
        runner = TaskDecoder(store, lookup, blocks, tasks, read_budget=memory // 2, available=available, shelf=kept)
        _run(lambda task: runner.run(task, give), tasks, threads)
    except DecodeError as failed:
        _name_tensor(failed.error, manifest, reads[failed.number])


def _plan(
    blocks: Sequence[RecordRef], lookup: Lookup, budget: int, available: Mapping[RecordRef, Bytes]
) -> list[DecodeTask]:
    try:
        return plan_decoding(blocks, lookup, budget=budget, available=available)
    except UNUSABLE as error:
        # An index of the closure cannot be read. Which of the blocks needs it?
        for number, block in enumerate(blocks):
            try:
                chain_of(block, lookup, available)
            except UNUSABLE as found:
                raise DecodeError(number, found) from error
        raise


def _read_alone(decoder: BlockDecoder, manifest: Manifest, read: BlockRead) -> None:
    try:
        _copy(read, decoder.decode(read.ref))
    except UNUSABLE as error:
        _name_tensor(error, manifest, read)


def _copy(read: BlockRead, data: Bytes) -> None:
    for copy in read.copies:
        _hand_over(data, copy.dtype.code, copy.block, copy.box, copy.wanted)


def _run(work: Callable[[_Item], None], items: Sequence[_Item], threads: int) -> None:
    """Do all work, in threads where there is more than one item; begun in order."""
    if len(items) == 1:
        work(items[0])
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="deltackpt-load") as executor:
        for _ in ordered_map(executor, work, items, window=2 * threads):
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
