"""Saves in the background, one at a time, and what their end means."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, cast

from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import async_save

from deltackpt.api import Store
from deltackpt.dcp.arguments import budgets
from deltackpt.dcp.peers import Peers
from deltackpt.dcp.writer import DeltaStorageWriter
from deltackpt.errors import DeltackptError, IncompleteSaveError
from deltackpt.format.keys import check_branch
from deltackpt.format.manifest import Metric

__all__ = ["DCP_ERRORS", "BackgroundSaver", "Request", "cause_of", "failure_of"]

# What DCP raises where a rank failed is no Exception.
DCP_ERRORS = (CheckpointException, Exception)


def cause_of(error: BaseException) -> BaseException:
    """What went wrong on the first rank that says so, taken out of DCP's wrapping."""
    if isinstance(error, CheckpointException) and error.failures:
        return error.failures[min(error.failures)][0]
    return error


def failure_of(what: str, error: BaseException) -> DeltackptError:
    """An error of this package for what ended a save or load: of the cause's class, if that is one of ours."""
    cause = cause_of(error)
    if not isinstance(cause, DeltackptError):
        return IncompleteSaveError(f"{what}: {type(cause).__name__}: {cause}")
    failure = copy.copy(cause)
    failure.message = f"{what}: {cause.message}"
    failure.args = (failure.message,)
    return failure


@dataclass(frozen=True, slots=True)
class Request:
    """A step to be saved.

    Attributes:
        step: its number.
        part: what it holds.
        complete: whether that is all of the state.
        metrics, notes: recorded with it.
        overwrite: whether a step of this number may be replaced.
    """

    step: int
    part: dict[str, Any]
    complete: bool
    metrics: Mapping[str, Metric]
    notes: Mapping[str, str]
    overwrite: bool


class BackgroundSaver:
    """Saves steps of a branch through DCP, one at a time.

    Args:
        after_commit: called in the background, on the first rank, once a step is committed, with its number and
            whether it is complete; must not raise.

    Raises:
        InvalidArgumentError: an argument makes no sense.
    """

    def __init__(
        self,
        store: Store,
        branch: str,
        peers: Peers,
        *,
        base_memory: int | str | None,
        threads: int | None,
        after_commit: Callable[[int, bool], None] | None = None,
    ) -> None:
        self._base_memory, self._threads = budgets(store, base_memory, threads)
        self._store = store
        self._branch = check_branch(branch)
        self._peers = peers
        self._after_commit = after_commit if peers.is_first else None
        self._future: Future[Any] | None = None
        self._last: tuple[int, bool] | None = None  # the step of the last save that has not failed: is it complete?

    @property
    def running(self) -> bool:
        """Whether a save is in flight that has not ended."""
        return self._future is not None and not self._future.done()

    @property
    def ended(self) -> bool:
        """Whether a save has ended of which nobody has asked yet how."""
        return self._future is not None and self._future.done()

    def holds(self, step: int) -> bool | None:
        """Whether the last save, if it is of this step and has not failed, is complete; None for another step."""
        return self._last[1] if self._last is not None and self._last[0] == step else None

    def begin(self, request: Request) -> None:
        """Start a save; the state may change again as soon as this returns. None may be in flight.

        Raises:
            DeltackptError: the state could not be staged.
        """
        writer = DeltaStorageWriter(
            self._store,
            request.step,
            branch=self._branch,
            metrics=request.metrics,
            overwrite=request.overwrite,
            notes=request.notes,
            base_memory=self._base_memory,
            threads=self._threads,
        )
        try:
            response = async_save(request.part, storage_writer=writer, process_group=self._peers.group)
        except DCP_ERRORS as error:
            raise self._failure(request.step, error) from error
        saved = cast("Future[Any]", getattr(response, "upload_completion", response))
        then = self._after_commit
        self._future = saved if then is None else _then(saved, lambda: then(request.step, request.complete))
        self._last = (request.step, request.complete)

    def wait(self) -> bool:
        """Wait for the save in flight.

        Returns:
            Whether there was one, and it is complete.

        Raises:
            DeltackptError: it failed, with the class of what it failed of. Nothing of that step is visible.
        """
        if self._future is None or self._last is None:
            return False
        step, complete = self._last
        error = self._future.exception()
        self._future = None
        if error is not None:
            self._last = None
            raise self._failure(step, error) from error
        return complete

    def _failure(self, step: int, error: BaseException) -> DeltackptError:
        return failure_of(f"step {self._branch}:{step} was not saved", error)


def _then(first: Future[Any], after: Callable[[], None]) -> Future[None]:
    """A future for ``first`` and, in its thread and if it succeeds, ``after``."""
    both: Future[None] = Future()

    def go_on(done: Future[Any]) -> None:
        error = done.exception()
        if error is None:
            after()
            both.set_result(None)
        else:
            both.set_exception(error)

    first.add_done_callback(go_on)
    return both
