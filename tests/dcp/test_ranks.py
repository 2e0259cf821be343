"""Several ranks save one step together, and any number of others loads it and goes on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import Placement, Replicate, Shard

from deltackpt import Store
from tests.dcp import jobs
from tests.dcp.ranks import Ranks
from tests.dcp.states import save_state


@pytest.fixture
def shared_store(tmp_path: Path) -> Store:
    """An empty store on disk, which all processes can open."""
    return Store.create(tmp_path / "store", chain="previous", block_elements=64)


def origins(store: Store, step: int, fqn: str) -> Counter[int]:
    """How many blocks of a tensor are stored by which step."""
    manifest = store.step(step).manifest
    number = manifest.find(fqn)
    found: Counter[int] = Counter()
    for shard in range(manifest.entries[number].shards):
        for block in manifest.block_range(number, shard):
            entry = manifest.indexes[int(manifest.block_index[block])]
            found[store.opened.index(entry.object).header.step] += 1
    return found


def test_a_sharded_run_goes_on_with_another_number_of_ranks(ranks: Ranks, shared_store: Store) -> None:
    store = shared_store
    saved = ranks.run(4, jobs.begin, store.url, 1)
    assert all(other == saved[0] for other in saved)
    for step, world in ((1, 2), (2, 4), (3, 1), (4, 2)):
        outcomes = ranks.run(world, jobs.go_on, store.url, step, 1)
        assert all(loaded == saved[0] for loaded, _ in outcomes), (step, world)
        saved = [digests for _, digests in outcomes]
    # In this process, without a group and without sharding.
    alone = jobs.Sharded(seed=3)
    alone.train(1)
    alone.load(store.url, 5)
    assert jobs.digests(alone.state()) == saved[0]
    assert alone.save(store.url, 6) == saved[0]
    infos = store.steps()
    assert [info.writer["world_size"] for info in infos] == [4, 2, 4, 1, 2, 1]
    assert [info.depth for info in infos][:5] == [1, 2, 3, 4, 5]
    # Blocks whose boxes survived are referred to; of the others, each is predicted from those that cover it.
    assert set(origins(store, 6, "model.embedding.weight")) == {5}
    assert int(infos[5].writer["duplicates"]) > 30
    assert store.verify(deep=True).ok


def test_what_survives_another_sharding_is_not_stored_again(ranks: Ranks, shared_store: Store) -> None:
    store = shared_store
    first = ranks.run(4, jobs.begin, store.url, 1)[0]
    for step, world in ((1, 2), (2, 4)):
        loaded, saved = ranks.run(world, jobs.go_on, store.url, step, 0)[0]
        assert loaded == saved == first
    for step in (2, 3):
        # 64 rows: whole blocks of 8 rows on 2 and on 4 ranks.
        assert set(origins(store, step, "model.embedding.weight")) == {1}
        assert set(origins(store, step, "optim.state.embedding.weight.exp_avg")) == {1}
    # 11 rows: 3, 3, 3, 2 on 4 ranks and 6, 5 on 2, cut at row 8; rows 6 and 7 are one block in both.
    assert origins(store, 2, "model.uneven.weight") == {1: 1, 2: 2}
    assert origins(store, 3, "model.uneven.weight") == {1: 1, 3: 4}
    # What had to be written again is as good as nothing, because it was predicted exactly.
    infos = store.steps()
    written = [sum(stored for _, stored in info.artifacts.values()) for info in infos]
    assert written[1] < written[0] / 3
    assert infos[1].depth == 2
    assert store.verify(deep=True).ok


def test_replicated_state_is_written_once_by_all_together(ranks: Ranks, shared_store: Store) -> None:
    store = shared_store
    ranks.run(2, jobs.save_replicated, store.url, [1, 2], False)
    for step in (1, 2):
        save_state(store, step, jobs.replicated(step), branch="alone")
        assert ranks.run(4, jobs.load_replicated, store.url, step) == [True] * 4
    for together, alone in zip(store.steps(), store.steps("alone"), strict=True):
        assert together.raw_bytes == alone.raw_bytes
        assert together.writer["writers"] == 2
        packs = [sum(stored for _, stored in info.artifacts.values()) for info in (together, alone)]
        assert packs[0] < 1.02 * packs[1] + 500
    assert store.steps()[0].stored_bytes > 12 * 40 * 50 * 4
    indexes = [store.opened.index(entry.object) for entry in store.step(1).manifest.indexes]
    shares = [sum(pack.size for pack in index.location.packs) for index in indexes]
    assert min(shares) > 0.8 * max(shares)
    # Deduplication moves items from rank to rank; duplicates are found all the same.
    assert origins(store, 2, "model.layers.0.weight") == {1: 40}
    assert origins(store, 2, "model.layers.1.weight") == {2: 40}


def test_cached_plans_on_several_ranks(ranks: Ranks, shared_store: Store) -> None:
    ranks.run(2, jobs.save_replicated, shared_store.url, [1, 2, 3], True)
    for step in (1, 2, 3):
        assert ranks.run(2, jobs.load_replicated, shared_store.url, step) == [True, True]
    assert [info.writer["writers"] for info in shared_store.steps()] == [2, 2, 2]


def test_what_is_gathered_is_small_whatever_the_number_of_blocks(ranks: Ranks, shared_store: Store) -> None:
    sizes = []
    for rows in (64, 1600):
        reports = ranks.run(4, jobs.report_sharded, shared_store.url, 30, rows)
        for shards, size in reports:
            assert size < 200 * shards + 200
        sizes.append([size for _, size in reports])
    # Numbers get longer, no more.
    assert max(abs(few - many) for few, many in zip(*sizes, strict=True)) < 4 * 60
    blocks = [len(shared_store.step(rows).manifest.block_row) for rows in (64, 1600)]
    assert blocks[1] > 10 * blocks[0]


def test_a_failure_on_one_rank_fails_the_save_on_all(ranks: Ranks, shared_store: Store) -> None:
    store = shared_store
    words = ranks.run(2, jobs.fail, store.url)
    expected = [
        "the planner failed",
        "a fault injected by a test",
        "the backend failed",
        "the backend failed",
        "the backend failed",
        "overwrite=True",
        "the planner failed",
    ]
    for own in words:
        assert len(own) == len(expected)
        assert all(part in error for part, error in zip(expected, own, strict=True)), own
    assert [info.step for info in store.steps()] == [1, 3]
    for step in (1, 3):
        assert ranks.run(2, jobs.load_replicated, store.url, step) == [True, True]
    assert store.verify(deep=True).ok


def test_saves_in_the_background_on_two_ranks(ranks: Ranks, shared_store: Store) -> None:
    ranks.run(2, jobs.save_in_the_background, shared_store.url)
    expected = jobs.a_tensor(7, 50, 6)
    for step in (1, 2):
        assert torch.equal(shared_store.step(step).tensor("w"), expected * 1.5 ** (step - 1))
    assert [info.depth for info in shared_store.steps()] == [1, 2]


PLACEMENTS: dict[str, tuple[int, int, list[Placement]]] = {
    "rows on 4": (4, 0, [Shard(0)]),
    "columns on 4": (4, 0, [Shard(1)]),
    "rows on 2": (2, 0, [Shard(0)]),
    "copies on 2": (2, 0, [Replicate()]),
    "copies of rows": (4, 2, [Replicate(), Shard(0)]),
    "columns of rows": (4, 2, [Shard(0), Shard(1)]),
    "rows of rows": (4, 2, [Shard(0), Shard(0)]),
}


def test_any_placement_loads_as_any_other(ranks: Ranks, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", block_elements=1000)
    for step, (world, rows, placements) in enumerate(PLACEMENTS.values()):
        ranks.run(world, jobs.save_placed, store.url, step, rows, placements)
        for name, value in jobs.placed_values().items():
            assert torch.equal(store.step(step).tensor(name), value), (step, name)
    steps = list(range(len(PLACEMENTS)))
    for world, names in ((2, ["rows on 2"]), (4, ["columns on 4", "columns of rows", "copies of rows"])):
        answers = ranks.run(world, jobs.load_placed, store.url, steps, [PLACEMENTS[name][1:] for name in names])
        assert answers == [[True] * (len(steps) * len(names))] * world
    # Nothing changed in value, so no step after the first has anything new to say.
    first, *others = [sum(stored for _, stored in info.artifacts.values()) for info in store.steps()]
    assert all(stored < first / 4 for stored in others)
    assert store.verify(deep=True).ok


def test_all_ranks_load_the_step_that_the_coordinator_found(ranks: Ranks, shared_store: Store) -> None:
    store = shared_store
    save_state(store, 1, jobs.replicated(1))
    assert ranks.run(2, jobs.load_latest_while_another_commits, store.url, 1) == ["1 [1]", "1 [1]"]
    assert store.step("latest").key.step == 2
    # Replaced, and then perhaps written anew by gc.
    assert store.step(1).key.generation >= 2
    assert list(store.opened.backend.list("marks/"))


def test_parts_that_only_some_ranks_have(ranks: Ranks, shared_store: Store) -> None:
    ranks.run(2, jobs.save_stages, shared_store.url)
    step = shared_store.step(1)
    for rank in (0, 1):
        assert torch.equal(step.tensor(f"custom.moments.w{rank}"), torch.full((5,), float(rank)))
    assert {entry.artifact for entry in step.entries()} == {"optim"}
    # The second rank, which does not see that it is an optimizer's, packs its part as such all the same.
    indexes = [shared_store.opened.index(entry.object) for entry in step.manifest.indexes]
    assert {pack.artifact for index in indexes for pack in index.location.packs} == {"optim"}


def test_saves_that_leave_the_group_out(ranks: Ranks, shared_store: Store) -> None:
    for words in ranks.run(2, jobs.save_without_collectives, shared_store.url):
        assert "leave use_collectives at True" in words
    assert shared_store.steps() == []
    ranks.run(2, jobs.save_alone, shared_store.url)
    assert shared_store.step(1).info.writer["world_size"] == 1
    assert ranks.run(2, jobs.load_replicated, shared_store.url, 1) == [True, True]


def test_saves_to_which_not_every_rank_adds_something(ranks: Ranks, shared_store: Store) -> None:
    store = shared_store
    ranks.run(4, jobs.save_on_some, store.url)
    assert [info.writer["world_size"] for info in store.steps()] == [2, 4, 4]
    assert [info.writer["writers"] for info in store.steps()] == [2, 1, 1]
    for step in (1, 2, 3):
        assert ranks.run(2, jobs.load_replicated, store.url, step) == [True, True]
    # Each index object names its writer by its number in the group.
    manifest = store.step(1).manifest
    assert sorted(store.opened.index(entry.object).header.writer for entry in manifest.indexes) == [0, 1]


def test_sharded_tensors_of_the_older_kind(ranks: Ranks, shared_store: Store) -> None:
    assert ranks.run(2, jobs.save_sharded_tensor, shared_store.url) == [True, True]
    assert torch.equal(shared_store.step(1).tensor("w"), jobs.a_tensor(5, 6, 4))


def test_a_step_that_is_not_there_is_an_error_on_all_ranks(ranks: Ranks, shared_store: Store) -> None:
    save_state(shared_store, 1, jobs.replicated(1))
    for words in ranks.run(2, jobs.load_what_is_not_there, shared_store.url):
        assert len(words) == 2
        assert all("there is no step main:9" in error for error in words)


def test_ranks_that_name_different_steps_make_none(ranks: Ranks, shared_store: Store) -> None:
    for words in ranks.run(2, jobs.disagree, shared_store.url):
        assert "writer 1 saved step main:2 where the step is main:1" in words
    assert shared_store.steps() == []
