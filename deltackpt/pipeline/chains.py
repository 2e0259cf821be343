"""The records that a block is decoded from, in an order in which they can be decoded. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Iterable

from deltackpt.errors import CorruptObjectError
from deltackpt.format.index import Index
from deltackpt.store.base import RecordRef

__all__ = ["Lookup", "chain_of", "chain_of_all", "depth_of", "needs_of"]

Lookup = Callable[[bytes], Index]


def needs_of(ref: RecordRef, lookup: Lookup) -> list[RecordRef]:
    """The records that a record is decoded from, in the order of its needs."""
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


def depth_of(ref: RecordRef, lookup: Lookup) -> int:
    """How many records are decoded to get this one."""
    return int(lookup(ref.identity).identity.depth[ref.row])


def chain_of(ref: RecordRef, lookup: Lookup, known: Container[RecordRef] = ()) -> dict[RecordRef, list[RecordRef]]:
    """As :func:`chain_of_all`, for one record."""
    return chain_of_all([ref], lookup, known)


def chain_of_all(
    refs: Iterable[RecordRef], lookup: Lookup, known: Container[RecordRef] = ()
) -> dict[RecordRef, list[RecordRef]]:
    """All records that decoding ``refs`` takes, each after those it needs, with its needs; without those known.

    The shallowest come first, so that a record is decoded shortly before it is needed: where weights are predicted from
    moments, the moments of all steps before would otherwise be held at once (94 blocks instead of 9 at 48 steps).

    Without recursion: a chain may be thousands of records long. It ends because needs point backwards only: to earlier
    rows, or by hash to indexes that existed before.
    """
    needs: dict[RecordRef, list[RecordRef]] = {}
    users: dict[RecordRef, list[RecordRef]] = {}
    todo = [ref for ref in refs if ref not in known]
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
    ready = [(depth_of(found, lookup), found) for found, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    order: dict[RecordRef, list[RecordRef]] = {}
    while ready:
        _, found = heapq.heappop(ready)
        order[found] = needs[found]
        for user in users.get(found, ()):
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, (depth_of(user, lookup), user))
    return order
