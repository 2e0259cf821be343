"""A store as the storage of ``torch.distributed.checkpoint`` (DCP): thin adapters over the pipelines.

Pass :class:`DeltaStorageWriter` to ``dcp.save`` or ``dcp.async_save`` and :class:`DeltaStorageReader` to ``dcp.load``.
:class:`Checkpointer` does so for a training loop: when steps are due, in the background.
"""

from deltackpt.dcp.checkpointer import Checkpointer
from deltackpt.dcp.reader import DeltaStorageReader
from deltackpt.dcp.writer import DeltaStorageWriter

__all__ = ["Checkpointer", "DeltaStorageReader", "DeltaStorageWriter"]
