"""Saving from a training loop: decide, save in the background, survive, go on."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeAlias

from deltackpt.api import Store
from deltackpt.dcp.arguments import CheckpointId, as_metric, check_step
from deltackpt.dcp.background import BackgroundSaver, Request
from deltackpt.dcp.contents import EVERYTHING, Contents
from deltackpt.dcp.peers import Peers
from deltackpt.dcp.preemption import Preemption
from deltackpt.dcp.resume import Resumed, load_newest
from deltackpt.errors import DeltackptError, InvalidArgumentError
from deltackpt.format.keys import MAX_STEP, StepKey
from deltackpt.schedule import Moment, Schedule
from deltackpt.store.catalog import DEFAULT_BRANCH, visible_steps
from deltackpt.store.retention import Retention
from deltackpt.store.visible import steps_before

__all__ = ["Checkpointer"]

_LOG = logging.getLogger("deltackpt")

State: TypeAlias = "Mapping[str, Any] | Callable[[], Mapping[str, Any]]"

_ALL = frozenset({EVERYTHING})

# Where the state of the schedule stands among what the header of a step says of its writer.
_SCHEDULE = "schedule"


class Checkpointer:
    """Saves the steps of a training run when they are due, without holding it up, and takes it up again.

    One save runs at a time, in the background; if it fails, the next call says so. SIGTERM (a preemption) makes the
    next :meth:`step` save everything, wait until that is committed, and then do what SIGTERM did before: by default,
    end the process.

    In a process group every rank makes one, at the same place, and calls the same methods with the same steps. The
    first rank decides for all, with its clock and its metrics.

    What is not given as an argument is taken from the store's ``deltackpt.yaml``.

    Args:
        store: a :class:`deltackpt.Store` or its URL.
        schedule: when to save all of the state (``deltackpt.schedule``), or
        contents: top-level keys of the state to when each is saved, as in ``{"model": every(100), "optim":
            every(1000)}``; keys not named go with every step. The first save of a process that did not resume holds
            everything, so that there always is a step to resume from.
        retention: which steps of the branch to keep. The others are deleted, by the first rank and in the background,
            whenever a step that holds everything was saved, so that one to resume from always stays.
        gc: whether the bytes of deleted steps come free, too, with ``store.gc(wait=False, compact=False)`` after each
            time: what one of these runs finds, a later one deletes.
        branch: the line of steps to add to.
        preemption: whether SIGTERM is taken note of; in the main thread only.
        base_memory, threads: as for :class:`DeltaStorageWriter`.
        trust_objects: whether :meth:`resume` may load objects that are pickles, which lets them run any code.
        clock: seconds, for schedules that go by time.

    Raises:
        InvalidArgumentError: an argument makes no sense.
        StoreNotFoundError, NotAStoreError: there is no store at the URL.
    """

    def __init__(
        self,
        store: Store | CheckpointId,
        schedule: Schedule | None = None,
        *,
        contents: Mapping[str, Schedule] | None = None,
        retention: Retention | None = None,
        gc: bool = True,
        branch: str = DEFAULT_BRANCH,
        preemption: bool = True,
        base_memory: int | str | None = None,
        threads: int | None = None,
        trust_objects: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store if isinstance(store, Store) else Store.open(store)
        config = self._store.opened.writer_config
        if schedule is None and contents is None:
            schedule, contents = config.schedule, config.contents
        self._contents = Contents(schedule, contents)
        self._retention = Retention(**config.retention) if retention is None and config.retention else retention
        self._gc = gc
        self._branch = branch
        self._trust_objects = trust_objects
        self._clock = clock
        self._peers = Peers()
        self._saver = BackgroundSaver(
            self._store,
            branch,
            self._peers,
            base_memory=base_memory,
            threads=threads,
            after_commit=None if self._retention is None else self._prune,
        )
        # Whether ranks have something to tell each other at every step.
        self._together = not self._peers.alone and (preemption or not self._contents.by_step_alone)
        self._last: int | None = None
        self._has_complete = False
        self._fresh = False  # whether a save was begun at the last step
        self._replace_after: int | None = None
        self._preempted = self._closed = False
        self._preemption = Preemption(listen=preemption)
        # Python refuses new work to thread pools at its end, before it calls what atexit knows.
        getattr(threading, "_register_atexit", atexit.register)(self._end)

    @property
    def store(self) -> Store:
        return self._store

    @property
    def preempted(self) -> bool:
        """Whether SIGTERM came and the step to resume from is saved: the loop should end."""
        return self._preempted

    def step(self, step: int, state: State, metrics: Mapping[str, Any] | None = None) -> bool:
        """Say that a step of training has ended; saves it if it is due. Call it after every step, with rising numbers.

        Args:
            step: its number.
            state: top-level keys (``"model"``, ``"optim"``, ``"train"``) to state dicts, or to objects that have
                ``state_dict`` and ``load_state_dict``; or a function that gives this, called only if there is
                something to save. It may change again as soon as this returns.
            metrics: recorded with the step, and what schedules look at.

        Returns:
            Whether a save was begun.

        Raises:
            DeltackptError: the save before this one failed, with the class of what it failed of. Nothing of that step
                is visible, and this one was not looked at: calling again with a later step goes on.
            InvalidArgumentError: the number does not rise, or the state lacks a part that has a schedule.
        """
        moment = self._moment(step, metrics)
        due, preempted, ended = self._agree(self._contents.due(moment))
        leaves = preempted and not self._preempted
        if ended or leaves:
            self.wait()
        saved = _ALL if leaves else self._contents.keys(due)
        self._last = moment.step
        if saved:
            self._begin(moment, state, saved)
        else:
            self._contents.advance(moment, saved)
        if leaves:
            self.wait()
            self._preempted = True
            _LOG.warning("preempted: step %s:%d is saved, with everything", self._branch, moment.step)
            self._preemption.pass_on()
        return bool(saved)

    def save(self, step: int, state: State, metrics: Mapping[str, Any] | None = None, *, wait: bool = False) -> None:
        """Save everything at this step, due or not: at the end of training, say. Nothing is done where that was saved.

        Args:
            wait: whether to return only when it is committed.

        Raises:
            DeltackptError: the save before this one failed, or, with ``wait``, this one.
        """
        moment = self._moment(step, metrics, again=True)
        self._last = moment.step
        if not self._saver.holds(moment.step):
            self._begin(moment, state, _ALL)
        if wait:
            self.wait()

    def resume(self, state: dict[str, Any], step: int | str | None = None) -> Resumed | None:
        """Load the newest step that has everything that the state asks for, in place, and go on from there.

        Steps that lack a part of the state (an optimizer that is saved less often) or that are damaged are passed over;
        the answer and the log say which. As training goes on from the step loaded, those after it are replaced one by
        one as they are saved anew. A branch that has no such step goes on from where it starts, with a schedule that
        begins anew.

        Args:
            state: as for :meth:`step`. Pass an optimizer itself, not its state dict, which is empty before its first
                step. Values that are no such objects are replaced in ``state``.
            step: a certain step instead, as :meth:`deltackpt.Store.step` takes it. Later ones are not replaced: go on
                in another branch.

        Returns:
            What was loaded; None where the branch has no steps.

        Raises:
            IncompleteStepError: it has steps, but none of them has everything.
            StepNotFoundError: there is no such step.
            CorruptObjectError, MissingObjectError: there is no undamaged one.
        """
        self._check_open()
        self.wait()
        candidates = self._peers.share(lambda: self._candidates(step))
        if not candidates:
            return None
        resumed = load_newest(self._store, candidates, state, self._peers, trust_objects=self._trust_objects)
        own = resumed.branch == self._branch
        if own and _SCHEDULE in resumed.writer:
            self._contents.load(resumed.writer[_SCHEDULE])
        self._has_complete = True
        # A branch may number its steps anew.
        self._last = resumed.step if own else None
        self._replace_after = None if step is not None else resumed.step if own else -1
        _LOG.info("resumed from step %s:%d", resumed.branch, resumed.step)
        return resumed

    def _candidates(self, step: int | str | None) -> list[StepKey]:
        """The steps to resume from, newest first."""
        if step is not None:
            return [self._store.step(step, self._branch).key]
        return [found.key for found in steps_before(self._store.opened, self._branch, MAX_STEP + 1)]

    def wait(self) -> None:
        """Wait for the save in flight.

        Raises:
            DeltackptError: it failed, with the class of what it failed of. Nothing of that step is visible.
        """
        self._has_complete = self._saver.wait() or self._has_complete

    def close(self) -> None:
        """Wait for the save in flight and let go of signals and process groups. Further steps are refused.

        Raises:
            DeltackptError: that save failed.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self.wait()
        finally:
            self._peers.close()
            if self._preemption.requested:
                self._preemption.pass_on()
            else:
                self._preemption.close()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._end()  # the error that ended the block is the one to be raised

    def _end(self) -> None:
        """Close where nobody could catch an error; it is logged."""
        try:
            self.close()
        except DeltackptError as failure:
            _LOG.error("%s", failure)

    def _prune(self, step: int, complete: bool) -> None:
        """Thin out the branch once a step is saved. What goes wrong does not undo that, and is tried again."""
        if not complete or self._retention is None:
            return
        try:
            # Beyond the step that was resumed from there may be others, which are not of this line any more.
            if visible_steps(self._store.opened, self._branch)[-1].key.step != step:
                return
            report = self._store.prune(self._retention, branch=self._branch)
        except Exception as error:
            _LOG.warning("step %s:%d is saved, but older ones were not pruned: %s", self._branch, step, error)
            return
        _LOG.info("pruned %d steps of branch %s", len(report.pruned), self._branch)
        if self._gc:
            self._collect()

    def _collect(self) -> None:
        """Delete what earlier runs found that no step needs, and note what there is now. Nothing waits for it."""
        try:
            report = self._store.gc(wait=False, compact=False)
        except Exception as error:
            _LOG.warning("the bytes of pruned steps are not free yet: %s", error)
        else:
            _LOG.info("gc deleted %d objects, %d bytes", report.deleted_objects, report.deleted_bytes)

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidArgumentError("this Checkpointer is closed", hint="make a new one")

    def _moment(self, step: int, metrics: Mapping[str, Any] | None, *, again: bool = False) -> Moment:
        """This moment; its metrics are as they will be recorded. ``again``: the last step may come twice."""
        self._check_open()
        number = check_step(step)
        if self._last is not None and number < self._last + (not again):
            raise InvalidArgumentError(
                f"step {number} comes after step {self._last}",
                hint="steps rise; resume() goes back, and a Checkpointer for another branch begins anew",
            )
        return Moment(number, self._clock(), {name: as_metric(name, value) for name, value in (metrics or {}).items()})

    def _agree(self, due: list[int]) -> tuple[list[int], bool, bool]:
        """What is due, whether SIGTERM came, and whether a save has ended: the same on all ranks."""
        if not self._together:
            # Ranks that do not talk find out about a failure together at the next save.
            return due, self._preemption.requested, self._peers.alone and self._saver.ended
        told = [int(self._preemption.requested), int(self._saver.ended), int(not self._saver.ended)]
        fresh, self._fresh = self._fresh, False
        if self._contents.by_step_alone:
            # What was told at the step before will do, but for the end of a save if another one has begun since.
            preempted, some, not_all = self._peers.exchange(told)
            return due, bool(preempted), bool(some) and not not_all and not fresh
        said = due if self._peers.is_first else [0] * len(due)
        preempted, some, not_all, *due = self._peers.agree([*told, *said])
        return due, bool(preempted), bool(some) and not not_all

    def _begin(self, moment: Moment, state: State, saved: frozenset[str]) -> None:
        """Start a save, after the one in flight has ended."""
        self.wait()
        saved = saved if self._has_complete else _ALL
        if hasattr(state, "state_dict"):
            raise InvalidArgumentError(
                f"the state is a {type(state).__name__}, not a dict of its parts",
                hint="name the parts: {'model': model, 'optim': optimizer}",
            )
        whole = state() if callable(state) else state
        part = self._contents.part(whole, saved)
        self._contents.advance(moment, saved)
        self._fresh = True
        retraced = self._replace_after is not None and moment.step > self._replace_after
        self._saver.begin(
            Request(
                step=moment.step,
                part=part,
                complete=part.keys() == whole.keys(),
                metrics=moment.metrics,
                notes={_SCHEDULE: self._contents.dump()},
                overwrite=retraced or self._saver.holds(moment.step) is not None,
            )
        )
