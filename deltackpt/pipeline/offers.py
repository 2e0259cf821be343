"""What a block may be predicted from: its base, and blocks of its group that were resolved before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import Candidate
from deltackpt.codec.registry import ADAM_SECOND, ADAM_WEIGHT, CAST, LINEAR, MEAN, PREVIOUS, SCALE, ZERO
from deltackpt.format.record import Need
from deltackpt.format.record_meta import MAX_NEEDS, put_meta
from deltackpt.pipeline.bases import BaseReader
from deltackpt.pipeline.plan_save import BlockTask, base_needs
from deltackpt.pipeline.slots import slot_inputs
from deltackpt.store.base import BaseBlock
from deltackpt.tensor.dtypes import DType

__all__ = ["Member", "Offer", "make_offers"]

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A block of the group.

    Attributes:
        depth: how many records are decoded to get it; None where it cannot be a partner, or is not resolved yet.
        stored: the length of its record.
    """

    task: BlockTask
    data: Bytes
    address: bytes
    depth: int | None = None
    stored: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """A candidate of the codec, with what it takes to decode it.

    Attributes:
        needs: the record's needs, if the candidate is taken.
        sources: for each need the base block, or the position in the group, that fills it.
    """

    candidate: Candidate
    needs: tuple[Need, ...]
    sources: tuple[BaseBlock | int, ...]

    @classmethod
    def none(cls) -> Offer:
        """No prediction."""
        return cls(Candidate(ZERO, {}), (), ())

    def depth(self, members: Sequence[Member]) -> int:
        """The depth of the record."""
        depths = [members[s].depth if isinstance(s, int) else s.depth for s in self.sources]
        return 1 + max((depth for depth in depths if depth is not None), default=0)


@dataclass(frozen=True, slots=True)
class _Slot:
    """What one input of a predictor is filled with: a block of the base, or a position in the group."""

    number: int
    source: BaseBlock | int
    dtype: DType

    @classmethod
    def of(cls, number: int, members: Sequence[Member], position: int) -> _Slot:
        return cls(number, position, members[position].task.item.dtype)


def make_offers(position: int, members: Sequence[Member], bases: BaseReader, max_depth: int) -> list[Offer]:
    """All that a block may be predicted from, the cheapest to read first.

    Args:
        position: of the block in its group.
        members: the blocks of the group; those resolved may be its partners.
    """
    block = members[position]
    task, size = block.task, block.data.size
    offers = [_previous(task, block.address, size, bases)]
    if task.other is not None:
        offers += [_offer(predictor, task, slots, members, bases) for predictor, slots in _both_sides(task, task.other)]
    offers += [_offer(predictor, task, slots, members, bases) for predictor, slots in _partnerships(task, members)]
    return [
        offer
        for offer in offers
        if offer is not None
        and offer.depth(members) <= max_depth
        and offer.candidate.input_bytes < size
        # One of the bases has the block's own address where it could not be read, or where two blocks collide.
        and all(need.address != block.address for need in offer.needs)
    ]


def _partnerships(task: BlockTask, members: Sequence[Member]) -> Iterator[tuple[int, list[_Slot]]]:
    """Predictors that take partners, and what fills their slots."""
    partners, own = task.partners, _base_slot(0, task)
    first, second, momentum = partners.exp_avg, partners.exp_avg_sq, partners.momentum
    if partners.master is not None:
        yield CAST, [_Slot.of(0, members, partners.master)]
    elif second is not None and first is None:
        given = members[second]
        scale = _base_slot(0, given.task) if given.depth is None else _Slot.of(0, members, second)
        if scale:
            yield SCALE, [scale]
    elif own is None:
        return
    elif first is not None and second is not None:
        moments = [_Slot.of(1, members, first), _Slot.of(2, members, second)]
        yield ADAM_WEIGHT, [own, *moments]
        before = [_base_slot(3, members[first].task), _base_slot(4, members[second].task)]
        if all(before):
            yield LINEAR, [own, *moments, *(slot for slot in before if slot)]
    elif first is not None:
        if before_first := _base_slot(2, members[first].task):
            yield ADAM_SECOND, [own, _Slot.of(1, members, first), before_first]
        yield LINEAR, [own, _Slot.of(1, members, first)]
    elif momentum is not None:
        yield LINEAR, [own, _Slot.of(1, members, momentum)]
        if before_momentum := _base_slot(3, members[momentum].task):
            yield LINEAR, [own, _Slot.of(1, members, momentum), before_momentum]


def _both_sides(task: BlockTask, other: BaseBlock) -> Iterator[tuple[int, list[_Slot]]]:
    """Predictors that take a second base."""
    second = _Slot(0, other, task.item.dtype)
    yield PREVIOUS, [second]
    if own := _base_slot(0, task):
        yield MEAN, [own, replace(second, number=1)]


def _base_slot(number: int, task: BlockTask) -> _Slot | None:
    """A slot with the base's block of the same box, where a delta may be written on it."""
    if task.twin is None or not task.bases:
        return None
    return _Slot(number, task.twin, task.item.dtype)


def _previous(task: BlockTask, address: bytes, size: int, bases: BaseReader) -> Offer | None:
    usable = [block for block in task.bases if block.address != address]
    needs = base_needs(task.box, task.item.dtype, usable)
    cost = _needs_bytes(task.box.sizes, needs)
    # Needs that take more than the block itself cannot pay, so their bases are not even read.
    found = bases.read_all(usable) if needs and len(needs) <= MAX_NEEDS and cost < size else None
    if not found:
        return None
    inputs = slot_inputs(task.box.sizes, needs, found, source=task.item.fqn)
    by_address = {block.address: block for block in usable}
    return Offer(Candidate(PREVIOUS, inputs, cost), needs, tuple(by_address[need.address] for need in needs))


def _needs_bytes(shape: tuple[int, ...], needs: Sequence[Need]) -> int:
    """How much longer the meta of a record is with these needs."""
    without, meta = bytearray(), bytearray()
    put_meta(without, shape, (), b"")
    put_meta(meta, shape, tuple(needs), b"")
    return len(meta) - len(without)


def _offer(
    predictor: int,
    task: BlockTask,
    slots: Sequence[_Slot],
    members: Sequence[Member],
    bases: BaseReader,
) -> Offer | None:
    """An offer whose slots are each one whole block; None where one of them cannot be had."""
    needs, inputs, read, near = [], {}, 0, True
    for slot in slots:
        if isinstance(slot.source, int):
            member = members[slot.source]
            if member.depth is None:
                return None
            data, address = member.data, member.address
            near &= member.task.item.artifact == task.item.artifact
            if member.task.item.artifact == "optim" != task.item.artifact:
                read += member.stored
        else:
            found = bases.read(slot.source)
            if found is None:
                return None
            data, address, near = found, slot.source.address, False
            if slot.number and predictor != MEAN and task.item.artifact != "optim":
                # A moment of the base: its record is about as long as this one of this step.
                read += data.size
        needs.append(Need(slot.number, slot.dtype.code, address, None))
        inputs[slot.number] = (slot.dtype, data)
    candidate = Candidate(predictor, inputs, _needs_bytes(task.box.sizes, needs), read, near)
    return Offer(candidate, tuple(needs), tuple(slot.source for slot in slots))
