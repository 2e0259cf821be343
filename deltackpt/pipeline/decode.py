"""One block from the store: read the records of its chain, decode them one after another, check every address."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import Encoded, decode_block
from deltackpt.errors import CorruptObjectError
from deltackpt.format import hashing
from deltackpt.format.index import Index
from deltackpt.format.keys import pack_key
from deltackpt.format.record import Record, decode_record
from deltackpt.pipeline.memo import BlockMemo
from deltackpt.pipeline.slots import slot_inputs
from deltackpt.store.base import RecordRef
from deltackpt.store.opened import OpenStore
from deltackpt.tensor.dtypes import by_code

__all__ = ["BlockDecoder", "chain_of", "chain_of_all", "decode_one", "needs_of"]

Bytes = NDArray[np.uint8]
Lookup = Callable[[bytes], Index]


def needs_of(ref: RecordRef, lookup: Lookup) -> list[RecordRef]:
    """The records that a record is decoded from, in the order of its needs. Pure."""
    columns = lookup(ref.identity).identity
    if not 0 <= ref.row < len(columns.needs):
        raise CorruptObjectError(f"row {ref.row} of an index with {len(columns.needs)} rows", where=ref.identity.hex())
    start, stop = int(columns.need_start[ref.row]), int(columns.need_start[ref.row + 1])
    return [
        RecordRef(ref.identity if number == 0 else columns.refs[number - 1], row)
        for number, row in zip(
            columns.need_ref[start:stop].tolist(), columns.need_row[start:stop].tolist(), strict=True
        )
    ]


def chain_of(ref: RecordRef, lookup: Lookup, known: Container[RecordRef] = ()) -> dict[RecordRef, list[RecordRef]]:
    """The chain of one record: :func:`chain_of_all`."""
    return chain_of_all([ref], lookup, known)


def chain_of_all(
    refs: Iterable[RecordRef], lookup: Lookup, known: Container[RecordRef] = ()
) -> dict[RecordRef, list[RecordRef]]:
    """All records that decoding ``refs`` takes, each after those it needs, with its needs; without those known. Pure.

    The shallowest come first, so that a record is decoded shortly before it is needed: where weights are predicted from
    moments, the moments of all steps before would otherwise be held at once (94 blocks instead of 9 at 48 steps).

    Without recursion: a chain may be thousands of records long. It ends because needs point backwards only: to earlier
    rows, or by hash to indexes that existed before.
    """
    needs: dict[RecordRef, list[RecordRef]] = {}
    users: dict[RecordRef, list[RecordRef]] = {}
    todo = list(refs)
    while todo:
        found = todo.pop()
        if found in needs:
            continue
        needs[found] = needs_of(found, lookup)
        for need in needs[found]:
            if need not in known:
                users.setdefault(need, []).append(found)
                todo.append(need)
    waiting = {found: sum(need not in known for need in below) for found, below in needs.items()}
    ready = [(_depth(found, lookup), found) for found, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    order: dict[RecordRef, list[RecordRef]] = {}
    while ready:
        _, found = heapq.heappop(ready)
        order[found] = needs[found]
        for user in users.get(found, ()):
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, (_depth(user, lookup), user))
    return order


def _depth(ref: RecordRef, lookup: Lookup) -> int:
    return int(lookup(ref.identity).identity.depth[ref.row])


def decode_one(record: Record, bases: dict[bytes, Bytes], *, source: str, offset: int) -> Bytes:
    """Decode a record whose needs are given by address, and check the result against the record's own address."""
    dtype = by_code(record.dtype, where=source, offset=offset)
    inputs = slot_inputs(record.shape, record.needs, bases, source=source)
    encoded = Encoded(record.predictor, record.coder, record.params, memoryview(record.payload))
    size = math.prod(record.shape) * dtype.itemsize
    data = decode_block(encoded, dtype, size, inputs, source=source)
    if hashing.address(data.data) != record.address:
        raise CorruptObjectError(
            "the decoded block does not have its address",
            where=source,
            offset=offset,
            hint="run `deltackpt verify --deep`",
        )
    return data


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
        index = self._lookup(ref.identity)
        location, row = index.location, ref.row
        key = pack_key(location.packs[int(location.pack[row])].name)
        offset = int(location.offset[row])
        data = self._store.backend.get(key, offset, int(location.length[row]))
        record = decode_record(data, source=key, offset=offset)
        columns = index.identity
        size = math.prod(record.shape) * by_code(record.dtype, where=key, offset=offset).itemsize
        if record.address != columns.address[row].tobytes() or size != columns.raw[row]:
            raise CorruptObjectError("another record than the index says", where=key, offset=offset)
        listed = [self._lookup(n.identity).identity.address[n.row].tobytes() for n in needs]
        if [need.address for need in record.needs] != listed:
            raise CorruptObjectError("the record needs others than the index says", where=key, offset=offset)
        bases = {address: held[need] for address, need in zip(listed, needs, strict=True)}
        return decode_one(record, bases, source=key, offset=offset)
