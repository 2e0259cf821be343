"""Execute a plan of ``plan_decode``: read, decode, check, and give each wanted block to who wants it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import Workspace
from deltackpt.errors import CorruptObjectError, DeltackptError, MissingObjectError, UnknownVersionError
from deltackpt.pipeline.chains import Lookup, chain_of
from deltackpt.pipeline.decode import decode_listed
from deltackpt.pipeline.plan_decode import DecodeTask
from deltackpt.pipeline.ranges import RangeReader, RecordPlace, plan_ranges
from deltackpt.pipeline.shelf import Shelf
from deltackpt.store.base import RecordRef
from deltackpt.store.opened import OpenStore

__all__ = ["DecodeError", "TaskDecoder"]

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
        self._reader = RangeReader(store.backend, plan_ranges(reads, read_budget), reads)
        self._shared: dict[RecordRef, Future[Bytes]] = {t.shared: Future() for t in tasks if t.shared is not None}
        self._left = Counter(ref for task in tasks for ref in self._foreign(task) if ref in self._shared)
        self._lock = Lock()

    def run(self, task: DecodeTask, give: Callable[[int, Bytes], None]) -> None:
        """Decode the records of a task.

        Args:
            give: takes the position of a wanted block, and the block, which it must not change.

        Raises:
            DecodeError: a record is damaged or gone. If it is a shared one, the tasks that need it say so.
        """
        at: RecordRef | None = None
        foreign = self._foreign(task)
        try:
            held = {}
            for at in foreign:
                held[at] = self._foreign_block(at)
            targets: dict[RecordRef, list[int]] = {}
            for number in task.wanted:
                targets.setdefault(self._blocks[number], []).append(number)
            for at in [ref for ref in targets if ref in held]:
                self._give(at, held[at], targets, give)
            uses = Counter(need for needs in task.order.values() for need in needs)
            for at, needs in task.order.items():
                block = self._decode(at, needs, held)
                self._shelf.offer(at, block)
                self._give(at, block, targets, give)
                if at == task.shared:
                    self._shared[at].set_result(block)
                elif uses[at]:
                    held[at] = block
                for need in needs:
                    uses[need] -= 1
                    if uses[need] == 0:
                        del held[need]
        except (CorruptObjectError, MissingObjectError, UnknownVersionError) as error:
            if task.shared is None:
                raise DecodeError(self._user_of(task, at), error) from error
            self._shared[task.shared].set_exception(error)
        except BaseException as error:
            if task.shared is not None:
                self._shared[task.shared].set_exception(error)
            raise
        finally:
            self._release(foreign)

    def _foreign(self, task: DecodeTask) -> list[RecordRef]:
        """What a task needs that it does not decode itself."""
        wanted = [self._blocks[number] for number in task.wanted]
        needs = [need for needs in task.order.values() for need in needs]
        return [ref for ref in dict.fromkeys([*wanted, *needs]) if ref not in task.order]

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

    def _decode(self, ref: RecordRef, needs: Sequence[RecordRef], held: dict[RecordRef, Bytes]) -> Bytes:
        place = RecordPlace.of(ref, self._lookup)
        data = self._reader.read(place)
        return decode_listed(ref, needs, held, data, place, self._lookup, self._workspace)

    def _user_of(self, task: DecodeTask, ref: RecordRef | None) -> int:
        """The first of the wanted blocks that a record is needed for."""
        for number in task.wanted:
            if ref is not None and ref in chain_of(self._blocks[number], self._lookup):
                return number
        return task.wanted[0]
