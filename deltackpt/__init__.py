"""deltackpt: keep every checkpoint of a training run for few bytes, and get any of them back exactly.

``Store`` is where to start; ``deltackpt.dcp`` plugs a store into ``torch.distributed.checkpoint``.
"""

from deltackpt._version import __version__
from deltackpt.api import Step, StepInfo, Store
from deltackpt.errors import DeltackptError

__all__ = ["DeltackptError", "Step", "StepInfo", "Store", "__version__"]
