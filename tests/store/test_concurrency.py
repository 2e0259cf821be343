"""Many at once: a property test of one process after another against a model, and real processes on one store."""

from __future__ import annotations

import multiprocessing
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from deltackpt.api import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import IncompleteSaveError, MissingObjectError, StepNotFoundError
from deltackpt.format.times import utc_now
from deltackpt.pipeline.compact import compact_store
from deltackpt.pipeline.rewrite import rewrite_step
from deltackpt.pipeline.save import SaveSettings
from deltackpt.pipeline.verify import verify_store
from deltackpt.store.collect import collect
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.store.pending import LEASE, MARGIN, withdraw
from deltackpt.store.receipt import WriterReceipt
from deltackpt.store.retention import Retention
from deltackpt.store.usage import all_objects, read_listed
from deltackpt.testing.arrays import State, commit, load_manifest, load_step, save_step, state_bytes, write_step
from tests.pipeline.helpers import floats, near

BRANCHES = st.sampled_from(["main", "rl"])
STEPS = st.integers(0, 5)


def state(seed: int) -> State:
    return {"w": near(floats(12, 16), seed=seed), "frozen": floats(8, 16, seed=99)}


class History(RuleBasedStateMachine):
    """Saves that are in the middle of things, prunes, rewrites and gc, against a dict of what was committed."""

    def __init__(self) -> None:
        super().__init__()
        self.store = create_store(MemoryBackend(), StoreOptions(chain="previous", block_elements=64, key_every=3))
        self.model: dict[tuple[str, int], int] = {}
        self.open: list[tuple[str, int, int, list[WriterReceipt]]] = []
        self.seed = 0

    def _fresh(self) -> OpenStore:
        return open_store(self.store.backend)

    @rule(branch=BRANCHES, step=STEPS)
    def save(self, branch: str, step: int) -> None:
        self.seed += 1
        save_step(self._fresh(), state(self.seed), step=step, branch=branch)
        self.model[branch, step] = self.seed

    @rule(branch=BRANCHES, step=STEPS)
    def begin(self, branch: str, step: int) -> None:
        self.seed += 1
        receipts = write_step(self._fresh(), state(self.seed), step=step, branch=branch)
        self.open.append((branch, step, self.seed, receipts))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        branch, step, seed, receipts = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        commit(self._fresh(), state(seed), receipts, step=step, branch=branch)
        self.model[branch, step] = seed

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        *_, receipts = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        withdraw(self._fresh(), [receipt.pending.id for receipt in receipts])

    @precondition(lambda self: self.open)
    @rule()
    def time_passes(self) -> None:
        """Saves in progress are taken for dead, and can commit no more."""
        later = OpenStore(self.store.backend, self.store.config, clock=lambda: utc_now() + LEASE + 2 * MARGIN)
        collect(later, grace=timedelta(0), wait=False)
        branch, step, seed, receipts = self.open.pop()
        with pytest.raises((IncompleteSaveError, MissingObjectError)):
            commit(later, state(seed), receipts, step=step, branch=branch)
        self.open.clear()

    @rule(branch=BRANCHES, last=st.integers(1, 3), every=st.integers(2, 4), rebase=st.booleans())
    def prune(self, branch: str, last: int, every: int, rebase: bool) -> None:
        if not any(b == branch for b, _ in self.model):
            return
        report = Store(self._fresh()).prune(Retention(last, every), branch=branch, rebase=rebase)
        numbers = sorted(step for b, step in self.model if b == branch)
        kept = {step for step in numbers if step % every == 0} | set(numbers[-last:])
        assert {k.step for k in report.kept} == kept
        for step in set(numbers) - kept:
            if f"{branch}:{step}" not in report.spared:
                del self.model[branch, step]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def rewrite(self, data: st.DataObject) -> None:
        branch, step = data.draw(st.sampled_from(sorted(self.model)))
        store = self._fresh()
        rewrite_step(store, load_manifest(store, step, branch), settings=SaveSettings(1, 0))

    @rule(compact=st.booleans())
    def gc(self, compact: bool) -> None:
        store = self._fresh()
        if compact:
            compact_store(store)
        collect(store, grace=timedelta(0), wait=False)
        if not self.open:
            assert set(all_objects(store)) == read_listed(store).objects()
            assert not list(store.backend.list("marks/"))

    @invariant()
    def the_store_is_the_model(self) -> None:
        store = self._fresh()
        assert {(info.branch, info.step) for info in Store(store).steps(None)} == set(self.model)
        assert read_listed(store).objects() <= set(all_objects(store))

    def teardown(self) -> None:
        store = self._fresh()
        for (branch, step), seed in self.model.items():
            assert load_step(store, step, branch) == state_bytes(state(seed))


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)


def _saver(path: str, branch: str, first: int, count: int, errors: Any) -> None:
    try:
        for step in range(first, first + count):
            save_step(Store.open(path).opened, state(step), step=step, branch=branch)
    except BaseException as error:
        errors.put(f"saver {branch}: {error!r}")
        raise


def _collector(path: str, stop: Any, errors: Any) -> None:
    try:
        while not stop.is_set():
            store = Store.open(path)
            for branch in store.branches():
                store.prune(Retention(keep_last=3, keep_every=4), branch=branch)
            collect(store.opened, grace=timedelta(0), wait=False)
            time.sleep(0.02)
    except BaseException as error:
        errors.put(f"collector: {error!r}")
        raise


def _reader(path: str, stop: Any, errors: Any) -> None:
    """Newest steps are read exactly; one that was pruned while it was read is gone, never wrong."""
    try:
        while not stop.is_set():
            opened = Store.open(path).opened
            for info in Store(opened).steps(None)[-3:]:
                try:
                    data = load_step(opened, info.step, info.branch)
                except (MissingObjectError, StepNotFoundError):
                    continue
                assert data == state_bytes(state(info.step)), f"{info.branch}:{info.step}"
            time.sleep(0.02)
    except BaseException as error:
        errors.put(f"reader: {error!r}")
        raise


def race(path: Path, branches: int, count: int, *, seconds: float) -> None:
    Store.create(path, chain="previous", block_elements=64, key_every=3)
    # The children are forks of one process that has loaded this module, which takes seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    stop, errors = context.Event(), context.Queue()
    savers = [
        context.Process(target=_saver, args=(str(path), f"b{n % branches}", 100 * (n // branches), count, errors))
        for n in range(2 * branches)
    ]
    others = [context.Process(target=target, args=(str(path), stop, errors)) for target in (_collector, _reader)]
    for process in [*others, *savers]:
        process.start()
    limit = time.monotonic() + seconds
    for process in savers:
        process.join(max(1.0, limit - time.monotonic()))
    stop.set()
    for process in others:
        process.join(60)
    assert errors.empty(), errors.get()
    assert [process.exitcode for process in [*savers, *others]] == [0] * (len(savers) + len(others))
    store = Store.open(path)
    for branch in store.branches():
        store.prune(Retention(keep_last=3, keep_every=4), branch=branch)
        saved = {*range(count), *range(100, 100 + count)}
        kept = {step for step in saved if step % 4 == 0} | set(sorted(saved)[-3:])
        assert kept <= {info.step for info in store.steps(branch)} <= saved
    for _ in range(2):
        collect(store.opened, grace=timedelta(0), wait=False)
    for info in store.steps(None):
        assert load_step(store.opened, info.step, info.branch) == state_bytes(state(info.step))
    assert set(all_objects(store.opened)) == read_listed(store.opened).objects()
    report = verify_store(store.opened, deep=True, threads=1)
    assert (report.ok, report.unreferenced_bytes) == (True, 0)


def test_savers_readers_and_a_collector_at_once(tmp_path: Path) -> None:
    race(tmp_path / "store", branches=1, count=4, seconds=60)


@pytest.mark.slow
def test_many_savers_readers_and_a_collector_at_once(tmp_path: Path) -> None:
    race(tmp_path / "store", branches=3, count=80, seconds=550)
