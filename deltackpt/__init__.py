"""deltackpt: keep every checkpoint of a training run for few bytes, and get any of them back exactly.

``Store`` is where to start; ``Checkpointer`` saves from a training loop; ``deltackpt.dcp`` plugs a store into
``torch.distributed.checkpoint``.
"""

from typing import TYPE_CHECKING, Any

from deltackpt._version import __version__
from deltackpt.api import Step, StepInfo, Store
from deltackpt.errors import DeltackptError
from deltackpt.store.retention import Retention

if TYPE_CHECKING:
    from deltackpt.dcp.checkpointer import Checkpointer

__all__ = ["Checkpointer", "DeltackptError", "Retention", "Step", "StepInfo", "Store", "__version__"]


def __getattr__(name: str) -> Any:
    # It loads torch, which takes a second or more, so only when somebody asks for it.
    if name == "Checkpointer":
        from deltackpt.dcp.checkpointer import Checkpointer

        return Checkpointer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
