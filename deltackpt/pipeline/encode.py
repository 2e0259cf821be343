"""The blocks of one group: each a duplicate of something stored, or a new record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import CodecOptions, encode_block
from deltackpt.format.record import Record, encode_record
from deltackpt.pipeline.bases import Bases, GroupBases
from deltackpt.pipeline.offers import Member, Offer, make_offers
from deltackpt.pipeline.plan_save import BlockTask
from deltackpt.store.base import BaseBlock, RecordRef

__all__ = ["EncodedBlock", "Repeat", "Resolved", "StoredBlock", "TakenBlock", "resolve_group"]

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
    """The block is a new record.

    Attributes:
        record, data: its parts and its bytes.
        needs: what it is decoded from, in the order of the record's needs: blocks of the base, or positions in the
            group.
        depth: how many records are decoded to get it.
    """

    record: Record
    data: bytes
    needs: tuple[BaseBlock | int, ...]
    depth: int


Resolved = StoredBlock | Repeat | EncodedBlock


def resolve_group(
    group: Sequence[TakenBlock], bases: Bases, options: CodecOptions, max_depth: int
) -> tuple[Resolved, ...]:
    """Decide what each block of a group becomes, in order. Base blocks are read once for the whole group."""
    reader = GroupBases(bases)
    members: list[Member] = []
    resolved: list[Resolved] = []
    for taken in group:
        result = _find_duplicate(taken, reader) or _encode(taken, members, reader, options, max_depth)
        resolved.append(result)
        members.append(_as_member(taken, result))
    return tuple(resolved)


def _as_member(taken: TakenBlock, result: Resolved) -> Member:
    if isinstance(result, EncodedBlock):
        return Member(taken.task, taken.data, taken.address, result.depth, len(result.data))
    # A duplicate costs this save nothing, but reading it takes a record of unknown length: not a partner.
    return Member(taken.task, taken.data, taken.address, None, 0)


def _find_duplicate(taken: TakenBlock, bases: GroupBases) -> StoredBlock | Repeat | None:
    """What the block is a duplicate of. Equal addresses are only a hint: what counts is that bytes were compared."""
    for block in taken.task.reusable:
        if block.address == taken.address:
            stored = bases.read(block)
            if stored is not None and np.array_equal(stored, taken.data):
                return StoredBlock(block.ref)
    if taken.first is not None:
        number, first = taken.first
        if np.array_equal(first.item.read(first.box), taken.data):
            return Repeat(number)
    return None


def _encode(
    taken: TakenBlock, members: Sequence[Member], bases: GroupBases, options: CodecOptions, max_depth: int
) -> EncodedBlock:
    task = taken.task
    offers = make_offers(task, taken.address, taken.data.size, members, bases, max_depth)
    encoded = encode_block(taken.data, task.item.dtype, [offer.candidate for offer in offers], options)
    offer = Offer.none() if encoded.choice is None else offers[encoded.choice]
    record = Record(
        dtype=task.item.dtype.code,
        predictor=encoded.predictor,
        coder=encoded.coder,
        address=taken.address,
        shape=task.box.sizes,
        needs=offer.needs,
        params=encoded.params,
        payload=encoded.payload,
    )
    return EncodedBlock(record, encode_record(record), offer.sources, offer.depth)
