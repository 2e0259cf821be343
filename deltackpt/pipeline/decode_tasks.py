"""Execute a plan of ``plan_decode``: read, decode, check, and give each wanted block to who wants it.

Blocks that nobody wants, which wanted ones are decoded from, are not hashed. A task in which something turns out to be
wrong is run again with every link checked, which finds the record that is damaged.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import Workspace
from deltackpt.errors import DeltackptError
from deltackpt.pipeline.chains import Lookup, chain_of
from deltackpt.pipeline.decode import Checks, decode_listed
from deltackpt.pipeline.plan_decode import DecodeTask
from deltackpt.pipeline.ranges import RangeReader, RecordPlace, plan_ranges
from deltackpt.pipeline.shelf import Shelf
from deltackpt.store.base import UNUSABLE, RecordRef
from deltackpt.store.opened import OpenStore

__all__ = ["DecodeError", "TaskDecoder"]

_LOG = logging.getLogger("deltackpt")

Bytes = NDArray[np.uint8]


class DecodeError(Exception):
    """A block could not be decoded.

    Attributes:
        number: its position among those wanted.
        error: why.
    """

    def __init__(self, number: int, error: DeltackptError) -> None:
        super().__init__(number, error)
        self.number = number
        self.error = error


class TaskDecoder:
    """Runs tasks, each once, in threads that take them in order.

    Args:
        blocks: as they were given to the plan.
        read_budget: bytes that are read ahead.
        available: blocks that the plan took as decoded.
        shelf: where blocks go that are wanted later.
    """

    def __init__(
        self,
        store: OpenStore,
        lookup: Lookup,
        blocks: Sequence[RecordRef],
        tasks: Sequence[DecodeTask],
        *,
        read_budget: int,
        available: Mapping[RecordRef, Bytes],
        shelf: Shelf,
    ) -> None:
        self._lookup = lookup
        self._blocks = blocks
        self._available = available
        self._shelf = shelf
        self._workspace = Workspace()
        reads = Counter(RecordPlace.of(ref, lookup) for task in tasks for ref in task.order)
        self._reader = RangeReader(
            store.backend, plan_ranges(reads, read_budget), reads, budget=read_budget, workspace=self._workspace
        )
        self._shared: dict[RecordRef, Future[Bytes]] = {t.shared: Future() for t in tasks if t.shared is not None}
        self._left = Counter(ref for task in tasks for ref in self._foreign(task) if ref in self._shared)
        self._lock = Lock()

    def run(self, task: DecodeTask, give: Callable[[int, Bytes], None]) -> None:
        """Decode the records of a task.

        Args:
            give: takes the position of a wanted block, and the block, which it must not change. It may be called with
                the same block again.

        Raises:
            DecodeError: a record is damaged or gone. If it is a shared one, the tasks that need it say so.
        """
        foreign = self._foreign(task)
        try:
            self._run(task, foreign, give)
        except DecodeError as failed:
            if task.shared is None:
                raise
            self._shared[task.shared].set_exception(failed.error)
        except BaseException as error:
            if task.shared is not None:
                self._shared[task.shared].set_exception(error)
            raise
        finally:
            self._release(foreign)

    def _run(self, task: DecodeTask, foreign: Sequence[RecordRef], give: Callable[[int, Bytes], None]) -> None:
        held = self._foreign_blocks(task, foreign)
        try:
            block = self._decode_order(task, dict(held), give, careful=False)
        except DecodeError as failed:
            block = self._decode_order(task, dict(held), give, careful=True)
            _LOG.warning("a block was right when it was read and decoded again; before: %s", failed.error)
        if task.shared is not None and block is not None:
            self._shared[task.shared].set_result(block)

    def _decode_order(
        self, task: DecodeTask, held: dict[RecordRef, Bytes], give: Callable[[int, Bytes], None], *, careful: bool
    ) -> Bytes | None:
        """Decode the records of a task in their order, given those of others; gives the shared block, if it has one."""
        targets: dict[RecordRef, list[int]] = {}
        for number in task.wanted:
            targets.setdefault(self._blocks[number], []).append(number)
        for ref in [ref for ref in targets if ref in held]:
            self._give(ref, held[ref], targets, give)
        uses = Counter(need for needs in task.order.values() for need in needs)
        shared = None
        for at, needs in task.order.items():
            seen = at in targets or at == task.shared or self._shelf.wants(at)
            checks = Checks.ALL if careful else Checks.ADDRESS if seen else Checks.NONE
            try:
                block = self._decode(at, needs, held, checks)
                self._give(at, block, targets, give)
            except UNUSABLE as error:
                raise DecodeError(self._user_of(task, at), error) from error
            if seen:
                self._shelf.offer(at, block)
            if at == task.shared:
                shared = block
            elif uses[at]:
                held[at] = block
            for need in needs:
                uses[need] -= 1
                if uses[need] == 0:
                    del held[need]
        return shared

    def _foreign(self, task: DecodeTask) -> list[RecordRef]:
        """What a task needs that it does not decode itself."""
        wanted = [self._blocks[number] for number in task.wanted]
        needs = [need for needs in task.order.values() for need in needs]
        return [ref for ref in dict.fromkeys([*wanted, *needs]) if ref not in task.order]

    def _foreign_blocks(self, task: DecodeTask, foreign: Sequence[RecordRef]) -> dict[RecordRef, Bytes]:
        held = {}
        for ref in foreign:
            try:
                held[ref] = self._foreign_block(ref)
            except UNUSABLE as error:
                raise DecodeError(self._user_of(task, ref), error) from error
        return held

    def _foreign_block(self, ref: RecordRef) -> Bytes:
        """From an earlier task, which has been begun: tasks are taken in order. Or from before."""
        return self._shared[ref].result() if ref in self._shared else self._available[ref]

    def _release(self, foreign: Sequence[RecordRef]) -> None:
        with self._lock:
            for ref in foreign:
                self._left[ref] -= 1
                if self._left[ref] == 0 and ref in self._shared:
                    # Whoever waits has its own reference.
                    self._shared[ref] = Future()

    def _give(
        self, ref: RecordRef, block: Bytes, targets: dict[RecordRef, list[int]], give: Callable[[int, Bytes], None]
    ) -> None:
        for number in targets.get(ref, ()):
            give(number, block)

    def _decode(
        self, ref: RecordRef, needs: Sequence[RecordRef], held: dict[RecordRef, Bytes], checks: Checks
    ) -> Bytes:
        place = RecordPlace.of(ref, self._lookup)
        data = self._reader.read(place)
        return decode_listed(ref, needs, held, data, place, self._lookup, self._workspace, checks)

    def _user_of(self, task: DecodeTask, ref: RecordRef) -> int:
        """The first of the wanted blocks that a record is needed for; of a task without any, nothing that counts."""
        for number in task.wanted:
            if ref in chain_of(self._blocks[number], self._lookup):
                return number
        return task.wanted[0] if task.wanted else 0
