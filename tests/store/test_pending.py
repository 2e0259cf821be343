"""The saver's side of the protocol: what it announces, and what it does not build on."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import BackendError, IncompleteSaveError
from deltackpt.format.keys import PENDING, StepKey, manifest_key, mark_key, pending_key
from deltackpt.format.pending import Mark
from deltackpt.store.collect import collect, find_garbage, mark_garbage
from deltackpt.store.marks import put_mark, read_marks
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.store.pending import LEASE, MARGIN, Announcement, has_ended, live_pendings, read_pendings
from deltackpt.store.process import Process, is_gone, own_process
from deltackpt.testing.arrays import commit, load_manifest, load_step, save_step, state_bytes, write_step
from deltackpt.testing.faults import Fault, FaultyBackend
from tests.store.helpers import small_state

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, time: timedelta) -> None:
        self.now += time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> OpenStore:
    created = create_store(MemoryBackend(), StoreOptions(block_elements=64))
    return OpenStore(created.backend, created.config, clock=clock)


def pendings(store: OpenStore) -> list[str]:
    return [found.key.removeprefix(PENDING) for found in store.backend.list(PENDING)]


def test_a_save_is_announced_with_its_base_until_it_is_committed(store: OpenStore) -> None:
    save_step(store, small_state(1), step=1)
    assert pendings(store) == []
    receipts = write_step(store, small_state(2), step=2, writers=2)
    assert sorted(receipt.pending.id for receipt in receipts) == pendings(store)
    for _, pending in live_pendings(store):
        assert (pending.branch, pending.step, pending.bases) == ("main", 2, (StepKey("main", 1, 1),))
    assert {store.index(receipt.index).header.pending for receipt in receipts} == set(pendings(store))
    commit(store, small_state(2), receipts, step=2)
    assert pendings(store) == []


def test_a_save_that_fails_takes_its_announcement_back(store: OpenStore) -> None:
    faulty = FaultyBackend(store.backend, [Fault("put", prefix="packs/")])
    with pytest.raises(BackendError, match="injected"):
        save_step(open_store(faulty), small_state(), step=1)
    assert pendings(store) == []


def test_a_commit_whose_fate_is_unknown_stays_announced(store: OpenStore) -> None:
    """The put may take effect yet: what the manifest lists must stay."""
    faults = [Fault("put_if_absent", prefix="manifests/")]
    with pytest.raises(BackendError, match="injected"):
        save_step(open_store(FaultyBackend(store.backend, faults)), small_state(), step=1)
    assert len(pendings(store)) == 1


def test_an_announcement_that_cannot_be_removed_is_no_failure(
    store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    save_step(open_store(FaultyBackend(store.backend, [Fault("delete")])), small_state(), step=1)
    assert load_step(store, 1) == state_bytes(small_state())
    assert "stays until it expires" in caplog.text
    assert len(pendings(store)) == 1


def test_nothing_is_built_on_what_is_marked(store: OpenStore, caplog: pytest.LogCaptureFixture) -> None:
    save_step(store, small_state(1), step=1)
    base = load_manifest(store, 1)
    mark = put_mark(store, Mark("2026-01-31T12:00:00Z", manifests=(base.header.key,)))
    assert [found.id for found in read_marks(store)] == [mark.id]
    assert Announcement(store, "main", 2).claim([base]) == []
    with caplog.at_level(logging.WARNING):
        header = save_step(store, small_state(1), step=2)
    assert "about to be deleted" in caplog.text
    assert header.is_key
    assert not {entry.object for entry in base.indexes} & {entry.object for entry in load_manifest(store, 2).indexes}
    store.backend.delete(mark_key(mark.id))
    assert Announcement(store, "main", 2).claim([base]) == [base]


def test_a_step_whose_objects_were_marked_before_it_was_committed_is_built_on(store: OpenStore) -> None:
    """gc looks again before it deletes: a save that it met in the middle does not cost the next one its base."""
    receipts = write_step(store, small_state(1), step=1)
    assert mark_garbage(store, find_garbage(store)) is not None
    commit(store, small_state(1), receipts, step=1)
    save_step(store, small_state(1), step=2)
    base = load_manifest(store, 1)
    assert {entry.object for entry in base.indexes} == {entry.object for entry in load_manifest(store, 2).indexes}
    # Only the index of the second save goes, which has no record of its own.
    assert collect(store, grace=timedelta(0)).deleted_objects == 1
    for step in (1, 2):
        assert load_step(store, step) == state_bytes(small_state(1))


def test_a_base_that_is_gone_or_another_one_now_is_not_built_on(store: OpenStore) -> None:
    save_step(store, small_state(1), step=1)
    base = load_manifest(store, 1)
    store.backend.delete(manifest_key(base.header.key))
    assert Announcement(store, "main", 2).claim([base]) == []
    save_step(store, small_state(1), step=1)
    assert Announcement(store, "main", 2).claim([base]) == []
    assert Announcement(store, "main", 2).claim([load_manifest(store, 1)]) == [load_manifest(store, 1)]


def test_later_claims_name_what_earlier_ones_did(store: OpenStore) -> None:
    for step in (1, 2):
        save_step(store, small_state(step), step=step)
    announcement = Announcement(store, "main", 3)
    for step in (2, 1):
        announcement.claim([load_manifest(store, step)])
    [(_, pending)] = live_pendings(store)
    assert pending.bases == (StepKey("main", 1, 1), StepKey("main", 2, 1))


def test_an_announcement_is_renewed_while_the_save_writes(store: OpenStore, clock: Clock) -> None:
    announcement = Announcement(store, "main", 1)
    announcement.claim()
    first = announcement.ticket.expires
    assert first == NOW + LEASE
    clock.pass_by(LEASE / 4)
    announcement.renew()
    assert announcement.ticket.expires == first
    clock.pass_by(LEASE / 2)
    announcement.renew()
    assert announcement.ticket.expires == clock.now + LEASE
    [(_, pending)] = live_pendings(store)
    assert datetime.fromisoformat(pending.expires) == clock.now + LEASE
    clock.pass_by(LEASE * 1.01)
    with pytest.raises(IncompleteSaveError, match="announced until"):
        announcement.renew()
    with pytest.raises(IncompleteSaveError, match="announced until"):
        announcement.extend()


def test_nothing_is_committed_past_its_time(store: OpenStore, clock: Clock) -> None:
    receipts = write_step(store, small_state(), step=1)
    clock.pass_by(LEASE + timedelta(seconds=1))
    with pytest.raises(IncompleteSaveError, match="announced until"):
        commit(store, small_state(), receipts, step=1)
    assert not list(store.backend.list("manifests/"))
    assert pendings(store) == []


class _Sleeper(MemoryBackend):
    """The process is stopped in the middle of its commit, for longer than it was announced."""

    def __init__(self, clock: Clock, drop: str | None) -> None:
        super().__init__()
        self._clock, self._drop = clock, drop

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> None:
        super().put_if_absent(key, data)
        if key.startswith("manifests/"):
            self._clock.pass_by(LEASE * 2)
            for found in self.list(self._drop or "nothing/"):
                self.delete(found.key)


@pytest.mark.parametrize("drop", ["packs/", "indexes/", None])
def test_a_commit_that_slept_is_taken_back_if_something_is_gone(clock: Clock, drop: str | None) -> None:
    created = create_store(_Sleeper(clock, drop), StoreOptions(block_elements=64))
    store = OpenStore(created.backend, created.config, clock=clock)
    if drop is None:
        save_step(store, small_state(), step=1)
        assert load_step(store, 1) == state_bytes(small_state())
    else:
        with pytest.raises(IncompleteSaveError, match="announced until"):
            save_step(store, small_state(), step=1)
        assert not list(store.backend.list("manifests/"))


def test_a_save_has_ended_when_its_time_is_long_over(store: OpenStore, clock: Clock) -> None:
    announcement = Announcement(store, "main", 1)
    announcement.claim()
    [(pending_id, pending)] = read_pendings(store)
    assert pending_key(pending_id) == pending_key(announcement.ticket.id)
    expires = NOW + LEASE
    assert not has_ended(pending, expires + MARGIN)
    assert has_ended(pending, expires + MARGIN + timedelta(milliseconds=1))
    clock.pass_by(LEASE + MARGIN * 2)
    assert list(live_pendings(store)) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_was_killed_is_gone() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; from deltackpt.store.process import own_process;"
         "p = own_process(); print(p.host); print(p.pid, p.started, flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    host, numbers = child.stdout.readline().rstrip("\n"), child.stdout.readline().split()
    process = Process(host, int(numbers[0]), int(numbers[1]))
    assert (process.host, process.pid) == (own_process().host, child.pid)
    assert not is_gone(process)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is dead, but its parent has not looked yet
    assert is_gone(process)
    child.communicate()
    assert is_gone(process)


def test_processes_that_cannot_be_judged_are_not_gone() -> None:
    own = own_process()
    assert not is_gone(own)
    assert not is_gone(Process("", 1, 0))
    assert not is_gone(Process("elsewhere", 1 << 21, 0))
    if own.host:
        assert is_gone(Process(own.host, own.pid, own.started + 1))
