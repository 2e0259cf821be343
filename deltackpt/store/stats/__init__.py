"""Where the bytes of a store are, from its manifests and indexes alone."""

from __future__ import annotations

from deltackpt.store.stats.collect import collect_stats
from deltackpt.store.stats.report import DeadBytes, ObjectLoss, Share, StepStats, StoreStats

__all__ = ["DeadBytes", "ObjectLoss", "Share", "StepStats", "StoreStats", "collect_stats"]
