"""One block of a save: a duplicate of something stored, or a new record."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import CodecOptions, encode_block
from deltackpt.format.record import Need, Record, encode_record
from deltackpt.format.record_meta import MAX_NEEDS, put_meta
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
    for block in taken.task.reusable:
        if block.address == taken.address:
            stored = bases.read(block)
            if stored is not None and np.array_equal(stored, taken.data):
                return StoredBlock(block.ref)
    if taken.first is not None:
        number, first = taken.first
        if np.array_equal(first.item.read(first.box), taken.data):
            return Repeat(number)
    return _encode(taken, bases, options)


def _encode(taken: TakenBlock, bases: Bases, options: CodecOptions) -> EncodedBlock:
    task = taken.task
    shape, dtype = task.box.sizes, task.item.dtype
    # A record must not need its own address. One of the bases has it where that base could not be read, or where two
    # blocks collide.
    usable = [block for block in task.bases if block.address != taken.address]
    needs = whole_or_tiles(task.box, dtype, usable)
    cost = _needs_bytes(shape, needs)
    # Needs that take more than the block itself cannot pay, so their bases are not even read.
    found = bases.read_all(usable) if needs and len(needs) <= MAX_NEEDS and cost < taken.data.size else None
    inputs = slot_inputs(shape, needs, found, source=task.item.fqn) if found else {}
    encoded = encode_block(taken.data, dtype, inputs, options, input_bytes=cost)
    if not encoded.slots:
        needs = ()
    by_address = {block.address: block for block in usable}
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


def _needs_bytes(shape: tuple[int, ...], needs: tuple[Need, ...]) -> int:
    """How much longer the meta of a record is with these needs."""
    without, meta = bytearray(), bytearray()
    put_meta(without, shape, (), b"")
    put_meta(meta, shape, needs, b"")
    return len(meta) - len(without)
