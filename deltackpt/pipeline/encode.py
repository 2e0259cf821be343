"""One block of a save: a duplicate of something stored, or a new record."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import CodecOptions, encode_block
from deltackpt.format.record import Record, encode_record
from deltackpt.pipeline.bases import Bases
from deltackpt.pipeline.plan_save import BlockTask, whole_or_tiles
from deltackpt.pipeline.slots import slot_inputs
from deltackpt.store.base import BaseBlock, RecordRef

__all__ = ["EncodedBlock", "Repeat", "StoredBlock", "TakenBlock", "resolve"]

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class TakenBlock:
    """A block that was copied and hashed.

    Attributes:
        data: its bytes, a private copy.
        first: the number and task of the first block of this save with the same address; None for that one itself.
    """

    task: BlockTask
    data: Bytes
    address: bytes
    first: tuple[int, BlockTask] | None = None


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """The block is in the store already."""

    ref: RecordRef


@dataclass(frozen=True, slots=True)
class Repeat:
    """The block is the same as an earlier one of this save, given by its number."""

    number: int


@dataclass(frozen=True, slots=True, eq=False)
class EncodedBlock:
    """The block is a new record: its parts, its bytes, and the base blocks that it needs, in the order of its needs."""

    record: Record
    data: bytes
    bases: tuple[BaseBlock, ...]


def resolve(taken: TakenBlock, bases: Bases, options: CodecOptions) -> StoredBlock | Repeat | EncodedBlock:
    """Decide what a block becomes. Equal addresses are only a hint: a duplicate counts once its bytes were compared."""
    task = taken.task
    twin = task.twin
    if twin is not None and task.reuse and twin.address == taken.address:
        stored = bases.read(twin)
        if stored is not None and np.array_equal(stored, taken.data):
            return StoredBlock(twin.ref)
    elif taken.first is not None:
        number, first = taken.first
        if np.array_equal(first.item.read(first.box), taken.data):
            return Repeat(number)
    return _encode(taken, bases, options)


def _encode(taken: TakenBlock, bases: Bases, options: CodecOptions) -> EncodedBlock:
    task = taken.task
    shape, dtype = task.box.sizes, task.item.dtype
    found = bases.read_all(task.bases) if task.bases else None
    needs = whole_or_tiles(task.box, dtype, task.bases) if found else ()
    inputs = slot_inputs(shape, needs, found, source=task.item.fqn) if found else {}
    encoded = encode_block(taken.data, dtype, inputs, options)
    if not encoded.slots:
        needs = ()
    by_address = {block.address: block for block in task.bases}
    record = Record(
        dtype=dtype.code,
        predictor=encoded.predictor,
        coder=encoded.coder,
        address=taken.address,
        shape=shape,
        needs=needs,
        params=encoded.params,
        payload=encoded.payload,
    )
    return EncodedBlock(record, encode_record(record), tuple(by_address[need.address] for need in needs))
