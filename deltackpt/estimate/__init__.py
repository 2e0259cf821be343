"""What keeping checkpoints will cost, measured on a sample of some that there are."""

from __future__ import annotations

from deltackpt.estimate.policies import Plan, Projection, project_all
from deltackpt.estimate.run import Estimate, EstimateSettings, estimate
from deltackpt.estimate.sources import checkpoints_of_files, checkpoints_of_store

__all__ = [
    "Estimate",
    "EstimateSettings",
    "Plan",
    "Projection",
    "checkpoints_of_files",
    "checkpoints_of_store",
    "estimate",
    "project_all",
]
