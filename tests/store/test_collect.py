"""What gc deletes, what waits, and what it leaves."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from deltackpt.api import Store
from deltackpt.backend.local import LocalBackend
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import CorruptObjectError
from deltackpt.format.keys import StepKey, manifest_key
from deltackpt.format.pending import Mark
from deltackpt.format.times import format_time
from deltackpt.store.collect import GRACE, collect, find_garbage, mark_garbage
from deltackpt.store.marks import put_mark
from deltackpt.store.opened import OpenStore, create_store
from deltackpt.store.options import StoreOptions
from deltackpt.store.pending import LEASE, MARGIN, Announcement
from deltackpt.store.remove import MARK_LIFE, remove_steps
from deltackpt.store.usage import all_objects, read_listed
from deltackpt.testing.arrays import commit, load_manifest, load_step, save_step, state_bytes, write_step
from deltackpt.testing.faults import flip_bits
from tests.store.helpers import small_state

NONE = timedelta(0)


class Clock:
    now = datetime(2026, 6, 7, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> OpenStore:
    """Steps 1 to 3 of random numbers, which share nothing."""
    created = create_store(MemoryBackend(), StoreOptions(chain="previous", block_elements=64))
    opened = OpenStore(created.backend, created.config, clock=clock)
    for step in (1, 2, 3):
        save_step(opened, small_state(step), step=step)
    return opened


def objects(store: OpenStore) -> set[str]:
    return set(all_objects(store))


def keys(store: OpenStore, prefix: str) -> list[str]:
    return [found.key for found in store.backend.list(prefix)]


def test_what_pruned_steps_leave_goes(store: OpenStore) -> None:
    left = objects(store)
    assert collect(store, grace=NONE).deleted_objects == 0
    remove_steps(store, [("main", 2)])
    plan = collect(store, dry_run=True)
    assert objects(store) == left
    report = collect(store, grace=NONE)
    assert (report.deleted_objects, report.deleted_bytes) == (plan.deleted_objects, plan.deleted_bytes)
    assert report.deleted_objects == len(left) - len(objects(store)) > 0
    assert objects(store) == read_listed(store).objects()
    for step in (1, 3):
        assert load_step(store, step) == state_bytes(small_state(step))
    assert keys(store, "marks/") == []


def test_a_replaced_generation_goes(store: OpenStore) -> None:
    save_step(store, small_state(9), step=2)
    assert collect(store, dry_run=True).replaced == 1
    assert collect(store, grace=NONE).replaced == 1
    assert keys(store, "manifests/main/000000000002/") == [manifest_key(StepKey("main", 2, 2))]
    assert load_step(store, 2) == state_bytes(small_state(9))
    assert objects(store) == read_listed(store).objects()


def test_the_mark_of_a_removal_that_was_killed_keeps_nothing(store: OpenStore) -> None:
    save_step(store, small_state(9), step=2)
    replaced = StepKey("main", 2, 1)
    put_mark(store, Mark(created=format_time(store.clock()), manifests=(replaced,)))
    assert collect(store, grace=NONE).replaced == 1
    assert objects(store) == read_listed(store).objects()
    assert load_step(store, 2) == state_bytes(small_state(9))


def test_what_a_save_in_progress_wrote_or_builds_on_waits(store: OpenStore) -> None:
    receipts = write_step(store, small_state(3), step=4)
    before = objects(store)
    report = collect(store, grace=NONE)
    assert (report.deleted_objects, report.saves) == (0, 1)
    assert report.waiting_bytes > 0
    assert objects(store) == before
    commit(store, small_state(3), receipts, step=4)
    report = collect(store, grace=NONE)
    assert (report.waiting_objects, keys(store, "marks/")) == (0, [])
    assert load_step(store, 4) == state_bytes(small_state(3))


def test_a_save_that_began_after_the_mark_holds_nothing_up(store: OpenStore) -> None:
    remove_steps(store, [("main", 1)])
    garbage = find_garbage(store)
    assert mark_garbage(store, garbage) is not None
    assert mark_garbage(store, find_garbage(store)) is None  # it is marked already
    write_step(store, small_state(5), step=5)
    report = collect(store, grace=NONE, wait=False)
    assert report.deleted_objects == len(garbage.objects) > 0
    assert report.saves == 1


def test_objects_stay_for_the_grace_period(store: OpenStore, clock: Clock) -> None:
    remove_steps(store, [("main", 1)])
    assert collect(store, wait=False).deleted_objects == 0
    clock.now += GRACE - timedelta(seconds=1)
    waiting = collect(store, wait=False)
    assert (waiting.deleted_objects, waiting.waiting_objects > 0) == (0, True)
    clock.now += timedelta(seconds=1)
    assert collect(store, wait=False).deleted_objects == waiting.waiting_objects


def test_a_run_can_wait_for_that(store: OpenStore, clock: Clock) -> None:
    remove_steps(store, [("main", 1)])
    paused = []

    def pause(seconds: float) -> None:
        paused.append(seconds)
        clock.now += timedelta(seconds=seconds)

    assert collect(store, grace=timedelta(seconds=2.5), pause=pause).deleted_objects > 0
    assert paused == [1, 1, 0.5]


def test_a_damaged_manifest_stops_gc(store: OpenStore) -> None:
    """What it needs, nobody knows."""
    remove_steps(store, [("main", 1)])
    flip_bits(store.backend, manifest_key(StepKey("main", 2, 1)), -20)
    before = objects(store)
    with pytest.raises(CorruptObjectError):
        collect(store, grace=NONE)
    assert objects(store) == before


def test_a_saver_that_died_elsewhere_is_waited_for_until_its_time_is_over(store: OpenStore, clock: Clock) -> None:
    write_step(store, small_state(4), step=4)
    assert collect(store, grace=NONE).deleted_objects == 0
    clock.now += LEASE + MARGIN
    assert collect(store, grace=NONE).deleted_objects == 0
    clock.now += timedelta(seconds=1)
    report = collect(store, grace=NONE)
    assert report.deleted_objects > 0
    assert report.leftovers == 1
    assert keys(store, "pending/") == []


def test_marks_of_removals_that_were_killed_go(store: OpenStore, clock: Clock) -> None:
    base = load_manifest(store, 3)
    put_mark(store, Mark(format_time(clock()), manifests=(base.header.key,)))
    collect(store, grace=NONE)
    assert Announcement(store, "main", 4).claim([base]) == []
    clock.now += MARK_LIFE + MARGIN + timedelta(seconds=1)
    assert collect(store, grace=NONE).leftovers == 1
    assert load_step(store, 3) == state_bytes(small_state(3))
    assert Announcement(store, "main", 4).claim([base]) == [base]


def delete_manifests(store: OpenStore, step: int) -> None:
    for key in keys(store, f"manifests/main/{step:012d}/"):
        store.backend.delete(key)


def test_what_is_about_steps_that_are_gone_goes(store: OpenStore) -> None:
    for step in (1, 2):
        Store(store).tag(step, f"t{step}")
        Store(store).annotate(step, {"score": 1})
    pack = keys(store, "packs/")[0]
    for key in (manifest_key(StepKey("main", 1, 1)), manifest_key(StepKey("main", 2, 1)), pack):
        store.backend.put(f"parity/{key}", b"x")
    for step in (1, 2):
        store.backend.put(f"signatures/main/{step:012d}/000001/{'0' * 64}", b"x")
    delete_manifests(store, 1)
    collect(store, grace=NONE)
    assert keys(store, "tags/") == ["tags/t2"]
    assert len(keys(store, "notes/")) == 1
    assert keys(store, "signatures/") == [f"signatures/main/{2:012d}/000001/{'0' * 64}"]
    left = {f"parity/{manifest_key(StepKey('main', 2, 1))}"} | ({f"parity/{pack}"} if pack in objects(store) else set())
    assert set(keys(store, "parity/")) == left


@pytest.mark.parametrize("age", [0.0, 90_000.0])
def test_temporary_files_of_killed_writers_go(tmp_path: Path, age: float) -> None:
    opened = create_store(LocalBackend(tmp_path / "store", create=True), StoreOptions())
    save_step(opened, small_state(), step=1)
    temporary = tmp_path / "store" / "packs" / ".tmp-0123"
    temporary.write_bytes(b"half a pack")
    then = temporary.stat().st_mtime - age
    os.utime(temporary, (then, then))
    assert collect(opened, grace=NONE).leftovers == (1 if age else 0)
    assert temporary.exists() == (not age)
