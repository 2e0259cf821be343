"""The storage writer of DCP: every rank writes its blocks, the coordinator commits the step."""

from __future__ import annotations

import os
import pickle
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from deltackpt._version import __version__
from deltackpt.api import Store
from deltackpt.dcp.entries import OBJECT_DTYPE, Path, chunk_box, classify_entries, planned_entries
from deltackpt.dcp.results import encodings, receipts, write_results
from deltackpt.errors import (
    IncompleteSaveError,
    InvalidArgumentError,
    StepExistsError,
    UnsupportedDataError,
)
from deltackpt.format.keys import MAX_STEP, StepKey, check_branch
from deltackpt.format.manifest import Metric
from deltackpt.formats.objects import object_to_stored
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.save import SaveSettings, default_threads, write_items
from deltackpt.store.base_cache import parse_base_memory, shared_cache
from deltackpt.store.catalog import DEFAULT_BRANCH
from deltackpt.store.commit import StepDraft, commit_step, next_generation
from deltackpt.tensor.box import Box
from deltackpt.tensor.torch_bridge import from_torch_dtype, tensor_bytes

__all__ = ["DeltaStorageWriter"]


class DeltaStorageWriter(StorageWriter):
    """Saves one step into a store. Give it to ``dcp.save`` or ``dcp.async_save`` as ``storage_writer``.

    Args:
        store: a :class:`deltackpt.Store` or its URL; a URL is opened on every rank.
        step: the number of the step; without it, the digits that ``checkpoint_id`` ends with.
        branch: the line of steps to add to.
        metrics: names to numbers, strings, booleans or None, recorded with the step. 0-dimensional tensors and numpy
            scalars are taken as numbers.
        overwrite: whether a step of this number may be replaced (by a new generation; until the commit the old one
            stays).
        base_memory: bytes of memory in which blocks are kept as bases for the next save, or ``"auto"``.
        threads: how many threads encode; by default one a core.

    Raises:
        StoreNotFoundError, NotAStoreError: there is no store at the URL.
        InvalidArgumentError: an argument makes no sense.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        step: int | None = None,
        *,
        branch: str = DEFAULT_BRANCH,
        metrics: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        base_memory: int | str = "auto",
        threads: int | None = None,
    ) -> None:
        super().__init__()
        self._store = store if isinstance(store, Store) else Store.open(store)
        self._asked_step = None if step is None else _check_step(step)
        self._branch = check_branch(branch)
        self._metrics = {name: _metric(name, value) for name, value in (metrics or {}).items()}
        self._overwrite = overwrite
        self._base_memory = base_memory
        parse_base_memory(base_memory)
        self._threads = default_threads() if threads is None else threads
        self._checkpoint_id: str | os.PathLike[str] | None = None
        self._key: StepKey | None = None
        self._rank = 0
        self._writing = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # DCP's process-based async save pickles the writer.
        return {name: value for name, value in self.__dict__.items() if name != "_writing"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._writing = threading.Lock()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any id will do: it only gives the step's number where no step was given."""
        return True

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
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
        if self._writing.locked():
            raise InvalidArgumentError(
                "this writer is in the middle of a save", hint="make a new DeltaStorageWriter for each save"
            )
        if not kwargs.get("use_collectives", True) and dist.is_initialized() and dist.get_world_size() > 1:
            raise InvalidArgumentError(
                "use_collectives=False on several ranks: a step is committed once, for all of them",
                hint="leave use_collectives at True",
            )
        self._rank = int(kwargs.get("rank", 0))
        step = self._asked_step if self._asked_step is not None else _step_from(self._checkpoint_id)
        self._key = StepKey(self._branch, step, 1)
        if is_coordinator:
            generation = next_generation(self._store.opened, self._branch, step)
            if generation > 1 and not self._overwrite:
                raise StepExistsError(
                    f"step {self._branch}:{step} is there already",
                    where=self._store.url,
                    hint="save another step, or pass overwrite=True to replace it",
                )
            self._key = StepKey(self._branch, step, generation)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's part. Errors fail the future; nothing is visible before :meth:`finish`."""
        future: Future[Any] = Future()  # torch types its errors as results
        try:
            with self._writing:
                future.set_result(self._write(plan, planner))
        except Exception as error:
            future.set_exception(_portable(error))
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Prove that all that was planned was written, and commit the step. Only the coordinator gets here.

        Raises:
            IncompleteSaveError: something planned is missing.
            CommitConflictError: another save committed the step meanwhile.
        """
        key = self._key
        if key is None:
            raise InvalidArgumentError("finish() before set_up_storage_writer()")
        opened = self._store.opened
        kinds = encodings(results)
        sizes = {r.index.fqn: r.size_in_bytes for own in results for r in own if r.index.fqn in kinds}
        objects = {fqn: (sizes[fqn], kinds[fqn]) for fqn in kinds}
        draft = StepDraft(
            key=key,
            entries=planned_entries(metadata, objects, opened.options.block_elements),
            metrics=self._metrics,
            writer={
                "deltackpt": __version__,
                "torch": str(torch.__version__),
                "world_size": dist.get_world_size() if dist.is_initialized() else 1,
            },
        )
        commit_step(opened, draft, receipts(results))
        # With plan caching DCP hands the same Metadata to every save: give it a new dict, never change the old one.
        metadata.storage_data = {r.index: r.storage_data for own in results for r in own}
        metadata.storage_meta = self.storage_meta()

    def _write(self, plan: SavePlan, planner: SavePlanner) -> list[WriteResult]:
        key = self._key
        if key is None:
            raise InvalidArgumentError("write_data() before set_up_storage_writer()")
        if not plan.items:
            return []
        paths = plan.planner_data if isinstance(plan.planner_data, Mapping) else {}
        kinds = classify_entries(
            {i.index.fqn: (paths.get(i.index.fqn), i.type != WriteItemType.BYTE_IO) for i in plan.items}
        )
        items, described = [], []
        for write_item in plan.items:
            item, encoding = _save_item(
                write_item,
                planner,
                paths.get(write_item.index.fqn) or (write_item.index.fqn,),
                *kinds[write_item.index.fqn],
            )
            items.append(item)
            described.append((write_item.index, item.box.numel * item.dtype.itemsize, encoding))
        opened = self._store.opened
        receipt = write_items(
            opened,
            items,
            branch=key.branch,
            step=key.step,
            writer=self._rank,
            settings=SaveSettings(self._threads, parse_base_memory(self._base_memory)),
            cache=shared_cache(opened.config.id),
        )
        return write_results(described, receipt)


def _save_item(
    item: WriteItem, planner: SavePlanner, place: Path, artifact: str, role: str
) -> tuple[SaveItem, str | None]:
    """What the pipeline saves for one item of a plan, and the encoding of an object."""
    fqn = item.index.fqn
    if item.type == WriteItemType.BYTE_IO:
        stream = planner.resolve_data(item)
        if isinstance(stream, torch.Tensor):
            raise UnsupportedDataError("planned as an object, but the planner gave a tensor", where=fqn)
        encoding, data = object_to_stored(bytes(stream.getbuffer()))
        content = np.frombuffer(data, dtype=np.uint8)
        box = Box((0,), (len(data),))

        def read_object(part: Box) -> NDArray[np.uint8]:
            return content[part.slices()].copy()

        return SaveItem(fqn, "object", OBJECT_DTYPE, box, artifact, role, place, read_object), encoding
    tensor = planner.resolve_data(item)
    if not isinstance(tensor, torch.Tensor) or item.tensor_data is None:
        raise UnsupportedDataError("planned as a tensor, but the planner gave an object", where=fqn)
    box = chunk_box(item.tensor_data.chunk)
    planned = item.tensor_data.properties.dtype
    if tuple(tensor.shape) != box.sizes or tensor.dtype != planned:
        raise IncompleteSaveError(
            f"planned as {planned} of shape {list(box.sizes)}, but it is {tensor.dtype} of shape {list(tensor.shape)}",
            where=fqn,
            hint="a planner that changes tensors must change its plan, too",
        )
    dtype = from_torch_dtype(tensor.dtype, where=fqn)
    return SaveItem(fqn, "tensor", dtype, box, artifact, role, place, _reader(tensor.detach(), box, fqn)), None


def _reader(tensor: torch.Tensor, shard: Box, fqn: str) -> Callable[[Box], NDArray[np.uint8]]:
    """Gives private copies of boxes of a tensor: DCP's stagers reuse their buffers, so no view may outlive the save."""

    def read(box: Box) -> NDArray[np.uint8]:
        part = tensor[box.relative_to(shard).slices()]
        data = tensor_bytes(part, fqn=fqn)
        shared = part.device.type == "cpu" and part.is_contiguous()
        return data.copy() if shared else data

    return read


def _check_step(step: int) -> int:
    if type(step) is not int or not 0 <= step <= MAX_STEP:
        raise InvalidArgumentError(f"step must be an integer from 0 to {MAX_STEP}, not {step!r}")
    return step


def _step_from(checkpoint_id: str | os.PathLike[str] | None) -> int:
    found = re.search(r"(\d{1,12})/*$", "" if checkpoint_id is None else os.fspath(checkpoint_id))
    if found is None:
        raise InvalidArgumentError(
            "which step is this?", hint="pass step=N to DeltaStorageWriter, or a checkpoint_id that ends in the number"
        )
    return int(found.group(1))


def _metric(name: object, value: Any) -> Metric:
    """A metric as it is recorded."""
    if not isinstance(name, str):
        raise InvalidArgumentError(f"the name of a metric must be a string, not {name!r}")
    if isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.numel() == 1):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        result: Metric = value
        return result
    raise InvalidArgumentError(
        f"metric {name!r} is a {type(value).__name__}", hint="metrics are numbers, strings, booleans or None"
    )


def _portable(error: Exception) -> Exception:
    """The error itself if it survives a pickle, which is how DCP takes it to other ranks; else its words."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - bytes made on this line
    except Exception:
        return IncompleteSaveError(f"{type(error).__name__}: {error}")
    return error
