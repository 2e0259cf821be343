"""In which order the records behind some blocks are decoded: each once, few blocks held at a time. Pure.

Blocks whose chains share records, such as a weight and its moments, are one task: one thread decodes their records,
shallowest first. Tasks stay small, so that there are many: a record that the chains of more blocks share, such as a
tile of a tensor that was sharded otherwise, is a task of its own, and held until the last task that needs it.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deltackpt.pipeline.chains import Lookup, chain_of_all, depth_of, needs_of
from deltackpt.store.base import RecordRef

__all__ = ["DecodeTask", "plan_decoding"]

# A weight, its moments and copies in two precisions make five.
_MOST_TOGETHER = 8

# Each pass over the graph finds records to share below those of the one before. One or none is what states take.
_MOST_PASSES = 16


@dataclass(frozen=True, slots=True, eq=False)
class DecodeTask:
    """Records that one thread decodes, one after another.

    Attributes:
        order: each with its needs, which come before it, or are of an earlier task, or were there before.
        wanted: positions of the blocks, as they were given, that this is for.
        shared: the record that later tasks need of this one.
    """

    order: dict[RecordRef, list[RecordRef]]
    wanted: tuple[int, ...]
    shared: RecordRef | None


def plan_decoding(
    blocks: Sequence[RecordRef], lookup: Lookup, *, budget: int, available: Container[RecordRef] = ()
) -> list[DecodeTask]:
    """The tasks that decode all blocks, in an order in which each needs earlier ones only.

    Args:
        blocks: each once.
        budget: bytes of blocks that tasks may hold for each other. Where that is too little, records are decoded again.
        available: records that are decoded already.
    """
    groups = _Groups(len(blocks))
    met = _meetings(blocks, lookup, available, groups)
    members: dict[int, list[int]] = {}
    for number in range(len(blocks)):
        members.setdefault(groups.find(number), []).append(number)
    numbers = {root: position for position, root in enumerate(members)}
    users = {ref: {numbers[groups.find(number)] for number in found} for ref, found in met.items()}
    clusters = [[blocks[number] for number in found] for found in members.values()]
    kept = _within(users, len(members), lookup, budget)
    for _ in range(_MOST_PASSES):
        # What a shared record needs may be needed by others, too.
        twice = _reached_twice(clusters, users, kept, lookup, available)
        if not twice:
            break
        users = {**users, **twice}
        kept = _within(users, len(members), lookup, budget)
    first: dict[int, list[RecordRef]] = {}
    for ref in _by_depth(kept, lookup):
        first.setdefault(min(users[ref]), []).append(ref)
    tasks = []
    for position, found in enumerate(members.values()):
        for ref in first.get(position, ()):
            order = chain_of_all([ref], lookup, _Known(available, kept - {ref}))
            tasks.append(DecodeTask(order, (), ref))
        order = chain_of_all(clusters[position], lookup, _Known(available, kept))
        tasks.append(DecodeTask(order, tuple(found), None))
    return tasks


def _by_depth(refs: Collection[RecordRef], lookup: Lookup) -> list[RecordRef]:
    return sorted(refs, key=lambda ref: (depth_of(ref, lookup), ref))


def _reached_twice(
    clusters: Sequence[Sequence[RecordRef]],
    users: Mapping[RecordRef, set[int]],
    kept: frozenset[RecordRef],
    lookup: Lookup,
    available: Container[RecordRef],
) -> dict[RecordRef, set[int]]:
    """Records that more than one task would decode, and the numbers of the clusters in question; without those that
    were found before."""
    owner: dict[RecordRef, tuple[int, RecordRef | None]] = {}
    found: dict[RecordRef, set[int]] = {}
    roots: list[tuple[int, RecordRef | None, list[RecordRef]]] = [
        (min(users[ref]), ref, needs_of(ref, lookup)) for ref in _by_depth(kept, lookup)
    ]
    roots += [(position, None, list(cluster)) for position, cluster in enumerate(clusters)]
    for position, shared, todo in roots:
        while todo:
            ref = todo.pop()
            if ref in available or ref in kept:
                continue
            if ref not in owner:
                owner[ref] = position, shared
                todo.extend(needs_of(ref, lookup))
            elif owner[ref] != (position, shared) and ref not in users:
                found.setdefault(ref, {owner[ref][0]}).add(position)
    return found


class _Known:
    """Two containers as one."""

    def __init__(self, *parts: Container[RecordRef]) -> None:
        self._parts = parts

    def __contains__(self, ref: object) -> bool:
        return any(ref in part for part in self._parts)


class _Groups:
    """Numbers in disjoint groups of limited size; the smallest number of a group stands for it."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))
        self._size = [1] * count

    def find(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = number = self._parent[self._parent[number]]
        return number

    def join(self, one: int, other: int) -> bool:
        """Make one group of two, if it gets no larger than allowed."""
        one, other = sorted((self.find(one), self.find(other)))
        if one != other:
            if self._size[one] + self._size[other] > _MOST_TOGETHER:
                return False
            self._parent[other] = one
            self._size[one] += self._size[other]
        return True


def _meetings(
    blocks: Sequence[RecordRef], lookup: Lookup, available: Container[RecordRef], groups: _Groups
) -> dict[RecordRef, set[int]]:
    """Join blocks whose chains share a record. For records where they could not be joined: all blocks that meet there.

    Every record is visited once: what lies below one that was visited is shared like that one.
    """
    owner: dict[RecordRef, int] = {}
    met: dict[RecordRef, set[int]] = {}
    for number, block in enumerate(blocks):
        todo = [block]
        while todo:
            ref = todo.pop()
            if ref in available:
                continue
            if ref not in owner:
                owner[ref] = number
                todo.extend(needs_of(ref, lookup))
            elif not groups.join(owner[ref], number):
                met.setdefault(ref, {owner[ref]}).add(number)
    return met


def _within(users: dict[RecordRef, set[int]], tasks: int, lookup: Lookup, budget: int) -> frozenset[RecordRef]:
    """The shared records that can be held from the first task that needs them to the last one."""
    held = np.zeros(tasks, dtype=np.int64)
    kept = set()
    for ref in sorted(users, key=lambda ref: (max(users[ref]) - min(users[ref]), ref)):
        span = slice(min(users[ref]), max(users[ref]) + 1)
        size = int(lookup(ref.identity).identity.raw[ref.row])
        if int(held[span].max()) + size <= budget:
            held[span] += size
            kept.add(ref)
    return frozenset(kept)
