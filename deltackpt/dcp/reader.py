"""The storage reader of DCP: every rank decodes the blocks that its part of the state needs."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from deltackpt.api import Step, Store
from deltackpt.dcp.entries import dcp_metadata
from deltackpt.errors import InvalidArgumentError
from deltackpt.format.keys import StepKey
from deltackpt.formats.objects import stored_to_torch_bytes
from deltackpt.pipeline.load import load_bytes, load_wanted
from deltackpt.pipeline.plan_load import Wanted
from deltackpt.pipeline.save import default_threads
from deltackpt.store.catalog import DEFAULT_BRANCH
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_code
from deltackpt.tensor.torch_bridge import to_torch_dtype

__all__ = ["DeltaStorageReader"]


class DeltaStorageReader(StorageReader):
    """Loads one step of a store. Give it to ``dcp.load`` as ``storage_reader``.

    Args:
        store: a :class:`deltackpt.Store` or its URL.
        step: ``1000``, ``"latest"``, ``"BRANCH:1000"``.
        branch: the branch, where ``step`` does not name one.
        trust_objects: whether objects that are kept as pickles may be loaded, which lets them run any code.
        threads: how many threads decode; by default one a core.

    Raises:
        StoreNotFoundError, NotAStoreError: there is no store at the URL.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        step: int | str = "latest",
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
        self._threads = default_threads() if threads is None else threads
        self._checkpoint_id: str | os.PathLike[str] | None = None
        self._step: Step | None = None

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any id will do: the reader knows its step."""
        return True

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        self._checkpoint_id = checkpoint_id
        self._step = None

    # The catch-all is not named "kwargs" on purpose: DCP would take that as the wish to be called again, with a rank,
    # after an error, and then leave out the collectives that other ranks wait in.
    def read_metadata(self, *args: Any, **unused: Any) -> Metadata:
        """DCP's metadata, rebuilt from the step's manifest.

        Raises:
            StepNotFoundError: there is no such step.
        """
        self._step = self._store.step(self._spec, self._branch)
        return dcp_metadata(self._step.manifest, StorageMeta(checkpoint_id=self._checkpoint_id))

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if self._step is None:
            raise InvalidArgumentError("set_up_storage_reader() before read_metadata()")

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Note which step this rank resolved."""
        return dataclasses.replace(plan, storage_data=self._opened_step().key)

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Make sure that all ranks read the same generation of the same step.

        Raises:
            InvalidArgumentError: they do not, because a save was committed while they looked for the latest.
        """
        keys: set[StepKey] = {plan.storage_data for plan in plans if plan.storage_data is not None}
        if len(keys) > 1:
            raise InvalidArgumentError(
                f"ranks resolved {self._spec!r} to different steps: {', '.join(str(k) for k in sorted(keys))}",
                hint="load again, or name the step by its number",
            )
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill what the plan wants. Each stored block is decoded once, however many items touch it."""
        future: Future[Any] = Future()  # torch types its errors as results
        try:
            self._read(plan, planner)
            future.set_result(None)
        except Exception as error:
            future.set_exception(error)
        return future

    def _read(self, plan: LoadPlan, planner: LoadPlanner) -> None:
        step = self._opened_step()
        opened, manifest = self._store.opened, step.manifest
        targets = []
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:
                fqn = item.storage_index.fqn
                entry = manifest.entries[manifest.find(fqn)]
                data = load_bytes(opened, manifest, fqn, threads=self._threads).tobytes()
                planner.load_bytes(
                    item,
                    stored_to_torch_bytes(entry.encoding, data, trust_objects=self._trust_objects, fqn=fqn),
                )
            else:
                targets.append((item, planner.resolve_tensor(item).detach()))
        wanted = [_wanted(step, item, target) for item, target in targets]
        load_wanted(opened, manifest, wanted, threads=self._threads)
        for item, target in targets:
            planner.commit_tensor(item, target)

    def _opened_step(self) -> Step:
        if self._step is None:
            raise InvalidArgumentError("the reader was used before read_metadata()")
        return self._step


def _wanted(step: Step, item: ReadItem, target: torch.Tensor) -> Wanted:
    """The box of the stored tensor that an item reads, written into the tensor that the planner gave for it."""
    fqn = item.storage_index.fqn
    chunk = item.storage_index.offset or (0,) * len(item.storage_offsets)
    box = Box(tuple(a + b for a, b in zip(chunk, item.storage_offsets, strict=True)), tuple(item.lengths))
    if tuple(target.shape) != box.sizes:
        raise InvalidArgumentError(
            f"a target of shape {list(target.shape)} for a part of shape {list(box.sizes)}", where=fqn
        )
    entry = step.manifest.entries[step.manifest.find(fqn)]
    dtype = to_torch_dtype(by_code(entry.dtype), where=fqn)

    def write(place: Box, elements: NDArray[np.generic]) -> None:
        source = torch.from_numpy(elements).view(dtype)
        target[place.relative_to(box).slices()].copy_(source)

    return Wanted(fqn, box, write)
