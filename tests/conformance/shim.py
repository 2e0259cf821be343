"""Our writer and reader under the names, and with the signatures, of torch's own: what PyTorch's tests bind.

A checkpoint folder of such a test becomes a store with one step, 0. The store is a folder of its own in it, as some
tests keep other files beside the checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from deltackpt import Store
from deltackpt.dcp import DeltaStorageReader, DeltaStorageWriter
from deltackpt.dcp.arguments import CheckpointId
from deltackpt.errors import NotAStoreError, StepExistsError, StoreExistsError

__all__ = ["FileSystemReader", "FileSystemWriter", "install"]


def _folder(path: CheckpointId) -> Path:
    return Path(path) / "deltackpt"


def _store(path: CheckpointId) -> Store:
    """The store of a checkpoint folder; made by whichever rank comes first."""
    try:
        return Store.create(_folder(path))
    except (StoreExistsError, NotAStoreError):  # the latter while another rank makes it
        return Store.open(_folder(path))


class FileSystemWriter(DeltaStorageWriter, BlockingAsyncStager):
    """Takes what torch's writer takes. What only says how files are written makes no difference here."""

    def __init__(
        self,
        path: CheckpointId,
        single_file_per_rank: bool = True,
        sync_files: bool = True,
        thread_count: int = 1,
        per_thread_copy_ahead: int = 10_000_000,
        cache_staged_state_dict: bool = False,
        overwrite: bool = True,
        _extensions: Sequence[Any] | None = None,
        serialization_format: Any = None,
    ) -> None:
        BlockingAsyncStager.__init__(self, cache_staged_state_dict=cache_staged_state_dict)
        DeltaStorageWriter.__init__(self, _store(path), 0, overwrite=overwrite, threads=thread_count)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: CheckpointId) -> bool:
        return filesystem.FileSystem.validate_checkpoint_id(checkpoint_id)

    def reset(self, checkpoint_id: CheckpointId | None = None) -> None:
        super().reset(checkpoint_id)
        if checkpoint_id:
            self._store = _store(checkpoint_id)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        try:
            super().set_up_storage_writer(is_coordinator, *args, **kwargs)
        except StepExistsError as error:
            raise StepExistsError("Checkpoint already exists: torch's words for it", where=error.where) from error


class FileSystemReader(DeltaStorageReader):
    """Takes what torch's reader takes."""

    def __init__(self, path: CheckpointId, _extension_registry: Any = None) -> None:
        super().__init__(Store.open(_folder(path)), 0)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: CheckpointId) -> bool:
        return filesystem.FileSystem.validate_checkpoint_id(checkpoint_id)

    def reset(self, checkpoint_id: CheckpointId | None = None) -> None:
        super().reset(checkpoint_id)
        if checkpoint_id:
            self._store = Store.open(_folder(checkpoint_id))


def install() -> None:
    """Put ours in the place of torch's, in all its modules."""
    ours = {filesystem.FileSystemWriter: FileSystemWriter, filesystem.FileSystemReader: FileSystemReader}
    for name, module in list(sys.modules.items()):
        if name.startswith("torch.distributed.checkpoint"):
            for theirs, replacement in ours.items():
                if vars(module).get(theirs.__name__) is theirs:
                    setattr(module, theirs.__name__, replacement)
