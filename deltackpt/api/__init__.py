"""The public face of a store: ``Store``, ``Step``, ``StepInfo``."""

from __future__ import annotations

from deltackpt.api.info import BranchInfo, StepInfo
from deltackpt.api.step import Step
from deltackpt.api.store import Store

__all__ = ["BranchInfo", "Step", "StepInfo", "Store"]
