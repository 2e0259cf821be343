from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

from deltackpt.backend.memory import MemoryBackend
from deltackpt.store.opened import OpenStore, create_store
from deltackpt.store.options import StoreOptions

# No deadlines: the machines that run this are shared. In CI the same examples every time: a failure there is the
# change's, not the day's.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture
def store() -> OpenStore:
    """An empty store in memory, with blocks so small that little arrays have many."""
    return create_store(MemoryBackend(), StoreOptions(block_elements=64))


@pytest.fixture(autouse=True)
def same_torch() -> Iterator[None]:
    """Training in a test asks torch for deterministic algorithms, of the whole process: not for the tests after it."""
    yield
    if "torch" in sys.modules:
        import torch

        torch.use_deterministic_algorithms(False)
