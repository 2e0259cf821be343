"""The storage writer of DCP: every rank writes its blocks, the coordinator commits the step."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from deltackpt._version import __version__
from deltackpt.api import Store
from deltackpt.dcp.arguments import CheckpointId, as_metric, budgets, check_step, step_of_id
from deltackpt.dcp.entries import places, planned_entries
from deltackpt.dcp.items import PlanResolver
from deltackpt.dcp.plans import labels_of, with_held, without_caching
from deltackpt.dcp.portable import portable, portable_errors
from deltackpt.dcp.replicas import share_out
from deltackpt.dcp.results import encodings, receipts, write_results
from deltackpt.errors import InvalidArgumentError, StepExistsError
from deltackpt.format.keys import StepKey, check_branch
from deltackpt.pipeline.save import SaveSettings, write_items
from deltackpt.store.base_cache import parse_base_memory, shared_cache
from deltackpt.store.catalog import DEFAULT_BRANCH
from deltackpt.store.commit import StepDraft, commit_step, next_generation
from deltackpt.store.pending import Announcement

__all__ = ["DeltaStorageWriter"]


@dataclass(frozen=True, slots=True)
class _Save:
    """One save, from its set-up to the last call that DCP makes for it on this rank.

    Attributes:
        key: the step, and in the coordinator the generation, to be committed.
        rank: this rank's number in the group that saves.
        meta: what DCP's metadata says of the storage.
        announcement: the coordinator's, made before any rank writes.
        thread: the one that DCP runs the save in.
        running: whether another call is to come.
    """

    key: StepKey
    rank: int
    meta: StorageMeta
    announcement: Announcement | None
    thread: threading.Thread
    running: bool = True

    @property
    def is_coordinator(self) -> bool:
        """Whether this rank commits."""
        return self.announcement is not None


class DeltaStorageWriter(StorageWriter):
    """Saves one step into a store. Give it to ``dcp.save`` or ``dcp.async_save`` as ``storage_writer``.

    It may be used for another step once a save is done.

    Args:
        store: a :class:`deltackpt.Store` or its URL; a URL is opened on every rank.
        step: the number of the step; without it, the digits that ``checkpoint_id`` ends with.
        branch: the line of steps to add to.
        metrics: names to numbers, strings, booleans or None, recorded with every step that this writer saves. Tensors
            and numpy values with one element are taken as numbers.
        overwrite: whether a step of this number may be replaced (by a new generation; until the commit the old one
            stays).
        base_memory: bytes of memory in which blocks are kept as bases for the next save, or ``"auto"``, which is also
            the default where the store's ``deltackpt.yaml`` does not say it.
        threads: how many threads encode; by default what ``deltackpt.yaml`` says, else one a core.
        notes: recorded with the step beside the versions of what wrote it: names to strings and numbers.

    Raises:
        StoreNotFoundError, NotAStoreError: there is no store at the URL.
        InvalidArgumentError: an argument makes no sense.
    """

    def __init__(
        self,
        store: Store | CheckpointId,
        step: int | None = None,
        *,
        branch: str = DEFAULT_BRANCH,
        metrics: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        base_memory: int | str | None = None,
        threads: int | None = None,
        notes: Mapping[str, str | int | float] | None = None,
    ) -> None:
        super().__init__()
        self._store = store if isinstance(store, Store) else Store.open(store)
        self._asked_step = None if step is None else check_step(step)
        self._branch = check_branch(branch)
        self._metrics = {name: as_metric(name, value) for name, value in (metrics or {}).items()}
        self._overwrite = overwrite
        self._base_memory, self._threads = budgets(self._store, base_memory, threads)
        self._notes = dict(notes or {})
        self._checkpoint_id: CheckpointId | None = None
        self._save: _Save | None = None

    def __getstate__(self) -> dict[str, Any]:
        # DCP's process-based async save pickles the writer.
        return {**self.__dict__, "_save": None}

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: CheckpointId) -> bool:
        """Any id will do: it only gives the step's number where no step was given."""
        return True

    def reset(self, checkpoint_id: CheckpointId | None = None) -> None:
        """DCP calls this where the user gave a ``checkpoint_id``."""
        self._checkpoint_id = checkpoint_id

    def storage_meta(self) -> StorageMeta:
        return StorageMeta(checkpoint_id=self._checkpoint_id)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Fix the step and, in the coordinator, the generation that will be committed.

        Raises:
            StepExistsError: the step is there and ``overwrite`` was not given.
            InvalidArgumentError: no step number, a save of this writer in flight, or a save without collectives on
                many ranks.
        """
        running = self._save
        if (
            running is not None
            and running.running
            and running.thread is not threading.current_thread()
            and running.thread.is_alive()
        ):
            raise InvalidArgumentError(
                f"this writer is in the middle of saving step {running.key.branch}:{running.key.step}",
                hint="make a new DeltaStorageWriter for each save",
            )
        if not kwargs.get("use_collectives", True) and dist.is_initialized() and dist.get_world_size() > 1:
            raise InvalidArgumentError(
                "use_collectives=False on several ranks: a step is committed once, for all of them",
                hint="leave use_collectives at True",
            )
        with portable_errors():
            step = self._asked_step
            if step is None:
                step = step_of_id(self._checkpoint_id, type(self).__name__)
            self._save = _Save(
                key=self._free_place(step) if is_coordinator else StepKey(self._branch, step, 1),
                rank=int(kwargs.get("rank", 0)),
                meta=self.storage_meta(),
                announcement=self._announce(step) if is_coordinator else None,
                thread=threading.current_thread(),
            )

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Tell the coordinator what this rank holds: of what several do, it chooses who writes it.

        Raises:
            UnsupportedDataError: the planner describes the state in a way that a manifest cannot record.
        """
        places(plan.planner_data)
        return with_held(plan)

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Have each weight written by the rank that writes its moments, and tell all ranks what their items are.

        Nothing that differs from step to step goes into plans: DCP may keep them.
        """
        with portable_errors():
            whole = without_caching(plans)
            return plans if whole is None else share_out(whole)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's part. Errors fail the future; nothing is visible before :meth:`finish`."""
        future: Future[Any] = Future()  # torch types its errors as results
        save = self._running()
        try:
            future.set_result(self._write(save, plan, planner))
        except Exception as error:
            self._save = replace(save, running=False)
            if save.announcement is not None:
                save.announcement.withdraw()
            future.set_exception(portable(error))
        else:
            self._save = replace(save, running=save.is_coordinator)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Prove that all that was planned was written, and commit the step. Only the coordinator gets here.

        Raises:
            IncompleteSaveError: something planned is missing.
            CommitConflictError: another save committed the step meanwhile.
        """
        save = self._running()
        self._save = replace(save, running=False)
        opened = self._store.opened
        with portable_errors():
            kinds = encodings(results)
            sizes = {r.index.fqn: r.size_in_bytes for own in results for r in own if r.index.fqn in kinds}
            objects = {fqn: (sizes[fqn], kinds[fqn]) for fqn in kinds}
            draft = StepDraft(
                key=save.key,
                entries=planned_entries(metadata, objects, opened.options.block_elements),
                metrics=self._metrics,
                writer={
                    **self._notes,
                    "deltackpt": __version__,
                    "torch": str(torch.__version__),
                    "world_size": len(results),
                },
                pending=None if save.announcement is None else save.announcement.ticket,
            )
            commit_step(opened, draft, receipts(results))
        # With plan caching DCP hands the same Metadata to every save: give it a new dict, never change the old one.
        metadata.storage_data = {r.index: r.storage_data for own in results for r in own}
        metadata.storage_meta = save.meta

    def _running(self) -> _Save:
        """The save that DCP is in the middle of.

        Raises:
            InvalidArgumentError: there is none, or another thread has begun another one with this writer.
        """
        save = self._save
        if save is None or not save.running:
            raise InvalidArgumentError("the writer was not set up for a save")
        return save

    def _free_place(self, step: int) -> StepKey:
        """The step with the generation that this save will commit."""
        generation = next_generation(self._store.opened, self._branch, step)
        if generation > 1 and not self._overwrite:
            raise StepExistsError(
                f"step {self._branch}:{step} is there already",
                where=self._store.url,
                hint="save another step, or pass overwrite=True to replace it",
            )
        return StepKey(self._branch, step, generation)

    def _announce(self, step: int) -> Announcement:
        announcement = Announcement(self._store.opened, self._branch, step)
        announcement.claim()
        return announcement

    def _write(self, save: _Save, plan: SavePlan, planner: SavePlanner) -> list[WriteResult]:
        if not plan.items:
            return []
        paths = places(plan.planner_data)
        kinds = labels_of(plan)
        cache = shared_cache(self._store.opened.config.id)
        resolver = PlanResolver(planner, cache.space)
        items, described = [], []
        for write_item in plan.items:
            fqn = write_item.index.fqn
            item, encoding = resolver.item(write_item, paths.get(fqn) or (fqn,), *kinds[fqn])
            items.append(item)
            described.append((write_item.index, item.box.numel * item.dtype.itemsize, encoding))
        opened = self._store.opened
        try:
            receipt = write_items(
                opened,
                items,
                branch=save.key.branch,
                step=save.key.step,
                writer=save.rank,
                settings=SaveSettings(self._threads, parse_base_memory(self._base_memory)),
                cache=cache,
            )
        finally:
            # Until the next save the training has more use for it.
            cache.space.clear()
        return write_results(described, receipt)
