from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch.distributed.checkpoint.planner import SavePlanner

from deltackpt import Store
from tests.dcp.ranks import Ranks
from tests.dcp.states import new_store


@pytest.fixture
def delta_store() -> Store:
    """An empty store in memory."""
    return new_store()


@pytest.fixture
def plan_caches() -> Iterator[None]:
    """Empty caches of plans: DCP keeps them in a class, for the whole process."""
    caches = (
        SavePlanner._cached_save_plan,
        SavePlanner._cached_final_save_plan,
        SavePlanner._cached_all_plans,
        SavePlanner._cached_global_plan,
        SavePlanner._cached_metadata,
    )
    for cache in caches:
        cache.clear()
    yield
    for cache in caches:
        cache.clear()


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Four processes for all tests that need some."""
    processes = Ranks(4)
    yield processes
    processes.close()
