"""A step as a folder of ``torch.distributed.checkpoint``, written by its own ``FileSystemWriter``."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.planner import SavePlan, WriteItem
from torch.distributed.checkpoint.state_dict_saver import save

from deltackpt.format.manifest import Entry
from deltackpt.formats.source import StepSource, stored_tensor
from deltackpt.formats.state import load_entries, load_tensor
from deltackpt.formats.torch_image import StoredTensors

__all__ = ["write_dcp_folder"]


class _Planner(DefaultSavePlanner):
    """Plans with tensors that stand for stored ones, and decodes each when it is written."""

    def __init__(self, source: StepSource, entries: Sequence[Entry]) -> None:
        super().__init__(flatten_state_dict=False)
        self._source = source
        self._paths = {entry.fqn: entry.path for entry in entries if entry.path is not None}

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
        source = self._source
        return load_tensor(source.store, source.manifest, write_item.index.fqn, None, threads=source.threads)


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
    writer = FileSystemWriter(folder, single_file_per_rank=True, thread_count=1)
    save(state, storage_writer=writer, planner=_Planner(source, entries), no_dist=True)
    return sorted(path for path in folder.rglob("*") if path.is_file())
