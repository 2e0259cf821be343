"""What several ranks hold is written once, and a weight by the rank that writes its moments."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from deltackpt import Store
from deltackpt.codec.registry import ADAM_SECOND, ADAM_WEIGHT
from deltackpt.dcp.plans import Labels, with_held
from deltackpt.dcp.replicas import share_out
from tests.dcp import replicated
from tests.dcp.ranks import Ranks
from tests.dcp.states import save_state

STEPS = 3


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("states") / "states.pt"
    torch.save(replicated.trained(STEPS), file)
    return file


@pytest.fixture(scope="module")
def alone(states: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same steps, saved by one process."""
    store = Store.create(tmp_path_factory.mktemp("alone") / "store")
    for step, state in enumerate(torch.load(states, weights_only=False)):
        save_state(store, step, state)
    return store


def partners(store: Store, step: int) -> Counter[int]:
    """How many of the records that a step added are predicted from moments of their step, by predictor."""
    opened = store.opened
    found: Counter[int] = Counter()
    for entry in store.step(step).manifest.indexes:
        index = opened.index(entry.object)
        if index.header.step == step:
            found.update(p for p in index.identity.predictor.tolist() if p in (ADAM_SECOND, ADAM_WEIGHT))
    return found


def stored(store: Store) -> list[int]:
    return [info.stored_bytes for info in store.steps()]


@pytest.mark.parametrize("world", [2, 4])
def test_copies_on_several_ranks_take_as_many_bytes_as_one(
    ranks: Ranks, tmp_path: Path, states: Path, alone: Store, world: int
) -> None:
    store = Store.create(tmp_path / "store")
    written = ranks.run(world, replicated.save_states, store.url, str(states), 0)
    assert ranks.run(2, replicated.load_states, store.url, str(states)) == [True, True]
    for step in range(STEPS):
        assert stored(store)[step] == pytest.approx(stored(alone)[step], rel=0.02)
        assert partners(store, step) == partners(alone, step)
    assert min(partners(store, STEPS - 1).values()) > 5
    # And the work is shared, as far as the largest weight and its moments allow.
    shares = [sum(sizes[0].values()) for sizes in written]
    assert min(shares) > 0.6 * sum(shares) / world
    assert sum(shares) == store.steps()[0].raw_bytes


def test_replicas_of_shards_take_as_many_bytes_as_one_replica(ranks: Ranks, tmp_path: Path, states: Path) -> None:
    stores = {}
    for copies in (1, 2):
        stores[copies] = Store.create(tmp_path / f"of-{copies}")
        ranks.run(2 * copies, replicated.save_states, stores[copies].url, str(states), 2)
        assert ranks.run(2, replicated.load_states, stores[copies].url, str(states)) == [True, True]
    one, two = stores.values()
    for step in range(STEPS):
        assert stored(two)[step] == pytest.approx(stored(one)[step], rel=0.02)
        assert partners(two, step) == partners(one, step)


def test_cached_plans_keep_weights_with_their_moments(ranks: Ranks, tmp_path: Path, states: Path, alone: Store) -> None:
    for changing in (None, 1):
        store = Store.create(tmp_path / f"store-{changing}")
        written = ranks.run(2, replicated.save_states, store.url, str(states), 0, True, changing)
        assert ranks.run(2, replicated.load_states, store.url, str(states)) == [True, True]
        for step in range(STEPS):
            assert stored(store)[step] == pytest.approx(stored(alone)[step], rel=0.02)
            assert partners(store, step) == partners(alone, step)
        # The rank whose plan did not change writes what it wrote before, whatever DCP sends it.
        last = [set(sizes[-1]) for sizes in written]
        assert last[1 if changing else 0] - set(written[1 if changing else 0][0]) == ({"extra"} if changing else set())
        assert store.verify(deep=True).ok


def plan_of(names: dict[str, tuple[int, ...]], offset: int = 0, dtype: torch.dtype = torch.float32) -> SavePlan:
    items = [
        WriteItem(
            MetadataIndex(name, torch.Size([offset] + [0] * (len(shape) - 1))),
            WriteItemType.TENSOR,
            tensor_data=TensorWriteData(
                ChunkStorageMetadata(torch.Size([offset] + [0] * (len(shape) - 1)), torch.Size(shape)),
                TensorProperties(dtype=dtype),
                torch.Size(shape),
            ),
        )
        for name, shape in names.items()
    ]
    paths = {name: tuple(name.split("/")) for name in names}
    return with_held(SavePlan(items, planner_data=paths))


def adam(*names: str) -> dict[str, tuple[int, ...]]:
    moments = [f"optim/state/{name}/{moment}" for name in names for moment in ("exp_avg", "exp_avg_sq")]
    return dict.fromkeys([*(f"model/{name}" for name in names), *moments], (8, 8))


def only(plan: SavePlan, *numbers: int) -> SavePlan:
    """What is left of a rank's plan once the planner gave the other items to other ranks."""
    return SavePlan([plan.items[n] for n in numbers], plan.storage_data, plan.planner_data)


def names_of(plan: SavePlan) -> list[str]:
    return [item.index.fqn for item in plan.items]


def test_an_item_goes_only_to_a_rank_that_holds_it() -> None:
    # Three ranks; the third holds the moments of "a" but not the weight.
    full = plan_of(adam("a", "b"))
    part = plan_of({name: shape for name, shape in adam("a").items() if name.startswith("optim")})
    shared = share_out([only(full, 0, 1), only(full, 3, 4, 5), only(part, 0)])
    everything = [name for plan in shared for name in names_of(plan)]
    assert sorted(everything) == sorted(names_of(full))
    assert names_of(shared[2]) == []
    for plan in shared[:2]:
        assert len({name.split("/")[1 if name.startswith("model") else 2] for name in names_of(plan)}) == 1
    assert {len(names_of(plan)) for plan in shared[:2]} == {3}


def test_plans_in_which_nothing_is_torn_apart_stay_as_they_are() -> None:
    full = plan_of(adam("a", "b"))
    planned = [only(full, *range(6)), only(full)]  # as with dedup_save_to_lowest_rank
    assert [names_of(plan) for plan in share_out(planned)] == [names_of(full), []]


def test_shards_that_nobody_else_has_stay_where_they_are() -> None:
    first, second = plan_of(adam("a"), offset=0), plan_of(adam("a"), offset=8)
    shared = share_out([first, second])
    assert [plan.items for plan in shared] == [first.items, second.items]


def test_weights_that_may_be_tied_are_written_by_one_rank() -> None:
    moments = {f"optim/state/wte/{moment}": (9, 8) for moment in ("exp_avg", "exp_avg_sq")}
    full = plan_of({"model/wte": (9, 8), "model/head": (9, 8), **adam("a", "b"), **moments})
    shared = share_out([only(full, *range(0, 10, 2)), only(full, *range(1, 10, 2))])
    tied = [plan for plan in shared if "model/wte" in names_of(plan)]
    assert len(tied) == 1
    assert "model/head" in names_of(tied[0])


def test_weights_that_may_be_tied_stay_together_with_their_copies() -> None:
    moments = {f"optim/state/wte/{moment}": (9, 8) for moment in ("exp_avg", "exp_avg_sq")}
    full = plan_of({"model/wte": (9, 8), "model/head": (9, 8), **moments})
    halves = plan_of({"half/wte": (9, 8), "half/head": (9, 8)}, dtype=torch.bfloat16)
    both = with_held(SavePlan(full.items + halves.items, None, {**full.planner_data, **halves.planner_data}))
    shared = share_out([only(both, 0, 2, 4), only(both, 1, 3, 5)])
    assert sorted(len(plan.items) for plan in shared) == [0, 6]


def test_labels_come_from_the_whole_state() -> None:
    # As with pipeline parallelism: the second rank does not see that "custom" is an optimizer's.
    first = plan_of({"custom/moments/w0": (4,)})
    first = with_held(SavePlan(first.items, None, {**first.planner_data, "lr": ("custom", "param_groups", 0, "lr")}))
    second = plan_of({"custom/moments/w1": (4,)})
    for plan in share_out([first, second]):
        assert isinstance(plan.storage_data, Labels)
        assert [kind for kind, _ in plan.storage_data.kinds.values()] == ["optim"]
