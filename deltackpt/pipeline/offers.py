"""What a block may be predicted from: its base, and blocks of its group that were resolved before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import Candidate
from deltackpt.codec.registry import ADAM_SECOND, ADAM_WEIGHT, CAST, PREVIOUS, ZERO
from deltackpt.format.record import Need
from deltackpt.format.record_meta import MAX_NEEDS, put_meta
from deltackpt.pipeline.bases import GroupBases
from deltackpt.pipeline.plan_save import BlockTask, base_needs
from deltackpt.pipeline.slots import slot_inputs
from deltackpt.store.base import BaseBlock
from deltackpt.tensor.dtypes import DType

__all__ = ["Member", "Offer", "make_offers"]

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A block of the group that was resolved.

    Attributes:
        depth: how many records are decoded to get it; None where it cannot be a partner.
        stored: the length of its record.
    """

    task: BlockTask
    data: Bytes
    address: bytes
    depth: int | None
    stored: int


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """A candidate of the codec, with what it takes to decode it.

    Attributes:
        needs: the record's needs, if the candidate is taken.
        sources: for each need the base block, or the position in the group, that fills it.
        depth: the depth of the record.
    """

    candidate: Candidate
    needs: tuple[Need, ...]
    sources: tuple[BaseBlock | int, ...]
    depth: int

    @classmethod
    def none(cls) -> Offer:
        """No prediction."""
        return cls(Candidate(ZERO, {}), (), (), 1)


@dataclass(frozen=True, slots=True)
class _Slot:
    """What one input of a predictor is filled with: a block of the base, or a position in the group."""

    number: int
    source: BaseBlock | int
    dtype: DType

    @classmethod
    def of(cls, number: int, members: Sequence[Member], position: int) -> _Slot:
        return cls(number, position, members[position].task.item.dtype)


def make_offers(
    task: BlockTask, address: bytes, size: int, members: Sequence[Member], bases: GroupBases, max_depth: int
) -> list[Offer]:
    """All that the block may be predicted from, the cheapest to read first.

    Args:
        task: the block, of ``size`` bytes and with this ``address``; a record must not need its own address, which
            one of the bases has where it could not be read, or where two blocks collide.
        members: the blocks of its group that were resolved before it.
    """
    partners = task.partners
    offers = [_previous(task, address, size, bases)]
    if partners.master is not None:
        offers.append(_offer(CAST, task, [_Slot.of(0, members, partners.master)], members, bases))
    elif partners.exp_avg is not None and partners.exp_avg_sq is not None:
        moments = [_Slot.of(1, members, partners.exp_avg), _Slot.of(2, members, partners.exp_avg_sq)]
        offers.append(_on_base(ADAM_WEIGHT, task, moments, members, bases))
    elif partners.exp_avg is not None:
        first = members[partners.exp_avg].task
        if first.twin is not None and first.bases:
            moments = [_Slot.of(1, members, partners.exp_avg), _Slot(2, first.twin, first.item.dtype)]
            offers.append(_on_base(ADAM_SECOND, task, moments, members, bases))
    return [
        offer
        for offer in offers
        if offer is not None
        and offer.depth <= max_depth
        and offer.candidate.input_bytes < size
        and all(need.address != address for need in offer.needs)
    ]


def _previous(task: BlockTask, address: bytes, size: int, bases: GroupBases) -> Offer | None:
    usable = [block for block in task.bases if block.address != address]
    needs = base_needs(task.box, task.item.dtype, usable)
    cost = _needs_bytes(task.box.sizes, needs)
    # Needs that take more than the block itself cannot pay, so their bases are not even read.
    found = bases.read_all(usable) if needs and len(needs) <= MAX_NEEDS and cost < size else None
    if not found:
        return None
    inputs = slot_inputs(task.box.sizes, needs, found, source=task.item.fqn)
    by_address = {block.address: block for block in usable}
    sources = tuple(by_address[need.address] for need in needs)
    depth = 1 + max(block.depth for block in sources)
    return Offer(Candidate(PREVIOUS, inputs, cost), needs, sources, depth)


def _needs_bytes(shape: tuple[int, ...], needs: Sequence[Need]) -> int:
    """How much longer the meta of a record is with these needs."""
    without, meta = bytearray(), bytearray()
    put_meta(without, shape, (), b"")
    put_meta(meta, shape, tuple(needs), b"")
    return len(meta) - len(without)


def _on_base(
    predictor: int,
    task: BlockTask,
    slots: Sequence[_Slot],
    members: Sequence[Member],
    bases: GroupBases,
) -> Offer | None:
    """An offer with the block's own base, of the same box, in slot 0."""
    if task.twin is None or not task.bases:
        return None
    return _offer(predictor, task, [_Slot(0, task.twin, task.item.dtype), *slots], members, bases)


def _offer(
    predictor: int,
    task: BlockTask,
    slots: Sequence[_Slot],
    members: Sequence[Member],
    bases: GroupBases,
) -> Offer | None:
    """An offer whose slots are each one whole block; None where one of them cannot be had."""
    needs, inputs, depth, read = [], {}, 0, 0
    for slot in slots:
        if isinstance(slot.source, int):
            member = members[slot.source]
            if member.depth is None:
                return None
            data, address = member.data, member.address
            depth = max(depth, member.depth)
            if member.task.item.artifact == "optim" != task.item.artifact:
                read += member.stored
        else:
            found = bases.read(slot.source)
            if found is None:
                return None
            data, address = found, slot.source.address
            depth = max(depth, slot.source.depth)
        needs.append(Need(slot.number, slot.dtype.code, address, None))
        inputs[slot.number] = (slot.dtype, data)
    candidate = Candidate(predictor, inputs, _needs_bytes(task.box.sizes, needs), read)
    return Offer(candidate, tuple(needs), tuple(slot.source for slot in slots), 1 + depth)
