"""Parts of a state that are saved less often than others build on the newest step before the base that holds them."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from deltackpt.backend.base import Buffer
from deltackpt.backend.memory import MemoryBackend
from deltackpt.format.keys import StepKey, manifest_key
from deltackpt.format.pending import Mark
from deltackpt.format.times import format_time
from deltackpt.store.collect import collect
from deltackpt.store.marks import put_mark
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.store.pending import read_pendings
from deltackpt.store.remove import remove_steps
from deltackpt.testing.arrays import State, Stored, commit, load_manifest, save_step, write_step
from deltackpt.testing.faults import truncate_object
from tests.pipeline.helpers import check, floats, near, own_index

FULL = (0, 4, 8)


def state(step: int, *, full: bool | None = None) -> State:
    """A model, and at some steps its optimizer; all of it changes a little from one step to the next."""
    model: State = {"w": near(floats(16, 16), seed=step), "frozen": floats(8, 16, seed=7)}
    if not (step in FULL if full is None else full):
        return model
    moments: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {
        "m": near(floats(48, 32, seed=1), seed=step),
        "count": np.full(3, step, np.int64),
    }
    return {**model, **{name: Stored(value, artifact="optim", role="other") for name, value in moments.items()}}


def a_store(**options: int | str) -> OpenStore:
    return create_store(MemoryBackend(), StoreOptions(**{"chain": "previous", "block_elements": 512, **options}))  # type: ignore[arg-type]


def saved(store: OpenStore, steps: range) -> dict[int, State]:
    for step in steps:
        save_step(store, state(step), step=step)
    return {step: state(step) for step in steps}


def stored(store: OpenStore, step: int) -> int:
    return load_manifest(store, step).header.artifacts["optim"].stored_bytes


def keys_of(*steps: int) -> list[StepKey]:
    return [StepKey("main", step, 1) for step in steps]


@pytest.mark.parametrize("chain", ["previous", "anchor", "skip", "auto"])
def test_an_optimizer_that_is_saved_less_often_than_its_model(chain: str) -> None:
    store = a_store(chain=chain)
    states = saved(store, range(9))
    check(store, states)
    every = a_store(chain=chain)
    for step in FULL:
        save_step(every, state(step), step=step)
    assert stored(store, 4) < 0.7 * stored(store, 0)
    # As many bytes as if the steps in between were not there.
    assert [stored(store, step) for step in FULL] == pytest.approx([stored(every, step) for step in FULL], rel=0.02)


def test_an_index_names_every_step_that_it_builds_on() -> None:
    store = a_store()
    saved(store, range(5))
    assert [list(own_index(store, step).header.bases) for step in range(5)] == [
        [],
        keys_of(0),
        keys_of(1),
        keys_of(2),
        keys_of(3, 0),
    ]


def test_a_chain_of_optimizers_goes_on_where_that_of_the_model_starts_anew() -> None:
    store = a_store(key_every=3)
    check(store, saved(store, range(9)))
    headers = [load_manifest(store, step).header for step in range(9)]
    assert [header.distance for header in headers] == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert headers[4].chain_key == ("main", 3)
    assert stored(store, 4) < 0.7 * stored(store, 0)
    assert headers[8].depth == 3


def test_a_key_step_needs_nothing_but_repeats_nothing() -> None:
    store = a_store(key_every=2)
    same = Stored(floats(16, 16, seed=1), artifact="optim", role="other")
    states: Mapping[int, State] = {0: {**state(0), "m": same}, 1: state(1), 2: {**state(2), "m": same}}
    for step, content in states.items():
        save_step(store, content, step=step)
    check(store, states)
    assert load_manifest(store, 2).header.distance == 0
    assert stored(store, 2) == 0


class Watched(MemoryBackend):
    """Notes which steps are announced as bases while packs are written."""

    def __init__(self) -> None:
        super().__init__()
        self.announced: set[tuple[StepKey, ...]] = set()

    def put(self, key: str, data: Buffer) -> None:
        if key.startswith("packs/"):
            self.announced = {pending.bases for _, pending in read_pendings(open_store(self))}
        super().put(key, data)


def test_all_that_a_save_builds_on_is_announced_and_stays() -> None:
    backend = Watched()
    store = create_store(backend, StoreOptions(chain="previous", block_elements=512))
    states = saved(store, range(4))
    receipts = write_step(store, state(4), step=4)
    assert backend.announced == {tuple(keys_of(0, 3))}
    # Neither goes while the save is under way; the steps between are nobody's.
    removed = remove_steps(store, [("main", step) for step in range(4)])
    assert list(removed.spared) == keys_of(0, 3)
    collect(store, wait=False)
    commit(store, state(4), receipts, step=4)
    check(store, {0: states[0], 3: states[3], 4: state(4)})


def test_a_part_whose_step_is_about_to_go_is_stored_whole(caplog: pytest.LogCaptureFixture) -> None:
    store = a_store()
    states = saved(store, range(4))
    put_mark(store, Mark(format_time(store.clock()), manifests=tuple(keys_of(0))))
    with caplog.at_level(logging.WARNING, "deltackpt"):
        save_step(store, state(4), step=4)
    assert "main:0" in caplog.text
    assert list(own_index(store, 4).header.bases) == keys_of(3)
    assert stored(store, 4) == pytest.approx(stored(store, 0), rel=0.02)
    check(store, {**states, 4: state(4)})


def test_a_part_whose_step_cannot_be_read_is_stored_whole(caplog: pytest.LogCaptureFixture) -> None:
    store = a_store()
    states = saved(store, range(4))
    truncate_object(store.backend, manifest_key(StepKey("main", 0, 1)), 100)
    with caplog.at_level(logging.WARNING, "deltackpt"):
        save_step(store, state(4), step=4)
    assert "optim is stored whole" in caplog.text
    del states[0]
    check(store, {**states, 4: state(4)})
    assert list(own_index(store, 4).header.bases) == keys_of(3)
