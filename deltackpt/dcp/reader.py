"""The storage reader of DCP: every rank decodes the blocks that its part of the state needs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from deltackpt.api import Step, Store
from deltackpt.dcp.arguments import CheckpointId, check_threads, step_of_id
from deltackpt.dcp.entries import dcp_metadata
from deltackpt.dcp.items import tensor_target
from deltackpt.dcp.portable import portable
from deltackpt.errors import InvalidArgumentError
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import Entry, Manifest
from deltackpt.formats.objects import stored_to_torch_bytes
from deltackpt.formats.state import object_target
from deltackpt.pipeline.load import load_wanted
from deltackpt.pipeline.save import default_threads
from deltackpt.store.catalog import DEFAULT_BRANCH

__all__ = ["DeltaStorageReader"]

_LOG = logging.getLogger("deltackpt")


class DeltaStorageReader(StorageReader):
    """Loads one step of a store. Give it to ``dcp.load`` as ``storage_reader``.

    Args:
        store: a :class:`deltackpt.Store` or its URL.
        step: ``1000``, ``"latest"``, ``"BRANCH:1000"``; without it, the digits that ``checkpoint_id`` ends with, and
            ``"latest"`` where there is no ``checkpoint_id``.
        branch: the branch, where ``step`` does not name one.
        trust_objects: whether objects that are kept as pickles may be loaded, which lets them run any code.
        threads: how many threads decode; by default one a core.

    Raises:
        StoreNotFoundError, NotAStoreError: there is no store at the URL.
    """

    def __init__(
        self,
        store: Store | CheckpointId,
        step: int | str | None = None,
        *,
        branch: str = DEFAULT_BRANCH,
        trust_objects: bool = False,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        self._store = store if isinstance(store, Store) else Store.open(store)
        self._spec = step
        self._branch = branch
        self._trust_objects = trust_objects
        self._threads = default_threads() if threads is None else check_threads(threads)
        self._checkpoint_id: CheckpointId | None = None
        self._step: Step | None = None

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: CheckpointId) -> bool:
        """Any id will do: it only gives the step's number where no step was given."""
        return True

    def reset(self, checkpoint_id: CheckpointId | None = None) -> None:
        self._checkpoint_id = checkpoint_id
        self._step = None

    # The catch-all is not named "kwargs" on purpose: DCP would take that as the wish to be called again, with a rank,
    # after an error, and then leave out the collectives that other ranks wait in.
    def read_metadata(self, *args: Any, **unused: Any) -> Metadata:
        """DCP's metadata, rebuilt from the step's manifest.

        Raises:
            StepNotFoundError: there is no such step.
        """
        spec: int | str = "latest" if self._spec is None else self._spec
        if self._spec is None and self._checkpoint_id is not None:
            spec = step_of_id(self._checkpoint_id, type(self).__name__)
        self._step = self._store.step(spec, self._branch)
        return dcp_metadata(self._step.manifest, StorageMeta(checkpoint_id=self._checkpoint_id))

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self._opened_step()

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Tell all ranks which generation of which step this one, the coordinator, found."""
        key = self._opened_step().key
        return [dataclasses.replace(plan, storage_data=key) for plan in plans]

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill what the plan wants. Each stored block is decoded once, however many items touch it."""
        future: Future[Any] = Future()  # torch types its errors as results
        try:
            self._read(plan, planner)
            future.set_result(None)
        except Exception as error:
            future.set_exception(portable(error))
        return future

    def _read(self, plan: LoadPlan, planner: LoadPlanner) -> None:
        manifest = self._agreed_manifest(plan)
        opened = self._store.opened
        items = [(item, manifest.entries[manifest.find(item.storage_index.fqn)]) for item in plan.items]
        _warn_of_moments(manifest, [entry for _, entry in items])
        # Objects come first: no tensor is touched where one of them is not to be trusted.
        objects = {item: (entry, *object_target(entry)) for item, entry in items if item.type == LoadItemType.BYTE_IO}
        load_wanted(opened, manifest, [want for _, _, want in objects.values()], threads=self._threads)
        for item, (entry, data, _) in objects.items():
            stream = stored_to_torch_bytes(
                entry.encoding, data.tobytes(), trust_objects=self._trust_objects, fqn=entry.fqn
            )
            planner.load_bytes(item, stream)
        tensors = [(item, entry, planner.resolve_tensor(item).detach()) for item, entry in items if item not in objects]
        wanted = [tensor_target(entry, item, target) for item, entry, target in tensors]
        load_wanted(opened, manifest, wanted, threads=self._threads)
        for item, _, target in tensors:
            planner.commit_tensor(item, target)

    def _agreed_manifest(self, plan: LoadPlan) -> Manifest:
        """The manifest that the coordinator chose. A rank that looked for the latest step may have found another one.

        Plans are made of boxes of whole tensors, so one that was made for another step serves as well, as long as
        these tensors have the same shapes there.

        Raises:
            InvalidArgumentError: they have not.
        """
        own = self._opened_step()
        key = plan.storage_data
        if not isinstance(key, StepKey) or key == own.key:
            return own.manifest
        agreed = self._store.opened.manifest(key)
        _check_same_shapes(own.manifest, agreed, {item.storage_index.fqn for item in plan.items})
        return agreed

    def _opened_step(self) -> Step:
        if self._step is None:
            raise InvalidArgumentError("the reader was used before read_metadata()")
        return self._step


def _warn_of_moments(manifest: Manifest, wanted: Sequence[Entry]) -> None:
    """An optimizer that has not made a step has no state to load into, and DCP loads what there is without a word."""
    asked = {entry.kind for entry in wanted if entry.artifact == "optim"}
    if asked == {"object"} and any(e.kind == "tensor" and e.artifact == "optim" for e in manifest.entries):
        key = manifest.header.key
        _LOG.warning(
            "step %s:%d has optimizer tensors, but the state to load into has none: an optimizer makes them at its "
            "first step. Load them with Step.restore() and load_state_dict(), or into a state from get_state_dict().",
            key.branch,
            key.step,
        )


def _check_same_shapes(planned: Manifest, agreed: Manifest, names: Iterable[str]) -> None:
    for fqn in sorted(names):
        before, now = planned.entries[planned.find(fqn)], agreed.entries[agreed.find(fqn)]
        if before.kind != now.kind or (now.kind == "tensor" and before.shape != now.shape):
            raise InvalidArgumentError(
                f"while ranks looked for the step to load, {agreed.header.key.branch}:{agreed.header.key.step} was "
                "committed, and there it has another shape",
                where=fqn,
                hint="load again, or name the step by its number",
            )
