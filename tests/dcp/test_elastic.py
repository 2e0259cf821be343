"""Every change between 1, 2, 3, 4 and 8 ranks: what one number of them saved, any other loads, and saves on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import Replicate, Shard

from deltackpt import Store
from tests.dcp import jobs, replicated
from tests.dcp.ranks import Ranks

pytestmark = pytest.mark.slow

# Each of the 25 ordered pairs of world sizes occurs once (a de Bruijn sequence).
WORLDS = [1, 1, 2, 1, 3, 1, 4, 1, 8, 2, 2, 3, 2, 4, 2, 8, 3, 3, 4, 3, 8, 4, 4, 8, 8, 1]


@pytest.fixture(scope="module")
def eight() -> Iterator[Ranks]:
    processes = Ranks(8)
    yield processes
    processes.close()


def test_the_sequence_has_every_pair() -> None:
    pairs = set(pairwise(WORLDS))
    assert len(WORLDS) == 26
    assert pairs == {(a, b) for a in (1, 2, 3, 4, 8) for b in (1, 2, 3, 4, 8)}


def test_saved_on_so_many_loaded_on_so_many(eight: Ranks, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", block_elements=64, chain="previous")
    saved = eight.run(WORLDS[0], jobs.begin, store.url, 1)[0]
    for step, world in enumerate(WORLDS[1:], start=1):
        outcomes = eight.run(world, jobs.go_on, store.url, step, 1)
        assert all(loaded == saved for loaded, _ in outcomes), (step, world)
        saved = outcomes[0][1]
    infos = store.steps()
    assert [info.writer["world_size"] for info in infos] == WORLDS
    # Only the key steps that the chain asks for are whole: no change of ranks starts a new chain.
    assert [info.step for info in infos if info.is_key] == [1, 1 + store.options.key_every]
    assert store.verify(deep=True).ok


def test_a_state_that_did_not_change_is_stored_once_whatever_the_ranks(eight: Ranks, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", block_elements=64, chain="previous", key_every=100)
    first = eight.run(WORLDS[0], jobs.begin, store.url, 1)[0]
    for step, world in enumerate(WORLDS[1:], start=1):
        loaded, saved = eight.run(world, jobs.go_on, store.url, step, 0)[0]
        assert loaded == saved == first
    written = [sum(stored for _, stored in info.artifacts.values()) for info in store.steps()]
    # Blocks that another cut made new are predicted from those that cover them, and cost their headers: of blocks of
    # 256 bytes, as here, that is much.
    assert max(written[1:]) < 0.6 * written[0]


def test_eight_ranks_hold_copies_of_shards(eight: Ranks, tmp_path: Path) -> None:
    file = tmp_path / "states.pt"
    torch.save(replicated.trained(3), file)
    sizes = {}
    for copies in (1, 2, 4):
        store = Store.create(tmp_path / f"of-{copies}")
        eight.run(2 * copies, replicated.save_states, store.url, str(file), 2)
        assert eight.run(3, replicated.load_states, store.url, str(file)) == [True] * 3
        # Without indexes: each of the writers has one, which takes 2% of a state as small as this.
        sizes[copies] = [sum(stored for _, stored in info.artifacts.values()) for info in store.steps()]
    assert sizes[2] == pytest.approx(sizes[1], rel=0.02)
    assert sizes[4] == pytest.approx(sizes[1], rel=0.02)


def test_placements_on_eight_ranks(eight: Ranks, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", block_elements=1000)
    cases = [(0, [Shard(0)]), (0, [Shard(1)]), (2, [Replicate(), Shard(0)]), (4, [Shard(0), Shard(1)])]
    for step, (rows, placements) in enumerate(cases):
        eight.run(8, jobs.save_placed, store.url, step, rows, placements)
        for name, value in jobs.placed_values().items():
            assert torch.equal(store.step(step).tensor(name), value), (step, name)
    answers = eight.run(8, jobs.load_placed, store.url, list(range(len(cases))), cases)
    assert answers == [[True] * len(cases) ** 2] * 8
