"""Blocks coded as a save codes them: from a block's bytes to a record's, hashes and framing included, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Task
from deltackpt.codec import CodecOptions, Encoded, Workspace, decode_block, encode_block, registry
from deltackpt.codec.types import Prediction, Shape, Slot
from deltackpt.format.hashing import Buffer, address
from deltackpt.format.record import Record, decode_record, frame_record
from deltackpt.pipeline.bases import Bases, GroupBases
from deltackpt.pipeline.encode import EncodedBlock, TakenBlock, resolve_group
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.offers import Member, Offer, make_offers
from deltackpt.pipeline.partners import group_items
from deltackpt.pipeline.plan_save import BlockTask
from deltackpt.store.base import BaseBlock, RecordRef
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_code, by_name

__all__ = ["BLOCK", "Group", "groups_of"]

Bytes = NDArray[np.uint8]
Words = NDArray[Any]

BLOCK = 1 << 20

# Roles of the trajectory: their places in a state, artifacts and roles.
_PLACES: Mapping[str, tuple[tuple[str | int, ...], str, str]] = {
    "weights": (("model", "w"), "model", "weight"),
    "bf16": (("model", "w"), "model", "weight"),
    "exp_avg": (("optim", "state", "w", "exp_avg"), "optim", "exp_avg"),
    "exp_avg_sq": (("optim", "state", "w", "exp_avg_sq"), "optim", "exp_avg_sq"),
}

_OPTIONS = CodecOptions()
# Shared by all blocks, as in a save.
_SPACE = Workspace()
_ROOM = 4096  # before a payload, for header and meta of a record
_DEPTH = 64


class _Given(Bases):
    """Base blocks that are in memory."""

    def __init__(self, blocks: Mapping[bytes, Bytes]) -> None:
        self._blocks = blocks

    def read(self, block: BaseBlock) -> Bytes:
        return self._blocks[block.address]


class Group:
    """The blocks of some roles at one place, and those of the base.

    Args:
        values, bases: by role, words of one block; no base for a key step.
    """

    def __init__(self, values: Mapping[str, Words], bases: Mapping[str, Words]) -> None:
        box = Box.whole((next(iter(values.values())).size,))
        # Moments first, as a save orders them.
        self.roles = sorted(values, key=["exp_avg", "exp_avg_sq", "weights", "bf16"].index)
        self._values = {role: values[role].copy().view(np.uint8) for role in self.roles}
        known = {role: bases[role].copy().view(np.uint8) for role in bases}
        self._bases = {address(data.data): data for data in known.values()}
        items = [_item(role, box) for role in self.roles]
        groups = group_items(items)
        assert len(groups) == 1
        self._tasks = []
        for role, item, partners in zip(self.roles, items, groups[0].partners, strict=True):
            twin = None
            if role in known:
                twin = BaseBlock(RecordRef(bytes(32), 0), address(known[role].data), box, 1, True)
            self._tasks.append(BlockTask(item, box, twin, {}, () if twin is None else (twin,), partners))

    def task(self) -> Task:
        """All blocks together."""
        raw = np.concatenate([self._values[role] for role in self.roles])

        def encode() -> list[Buffer]:
            resolved = self._resolve()
            for block in resolved.values():
                # Whoever gets a record in a save copies it into a pack, and then its buffer is free again.
                _SPACE.give(block.buffer)
            return [resolved[position].data for position in range(len(self.roles))]

        return Task(raw, encode, self._decode)

    def _taken(self) -> list[TakenBlock]:
        return [
            TakenBlock(task, self._values[role], address(self._values[role].data))
            for role, task in zip(self.roles, self._tasks, strict=True)
        ]

    def _resolve(self) -> dict[int, EncodedBlock]:
        """What becomes of each block, by position, in the order of their needs."""
        resolved: dict[int, EncodedBlock] = {}
        for position, found in resolve_group(self._taken(), _Given(self._bases), _OPTIONS, _DEPTH, _SPACE).items():
            assert isinstance(found, EncodedBlock)
            resolved[position] = found
        return resolved

    def _decode(self, records: Sequence[Buffer]) -> Bytes:
        done = dict(self._bases)
        parsed = [decode_record(record, source="record") for record in records]
        sizes = [self._values[role].size for role in self.roles]
        buffer = _SPACE.take(sum(sizes))
        out = buffer[: sum(sizes)]
        places = np.split(out, np.cumsum(sizes)[:-1])
        waiting = list(zip(parsed, places, strict=True))
        while waiting:
            for pair in list(waiting):
                if all(need.address in done for need in pair[0].needs):
                    done[pair[0].address] = _decode_into(pair[1], pair[0], done)
                    waiting.remove(pair)
        _SPACE.give(buffer)
        return out

    def single_tasks(self) -> dict[str, tuple[Task, Prediction]]:
        """Each block alone, given the others as it gets them in a save, with its prediction; for speeds by role."""
        resolved = self._resolve()
        members = [Member(taken.task, taken.data, taken.address) for taken in self._taken()]
        bases = GroupBases(_Given(self._bases))
        given = dict(self._bases)
        found = {}
        for position, block in resolved.items():
            role = self.roles[position]
            offers = make_offers(position, members, bases, _DEPTH)
            data, dtype = self._values[role], self._tasks[position].item.dtype
            inputs = {need.slot: Slot(dtype, given[need.address].view(dtype.word)) for need in block.record.needs}
            predictor = registry.predictor(block.record.predictor, source=role)
            guess = predictor.predict(
                Shape(dtype, data.size // dtype.itemsize), inputs, block.record.params, source=role
            )
            found[role] = (Task(data, _encoder(data, members[position], offers), _decoder(data.size, {**given})), guess)
            given[block.record.address] = data
            members[position] = Member(members[position].task, data, block.record.address, 1, len(block.data))
        return found


def _encoder(data: Bytes, member: Member, offers: Sequence[Offer]) -> Callable[[], list[Buffer]]:
    dtype, shape = member.task.item.dtype, member.task.box.sizes
    candidates = [offer.candidate for offer in offers]

    def encode() -> list[Buffer]:
        encoded = encode_block(data, dtype, candidates, _OPTIONS, workspace=_SPACE, room=_ROOM)
        needs = () if encoded.choice is None else offers[encoded.choice].needs
        ids = (dtype.code, encoded.predictor, encoded.coder, address(data.data))
        assert encoded.buffer is not None
        record = Record(*ids, shape, needs, encoded.params, encoded.payload)
        framed = frame_record(record, encoded.buffer.data, _ROOM)
        _SPACE.give(encoded.buffer)
        return [framed]

    return encode


def _decoder(size: int, given: Mapping[bytes, Bytes]) -> Callable[[Sequence[Buffer]], Bytes]:
    def decode(records: Sequence[Buffer]) -> Bytes:
        buffer = _SPACE.take(size)
        _decode_into(buffer[:size], decode_record(records[0], source="record"), given)
        _SPACE.give(buffer)
        return buffer[:size]

    return decode


def _decode_into(out: Bytes, record: Record, given: Mapping[bytes, Bytes]) -> Bytes:
    """A block, with every check that a store makes."""
    dtype = by_code(record.dtype)
    inputs = {need.slot: (by_code(need.dtype), given[need.address]) for need in record.needs}
    encoded = Encoded(record.predictor, record.coder, record.params, memoryview(record.payload))
    data = decode_block(encoded, dtype, out.size, inputs, source="record", workspace=_SPACE, out=out)
    assert address(data.data) == record.address
    return data


def _item(role: str, box: Box) -> SaveItem:
    place, artifact, name = _PLACES[role]
    dtype = by_name("bfloat16" if role == "bf16" else "float32")
    return SaveItem(".".join(map(str, place)), "tensor", dtype, box, artifact, name, place, _unread)


def _unread(box: Box) -> Bytes:
    raise AssertionError("blocks are given")


def groups_of(values: Mapping[str, Words], bases: Mapping[str, Words], block: int = BLOCK) -> Iterator[Group]:
    """Groups of blocks of so many elements, over whole tensors."""
    size = next(iter(values.values())).size
    for start in range(0, size, block):
        here = slice(start, start + block)
        yield Group({r: v[here] for r, v in values.items()}, {r: v[here] for r, v in bases.items()})
