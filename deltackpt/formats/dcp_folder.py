"""A step as a folder of ``torch.distributed.checkpoint``, written by its own ``FileSystemWriter``."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.planner import SavePlan, WriteItem
from torch.distributed.checkpoint.state_dict_saver import save

from deltackpt.format.manifest import Entry
from deltackpt.formats.image import FileImage, cut_pieces
from deltackpt.formats.image_file import ImageFile
from deltackpt.formats.image_write import write_images
from deltackpt.formats.imported import imported_state, imported_torch
from deltackpt.formats.source import StepSource, stored_tensor
from deltackpt.formats.state import load_entries
from deltackpt.formats.torch_image import StoredTensors

__all__ = ["write_dcp_folder", "write_imported_dcp"]


class _Planner(DefaultSavePlanner):
    """Plans with tensors that stand for stored ones, and decodes each when it is written."""

    def __init__(self, source: StepSource, stored: StoredTensors, paths: Mapping[str, tuple[str | int, ...]]) -> None:
        super().__init__(flatten_state_dict=False)
        self._source = source
        self._stored = stored
        self._paths = dict(paths)

    def create_local_plan(self) -> SavePlan:
        """DCP's own plan, with the places in the nested state, so that a nested state can be loaded into."""
        plan = super().create_local_plan()
        self.plan = SavePlan(plan.items, plan.storage_data, self._paths or None)
        return self.plan

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Any]:
        plans, metadata = super().create_global_plan(all_plans)
        metadata.planner_data = self._paths or None
        return plans, metadata

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        data = super().resolve_data(write_item)
        if not isinstance(data, torch.Tensor):
            return data
        return _decoded(self._source, self._stored, data)


def _decoded(source: StepSource, stored: StoredTensors, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with the elements of the stored one that this stands for; itself where it has its own."""
    storage = tensor.untyped_storage()
    pieces = stored.find(storage)
    if pieces is None:
        return tensor
    itemsize = tensor.element_size()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    length = (1 + last) * itemsize if tensor.numel() else 0
    image = FileImage("", cut_pieces(pieces, int(tensor.storage_offset()) * itemsize, length))
    data = np.empty(length, dtype=np.uint8)
    ImageFile(source, image).readinto(data)
    flat = torch.from_numpy(data).view(tensor.dtype)
    return flat.as_strided(tensor.shape, tensor.stride()).contiguous()


def write_dcp_folder(source: StepSource, entries: Sequence[Entry], folder: Path) -> list[Path]:
    """Write entries of a step under their names, as ``dcp.load`` reads them. One tensor is in memory at a time.

    Raises:
        UntrustedObjectError: an object is a pickle, and that is not trusted.
    """
    objects = [entry for entry in entries if entry.kind == "object"]
    stored = StoredTensors()
    state = load_entries(
        source.store, source.manifest, objects, trust_objects=source.trust_objects, threads=source.threads
    )
    for entry in entries:
        if entry.kind == "tensor":
            state[entry.fqn] = stored_tensor(entry, stored)
    paths = {entry.fqn: entry.path for entry in entries if entry.path is not None}
    return _write(source, state, paths, stored, folder)


def write_imported_dcp(source: StepSource, only: str | None, folder: Path) -> list[Path]:
    """Write the weights and the optimizer of an imported step as ``dcp.load`` reads them, other files beside them.

    The values are ``{"model": ..., "optim": ...}``, with names or numbers for parameters as the files have them.

    Raises:
        TensorNotFoundError: the step has no such artifact.
        IncompleteStepError, UnsupportedDataError: a part cannot be joined, or holds what is not plain data.
    """
    stored = StoredTensors()
    names = [name for name in ("model", "optim") if only in (None, name)]
    nested = {name: value for name in names if (value := imported_state(source, name, stored)) is not None}
    others = [] if only in names else imported_torch(source, only, without=frozenset(names))
    if only in names and not nested:
        source.state_entries(only)
    written = write_images(source.store, source.manifest, others, folder, threads=source.threads)
    if not nested:
        return written
    flat, paths = flatten_state_dict(nested)
    return sorted({*written, *_write(source, flat, paths, stored, folder)})


def _write(
    source: StepSource,
    state: Mapping[str, Any],
    paths: Mapping[str, tuple[str | int, ...]],
    stored: StoredTensors,
    folder: Path,
) -> list[Path]:
    writer = FileSystemWriter(folder, single_file_per_rank=True, thread_count=1)
    with warnings.catch_warnings():
        # That it saves in one process is what is wanted.
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        save(dict(state), storage_writer=writer, planner=_Planner(source, stored, paths), no_dist=True)
    return sorted(path for path in folder.rglob("*") if path.is_file())
