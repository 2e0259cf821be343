"""One block from the store: read the records of its chain, decode them one after another, check every address."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import Encoded, Workspace, decode_block
from deltackpt.errors import CorruptObjectError
from deltackpt.format import hashing
from deltackpt.format.record import Record, decode_record
from deltackpt.pipeline.chains import Lookup, chain_of_all, needs_of
from deltackpt.pipeline.memo import BlockMemo
from deltackpt.pipeline.ranges import RecordPlace
from deltackpt.pipeline.slots import slot_inputs
from deltackpt.store.base import RecordRef
from deltackpt.store.opened import OpenStore
from deltackpt.tensor.dtypes import by_code

__all__ = ["BlockDecoder", "Checks", "decode_listed", "decode_one"]

Bytes = NDArray[np.uint8]


class Checks(Enum):
    """What is checked of a record while it is decoded.

    An address vouches for all that a block was decoded from: a wrong byte anywhere in its chain gives other bytes, or
    does not matter. So hashing the last block of a chain is enough to know that it is right, and checking every link
    tells which record is damaged.
    """

    ALL = "the checksum of the record and the address of the block"
    ADDRESS = "the address"
    NONE = "neither: for a block that nobody sees, which others are decoded from"


def decode_one(
    record: Record,
    bases: dict[bytes, Bytes],
    *,
    source: str,
    offset: int,
    workspace: Workspace | None = None,
    checks: Checks = Checks.ALL,
) -> Bytes:
    """Decode a record whose needs are given by address, and check the result against the record's own address.

    Args:
        workspace: where the memory of the block comes from, too.
        checks: whether the address is checked.
    """
    dtype = by_code(record.dtype, where=source, offset=offset)
    inputs = slot_inputs(record.shape, record.needs, bases, source=source)
    encoded = Encoded(record.predictor, record.coder, record.params, memoryview(record.payload))
    size = math.prod(record.shape) * dtype.itemsize
    out = None if workspace is None else workspace.block(size)
    data = decode_block(encoded, dtype, size, inputs, source=source, workspace=workspace, out=out)
    if checks is not Checks.NONE and hashing.address(data.data) != record.address:
        raise CorruptObjectError(
            "the decoded block does not have its address",
            where=source,
            offset=offset,
            hint="run `deltackpt verify --deep`",
        )
    return data


def decode_listed(
    ref: RecordRef,
    needs: Sequence[RecordRef],
    held: Mapping[RecordRef, Bytes],
    data: bytes | memoryview,
    place: RecordPlace,
    lookup: Lookup,
    workspace: Workspace,
    checks: Checks = Checks.ALL,
) -> Bytes:
    """Decode the bytes of a record that an index lists, and check that it is that record.

    Args:
        needs: what it is decoded from, in order; ``held`` has the blocks.
        data: its bytes, from ``place``.
        workspace: where buffers come from.
        checks: what is checked of its bytes.

    Raises:
        CorruptObjectError: it is damaged, or another record than the index says.
    """
    key, offset = place.pack, place.offset
    record = decode_record(data, source=key, offset=offset, check=checks is Checks.ALL)
    columns = lookup(ref.identity).identity
    size = math.prod(record.shape) * by_code(record.dtype, where=key, offset=offset).itemsize
    if record.address != columns.address[ref.row].tobytes() or size != columns.raw[ref.row]:
        raise CorruptObjectError("another record than the index says", where=key, offset=offset)
    listed = [lookup(n.identity).identity.address[n.row].tobytes() for n in needs]
    if [need.address for need in record.needs] != listed:
        raise CorruptObjectError("the record needs others than the index says", where=key, offset=offset)
    bases = {address: held[need] for address, need in zip(listed, needs, strict=True)}
    return decode_one(record, bases, source=key, offset=offset, workspace=workspace, checks=checks)


class BlockDecoder:
    """Decodes blocks of one step; safe to use from many threads.

    Args:
        store: where the records are.
        lookup: identity to index, for the closure of the step.
        memo: blocks decoded before, if they are to be kept.
    """

    def __init__(self, store: OpenStore, lookup: Lookup, memo: BlockMemo | None = None) -> None:
        self._store = store
        self._lookup = lookup
        self._memo = BlockMemo(0) if memo is None else memo
        self._workspace = Workspace()

    def decode(self, ref: RecordRef) -> Bytes:
        """The bytes of a block, not to be changed. Holds no more than the blocks that are still needed.

        Raises:
            MissingObjectError, CorruptObjectError: something on the way is gone or damaged.
        """
        found: list[Bytes] = []
        self.decode_all([ref], lambda _, block: found.append(block))
        return found[0]

    def decode_all(self, refs: Sequence[RecordRef], take: Callable[[RecordRef, Bytes], None]) -> None:
        """Hand each of some blocks to ``take``, as soon as it is decoded. What their chains share is decoded once.

        Args:
            refs: different records.

        Raises:
            MissingObjectError, CorruptObjectError: something on the way is gone or damaged; some may have been taken.
        """
        held: dict[RecordRef, Bytes] = {}
        for ref in refs:
            held.update(self._recall(ref))
        missing = [ref for ref in refs if ref not in held]
        for ref in refs:
            if ref in held:
                take(ref, held[ref])
        chain = chain_of_all(missing, self._lookup, held)
        wanted = frozenset(missing)
        uses = Counter(need for needs in chain.values() for need in needs)
        for step, needs in chain.items():
            block = held[step] = self._decode_step(step, needs, held)
            self._memo.put(step, block)
            if step in wanted:
                take(step, block)
                if not uses[step]:
                    del held[step]
            for need in needs:
                uses[need] -= 1
                if uses[need] == 0:
                    del held[need]

    def _recall(self, ref: RecordRef) -> dict[RecordRef, Bytes]:
        """What the memo has of the block itself or, failing that, of what it directly needs."""
        for wanted in ([ref], needs_of(ref, self._lookup)):
            found = {r: block for r in wanted if (block := self._memo.get(r)) is not None}
            if found:
                return found
        return {}

    def _decode_step(self, ref: RecordRef, needs: list[RecordRef], held: dict[RecordRef, Bytes]) -> Bytes:
        place = RecordPlace.of(ref, self._lookup)
        data = self._store.backend.get(place.pack, place.offset, place.length)
        return decode_listed(ref, needs, held, data, place, self._lookup, self._workspace)
