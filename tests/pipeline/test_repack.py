"""Histories that are written anew: the same content, at another depth, whatever happens on the way."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import numpy as np
import pytest

from deltackpt.api import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.codec.registry import MEAN
from deltackpt.errors import BackendError, InvalidArgumentError, StepNotFoundError
from deltackpt.pipeline.repack import RepackReport, repack_branch
from deltackpt.pipeline.save import SaveSettings
from deltackpt.pipeline.verify import verify_store
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.store.retention import Retention
from deltackpt.testing.arrays import State, Stored, load_manifest, load_step, save_step, split, state_bytes
from deltackpt.testing.faults import Fault, FaultyBackend, Kind, RecordingBackend
from tests.pipeline.helpers import check, floats, indexes_of, keys, near
from tests.pipeline.test_faults import copy_of
from tests.pipeline.test_plan_decode import adam_like


def history(steps: int, chain: str = "previous", size: int = 16) -> tuple[OpenStore, list[State]]:
    """A run with a part that stands still, a layout that changes, and a tensor that comes and goes."""
    store = create_store(MemoryBackend(), StoreOptions(chain, key_every=128, block_elements=64))
    states: list[State] = []
    w, frozen = floats(size, 16), floats(8, 16, seed=7)
    for step in range(steps):
        state: State = {"w": Stored(w, boxes=split(w.shape, 1 + step // 5)), "frozen": frozen}
        if step % 3 == 1:
            state = {**state, "sometimes": floats(10, seed=step)}
        states.append(state)
        save_step(store, state, step=10 * step)
        w = (w + np.float32(1e-5) * floats(size, 16, seed=step + 50)).astype(np.float32)
    return store, states


def repack(store: OpenStore, target: str = "smallest", **options: int | bool | None) -> RepackReport:
    arguments: dict[str, int | bool | None] = {"max_depth": None, "key_every": None, **options}
    settings = SaveSettings(1, 1 << 22)
    return repack_branch(store, "main", target=target, settings=settings, **arguments)  # type: ignore[arg-type]


def as_saved(states: list[State]) -> dict[int, State]:
    return {10 * step: state for step, state in enumerate(states)}


@pytest.mark.parametrize(
    ("target", "options", "depth"),
    [
        ("smallest", {}, 8),
        ("smallest", {"max_depth": 3}, 3),
        ("fastest", {}, 2),
        ("key-every", {"key_every": 4}, 8),
        ("key-every", {"key_every": 5, "max_depth": 1}, 1),
    ],
)
def test_every_step_is_what_it_was(target: str, options: dict[str, int], depth: int) -> None:
    store, states = history(14)
    before = Store(store).steps()
    report = repack(store, target, **options)
    check(store, as_saved(states))
    assert verify_store(store, deep=True, threads=1).ok
    assert report.steps == 14
    assert report.before.depth == 14
    assert report.after.depth <= depth
    after = Store(store).steps()
    assert [(s.step, s.parent, s.created, s.metrics) for s in after] == [
        (s.step, s.parent, s.created, s.metrics) for s in before
    ]
    assert {s.generation for s in after} == {2}
    assert all(key.endswith("/000002") for key in keys(store, "manifests/"))
    if target == "key-every":
        assert [s.is_key for s in after][: 2 * options["key_every"] : options["key_every"]] == [True, True]
    # And the run goes on.
    states.append({"w": near(states[-1]["w"].array)})  # type: ignore[union-attr]
    save_step(open_store(store.backend), states[-1], step=140)
    check(store, as_saved(states))


def test_a_tree_is_no_larger_than_the_longest_chain() -> None:
    """And what stands still is stored once."""
    store = create_store(MemoryBackend(), StoreOptions("previous", key_every=128, max_depth=200))
    states: list[State] = []
    w, frozen = floats(64, 128), floats(64, 64, seed=3)
    for step in range(33):
        states.append({"w": w, "frozen": frozen})
        save_step(store, states[-1], step=10 * step)
        w = (w + np.float32(1e-5) * floats(64, 128, seed=step + 50)).astype(np.float32)
    estimate = repack(store, dry_run=True)
    assert max(s.generation for s in Store(store).steps()) == 1
    report = repack(store)
    assert (estimate.before, estimate.shape) == (report.before, report.shape)
    assert estimate.after.stored_bytes == pytest.approx(report.after.stored_bytes, rel=0.2)
    assert report.before.depth == 33
    assert report.after.depth <= 8
    assert report.after.stored_bytes <= report.before.stored_bytes
    found = [index for step in range(33) for index in indexes_of(store, load_manifest(store, 10 * step)).values()]
    assert any(MEAN in index.identity.predictor for index in found)
    assert len({index.digest for index in indexes_of(store, load_manifest(store, 0)).values()}) == 1
    for step in (0, 7, 32):
        assert load_step(store, 10 * step) == state_bytes(states[step])


def test_a_run_that_saved_every_step_of_its_optimizer() -> None:
    store = create_store(MemoryBackend(), StoreOptions("previous", key_every=64))
    states: list[State] = []
    for step in range(17):
        states.append(adam_like(step, states[-1] if states else None, 96))
        save_step(store, states[-1], step=10 * step)
    report = repack(store, max_depth=12)
    assert report.shape.run > 1
    assert report.after.depth <= 12
    check(store, as_saved(states))
    assert verify_store(store, deep=True, threads=1).ok


@pytest.mark.parametrize("error", [BackendError, KeyboardInterrupt], ids=["error", "kill"])
@pytest.mark.parametrize("kind", ["put", "put_if_absent", "get", "list", "delete"])
def test_every_operation_of_a_repack_fails_once(kind: Kind, error: type[BaseException]) -> None:
    """Each step is whole, old or new; then it is done after all."""
    store, states = history(4, size=8)
    recorder = RecordingBackend(copy_of(store.backend))  # type: ignore[arg-type]
    repack(open_store(recorder))
    count = recorder.count(kind)
    assert count >= 1
    places = sorted({1, count, *range(1, count, max(1, count // 3))})
    backend = MemoryBackend()
    for nth in places:
        backend = copy_of(store.backend)  # type: ignore[arg-type]
        faulty = FaultyBackend(backend, [Fault(kind, nth=nth, error=partial(error, "injected"))])
        with suppress(BackendError, KeyboardInterrupt):
            repack(open_store(faulty))
        assert faulty.struck == 1
        left = open_store(backend)
        assert [s.step for s in Store(left).steps()] == [10 * step for step in range(4)]
        for step, state in as_saved(states).items():
            assert load_step(left, step) == state_bytes(state)
    # The last of them, once more and without a fault.
    assert repack(open_store(backend)).after.depth <= 8
    check(open_store(backend), as_saved(states))
    assert verify_store(open_store(backend), deep=True, threads=1).ok


def test_what_it_cannot_do() -> None:
    store, _ = history(3)
    with pytest.raises(StepNotFoundError):
        repack_branch(store, "none", target="smallest", max_depth=None, key_every=None, settings=SaveSettings(1, 0))
    for target, options in (
        ("best", {}),
        ("key-every", {}),
        ("smallest", {"key_every": 3}),
        ("smallest", {"max_depth": 0}),
        ("key-every", {"key_every": 0}),
    ):
        with pytest.raises(InvalidArgumentError):
            repack(store, target, **options)
    assert max(s.generation for s in Store(store).steps()) == 1


def test_an_estimate_where_pruning_left_no_key_step() -> None:
    store, _ = history(8, size=64)
    Store(store).prune(Retention(keep_last=4))
    assert not any(info.is_key for info in Store(store).steps())
    assert repack(store, dry_run=True).after.stored_bytes > 0


def test_what_steps_that_are_gone_left_behind_counts() -> None:
    """Of a chain thinned out, most bytes are of steps that are gone: a repack frees them."""
    store, _ = history(16, size=64)
    Store(store).prune(Retention(keep_every=50))
    Store(store).gc(grace=0)
    whole = sum(found.size for prefix in ("packs/", "indexes/", "manifests/") for found in store.backend.list(prefix))
    estimate = repack(store, dry_run=True)
    assert estimate.before.stored_bytes == whole
    report = repack(store)
    assert report.before == estimate.before
    Store(store).gc(grace=0)
    left = sum(found.size for prefix in ("packs/", "indexes/", "manifests/") for found in store.backend.list(prefix))
    assert report.after.stored_bytes == left < whole
