"""Decoded blocks that a walk over many steps keeps from step to step, because it will want them again."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from deltackpt.pipeline.chains import Lookup, needs_of
from deltackpt.store.base import RecordRef

__all__ = ["Shelf", "plan_uses"]

Bytes = NDArray[np.uint8]


def plan_uses(steps: Sequence[Sequence[RecordRef]], lookup: Lookup) -> dict[RecordRef, list[int]]:
    """At which steps of a walk each record is wanted, or something decoded from it, if nothing is decoded twice. Pure.

    Args:
        steps: the blocks that are wanted at each step.
    """
    uses: dict[RecordRef, list[int]] = {}
    seen: set[RecordRef] = set()
    for number, blocks in enumerate(steps):
        todo = list(blocks)
        for block in blocks:
            uses.setdefault(block, []).append(number)
        while todo:
            ref = todo.pop()
            if ref in seen:
                continue
            seen.add(ref)
            for need in needs_of(ref, lookup):
                uses.setdefault(need, []).append(number)
                todo.append(need)
    return uses


class Shelf:
    """Keeps blocks until their last use, up to a number of bytes; those that are wanted soonest stay. Safe to use from
    many threads.

    Args:
        budget: bytes.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._blocks: dict[RecordRef, Bytes] = {}
        self._bytes = 0
        self._uses: Mapping[RecordRef, Sequence[int]] = {}
        self._step = 0
        self._lock = threading.Lock()

    def plan(self, uses: Mapping[RecordRef, Sequence[int]]) -> None:
        """Begin a walk with these uses, from :func:`plan_uses`; blocks that are held and used in it stay."""
        self._uses = uses
        self.begin(0)

    def begin(self, step: int) -> None:
        """Begin a step of the walk: what has no use from now on goes."""
        with self._lock:
            self._step = step
            for ref in [ref for ref in self._blocks if self._next(ref, step - 1) is None]:
                self._drop(ref)

    def held(self) -> dict[RecordRef, Bytes]:
        """The blocks that are here now, which the caller must not change."""
        with self._lock:
            return dict(self._blocks)

    def wants(self, ref: RecordRef) -> bool:
        """Whether a later step uses a record."""
        return self._next(ref, self._step) is not None

    def offer(self, ref: RecordRef, block: Bytes) -> None:
        """Keep a block that nobody will change, if a later step uses it."""
        with self._lock:
            wanted = self._next(ref, self._step)
            if wanted is None or ref in self._blocks or block.nbytes > self._budget:
                return
            while self._bytes + block.nbytes > self._budget:
                last = max(self._blocks, key=lambda held: self._next(held, self._step) or self._step)
                if (self._next(last, self._step) or self._step) <= wanted:
                    return
                self._drop(last)
            self._blocks[ref] = block
            self._bytes += block.nbytes

    def _next(self, ref: RecordRef, after: int) -> int | None:
        """The first step after ``after`` that uses a record."""
        uses = self._uses.get(ref, ())
        position = bisect_right(uses, after)
        return uses[position] if position < len(uses) else None

    def _drop(self, ref: RecordRef) -> None:
        self._bytes -= self._blocks.pop(ref).nbytes
