from __future__ import annotations

import random

from deltackpt.backend.base import Backend
from deltackpt.backend.memory import MemoryBackend
from deltackpt.format.keys import STORE_JSON
from deltackpt.store.catalog import visible_steps
from deltackpt.store.opened import open_store
from deltackpt.testing.arrays import load_step
from tests.reliability.actions import build_store
from tests.reliability.bitrot import flip_every_byte, flip_many, load_entries, small_store


def test_bytes_of_a_small_store() -> None:
    backend = MemoryBackend()
    small_store(backend)
    flips = list(flip_every_byte(backend, 0x10, every=11))
    assert len(flips) > 150
    # Of store.json only what is used is checked; every byte of all others is covered by a hash.
    assert [flip for flip in flips if not flip.reported and flip.key != STORE_JSON] == []
    assert not any(flip.refused and not flip.reported for flip in flips)


def entries(backend: Backend) -> dict[str, bytes]:
    """What every tensor of every step holds."""
    store = open_store(backend)
    steps = [f"{found.key.branch}:{found.key.step}" for found in visible_steps(store)]
    return {f"{step} {fqn}": data for step in steps for fqn, data in load_step(store, step).items() if fqn != "o"}


def test_what_is_reported_is_what_was_harmed() -> None:
    for seed in range(5):
        backend = MemoryBackend()
        build_store(backend)
        held = entries(backend)
        hits, harmed = flip_many(backend, 3, random.Random(seed))
        assert hits > 0
        assert harmed
        load_entries(backend, held, harmed)
