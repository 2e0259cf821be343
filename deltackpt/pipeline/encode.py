"""The blocks of one group: each a duplicate of something stored, or a new record."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import Choice, CodecOptions, Workspace, choose, encode_block
from deltackpt.format.hashing import Buffer
from deltackpt.format.record import Record, frame_record
from deltackpt.pipeline.bases import BaseReader, Bases, GroupBases
from deltackpt.pipeline.offers import Member, Offer, make_offers
from deltackpt.pipeline.plan_save import BlockTask
from deltackpt.store.base import BaseBlock, RecordRef

__all__ = ["EncodedBlock", "Pick", "Repeat", "Resolved", "Resolver", "StoredBlock", "TakenBlock", "resolve_group"]

Bytes = NDArray[np.uint8]

# Left free before a payload, so that a record's header and meta fit there: all but those of some hundred needs do.
_ROOM = 4096


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
        record, data: its parts and its bytes. Both look into ``buffer``.
        needs: what it is decoded from, in the order of the record's needs: blocks of the base, or positions in the
            group.
        depth: how many records are decoded to get it.
        buffer: to be given back to the workspace when the record was put away.
    """

    record: Record
    data: Buffer
    needs: tuple[BaseBlock | int, ...]
    depth: int
    buffer: Bytes


Resolved = StoredBlock | Repeat | EncodedBlock


@dataclass(frozen=True, slots=True, eq=False)
class Pick:
    """What a block may be predicted from, and what it is."""

    offers: list[Offer]
    choice: Choice

    @property
    def offer(self) -> Offer:
        return Offer.none() if self.choice.number is None else self.offers[self.choice.number]


def resolve_group(
    group: Sequence[TakenBlock], bases: Bases, options: CodecOptions, max_depth: int, workspace: Workspace
) -> dict[int, Resolved]:
    """Decide what each block of a group becomes: by position, in the order in which they are to be stored.

    Base blocks are read once for the whole group.
    """
    resolver = Resolver(group, GroupBases(bases), max_depth, workspace, options.read_factor)
    resolved: dict[int, Resolved] = {}
    duplicates = {}
    for position, taken in enumerate(group):
        found = _find_duplicate(taken, resolver.bases)
        if found is not None:
            duplicates[position] = found
    picks = resolver.moments(duplicates)
    for position in [*picks, *(p for p in range(len(group)) if p not in picks)]:
        if position in duplicates:
            # It costs this save nothing, but reading it takes a record of unknown length: not a partner.
            resolved[position] = duplicates[position]
            continue
        pick = picks.get(position) or resolver.pick(position)
        block = _encode(group[position], pick, resolver.members, options, workspace)
        resolver.settle(position, block.depth, len(block.data))
        resolved[position] = block
    return resolved


class Resolver:
    """The blocks of one group while they are resolved.

    Attributes:
        members: all of them; those with a depth may be partners.
    """

    def __init__(
        self,
        group: Sequence[TakenBlock],
        bases: BaseReader,
        max_depth: int,
        workspace: Workspace,
        read_factor: float = CodecOptions().read_factor,
    ) -> None:
        self.members = [Member(taken.task, taken.data, taken.address) for taken in group]
        self.bases = bases
        self._max_depth = max_depth
        self._workspace = workspace
        self._read_factor = read_factor

    def pick(self, position: int) -> Pick:
        """What the block is best predicted from, given those settled so far."""
        offers = make_offers(position, self.members, self.bases, self._max_depth)
        member = self.members[position]
        candidates = [offer.candidate for offer in offers]
        dtype, factor = member.task.item.dtype, self._read_factor
        return Pick(offers, choose(member.data, dtype, candidates, self._workspace, read_factor=factor))

    def settle(self, position: int, depth: int | None, stored: int = 0) -> None:
        """Make a block a partner of those to come; without a depth, none any more."""
        self.members[position] = replace(self.members[position], depth=depth, stored=stored)

    def moments(self, duplicates: Container[int]) -> dict[int, Pick]:
        """What a first and a second moment are predicted from, in the better of the two orders; of others nothing.

        After one step of training the second moment follows from the first one; later it is the first moment that
        costs less beside the second one.
        """
        first, second = 0, self.members[0].task.partners.exp_avg_sq
        if second is None or self.members[second].task.partners.exp_avg != first:
            return {}
        if first in duplicates or second in duplicates:
            return {}
        orders = [self._in_order(second, first)]
        if self.members[second].task.bases:
            orders.append(self._in_order(first, second))
        return min(orders, key=lambda picks: sum(pick.choice.bits for pick in picks.values()))

    def _in_order(self, one: int, two: int) -> dict[int, Pick]:
        """The picks of two blocks if they are resolved in this order."""
        pick = self.pick(one)
        self.settle(one, pick.offer.depth(self.members))
        picks = {one: pick, two: self.pick(two)}
        self.settle(one, None)
        return picks


def _find_duplicate(taken: TakenBlock, bases: BaseReader) -> StoredBlock | Repeat | None:
    """What the block is a duplicate of. Equal addresses are only a hint: what counts is that bytes were compared."""
    block = taken.task.reusable.get(taken.address)
    if block is not None:
        stored = bases.read(block)
        if stored is not None and np.array_equal(stored, taken.data):
            return StoredBlock(block.ref)
    if taken.first is not None:
        number, first = taken.first
        if np.array_equal(first.item.read(first.box), taken.data):
            return Repeat(number)
    return None


def _encode(
    taken: TakenBlock, pick: Pick, members: Sequence[Member], options: CodecOptions, workspace: Workspace
) -> EncodedBlock:
    candidates = [offer.candidate for offer in pick.offers]
    encoded = encode_block(taken.data, taken.task.item.dtype, candidates, options, pick.choice, workspace, room=_ROOM)
    offer = Offer.none() if encoded.choice is None else pick.offers[encoded.choice]
    record = Record(
        dtype=taken.task.item.dtype.code,
        predictor=encoded.predictor,
        coder=encoded.coder,
        address=taken.address,
        shape=taken.task.box.sizes,
        needs=offer.needs,
        params=encoded.params,
        payload=encoded.payload,
    )
    assert encoded.buffer is not None
    data = frame_record(record, encoded.buffer.data, _ROOM)
    return EncodedBlock(record, data, offer.sources, offer.depth(members), encoded.buffer)
