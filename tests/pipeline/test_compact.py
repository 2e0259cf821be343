"""Records that are still needed are copied out of packs that are little used; all steps stay as they are."""

from __future__ import annotations

import pytest

from deltackpt.api import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import BackendError, IncompleteSaveError, MissingObjectError
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import Manifest
from deltackpt.format.pending import Mark
from deltackpt.format.times import format_time
from deltackpt.pipeline.compact import compact_store
from deltackpt.pipeline.verify import verify_store
from deltackpt.store.marks import put_mark
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.store.pending import Announcement
from deltackpt.store.remove import remove_steps
from deltackpt.store.usage import all_objects, read_listed
from deltackpt.testing.arrays import State, load_manifest, load_step, save_step, state_bytes
from deltackpt.testing.faults import Fault, FaultyBackend, Kind, RecordingBackend
from tests.pipeline.helpers import audit, floats, keys


def state(step: int) -> State:
    """A small part never changes; the rest is new at every step."""
    return {
        "frozen": floats(16, 16, seed=7),
        "w": floats(64, 16, seed=100 + step),
        "v": floats(64, 16, seed=200 + step),
    }


def filled() -> OpenStore:
    """Steps 1 to 4. Of what step 1 wrote, only the frozen part is needed by those after it."""
    store = create_store(MemoryBackend(), StoreOptions(chain="previous", block_elements=64, pack_bytes=4096))
    for step in range(1, 5):
        save_step(store, state(step), step=step)
    return store


@pytest.fixture
def store() -> OpenStore:
    return filled()


def stored(store: OpenStore) -> int:
    return sum(all_objects(store).values())


def assert_whole(store: OpenStore, steps: list[int]) -> None:
    fresh = open_store(store.backend)
    assert [info.step for info in Store(fresh).steps()] == steps
    for step in steps:
        assert load_step(fresh, step) == state_bytes(state(step))
        audit(fresh, step)
    assert verify_store(fresh, deep=True, threads=1).ok


def test_packs_that_are_used_stay(store: OpenStore) -> None:
    before = set(all_objects(store))
    assert compact_store(store) == ()
    assert set(all_objects(store)) == before
    assert keys(store, "pending/") == set()


def test_what_is_needed_of_a_pruned_step_is_copied(store: OpenStore) -> None:
    remove_steps(store, [("main", 1)])
    Store(store).gc(grace=0, compact=False)
    little_used = stored(store)
    old = load_manifest(store, 2)
    report = Store(store).gc(grace=0)
    assert report.compacted == ("main:2", "main:3", "main:4")
    assert report.replaced == 3
    assert stored(store) < little_used
    assert_whole(store, [2, 3, 4])
    new = load_manifest(store, 2)
    assert [entry.identity for entry in new.indexes] == [entry.identity for entry in old.indexes]
    assert (new.header.created, new.header.metrics, new.header.distance) == (
        old.header.created,
        old.header.metrics,
        old.header.distance,
    )
    assert set(all_objects(store)) == read_listed(store).objects()
    # What was copied is used in full, and later saves build on it.
    assert Store(store).gc(grace=0).compacted == ()
    assert save_step(store, state(5), step=5).writer["duplicates"] == 4
    assert_whole(store, [2, 3, 4, 5])
    frozen = {entry.object for entry in new.indexes} & {entry.object for entry in load_manifest(store, 5).indexes}
    assert frozen


def test_a_base_that_was_compacted_meanwhile_still_serves(store: OpenStore) -> None:
    remove_steps(store, [("main", 1)])
    save = Announcement(store, "main", 5)
    old = load_manifest(store, 4)
    assert save.claim([old]) == [old]
    assert Store(store).gc(grace=0).compacted
    assert load_step(store, old) == state_bytes(state(4))
    save.withdraw()
    Store(store).gc(grace=0)
    Store(store).gc(grace=0)
    assert_whole(store, [2, 3, 4])
    assert set(all_objects(store)) == read_listed(store).objects()


def test_signed_steps_are_left_alone(store: OpenStore) -> None:
    remove_steps(store, [("main", 1)])
    for step in (2, 3, 4):
        store.backend.put(f"signatures/main/{step:012d}/000001/{'0' * 64}", b"x")
    assert compact_store(store) == ()


def test_steps_that_are_about_to_go_are_not_rewritten(store: OpenStore) -> None:
    remove_steps(store, [("main", 1)])
    put_mark(store, Mark(format_time(store.clock()), manifests=(load_manifest(store, 3).header.key,)))
    assert compact_store(store) == ()
    assert_whole(store, [2, 3, 4])


@pytest.mark.parametrize("gone_at", [1, 2])
def test_steps_that_are_pruned_meanwhile_are_no_error(
    store: OpenStore, monkeypatch: pytest.MonkeyPatch, gone_at: int
) -> None:
    """A step goes after it was listed, or after it was looked at."""
    remove_steps(store, [("main", 1)])
    reads: list[int] = []

    def manifest(self: OpenStore, key: StepKey) -> Manifest:
        if key.step == 3:
            reads.append(key.step)
            if len(reads) == gone_at:
                remove_steps(open_store(self.backend), [("main", 3)])
            if len(reads) >= gone_at:
                raise MissingObjectError("there is no such object", where=str(key))
        return read(self, key)

    read = OpenStore.manifest
    monkeypatch.setattr(OpenStore, "manifest", manifest)
    compact_store(store)
    monkeypatch.undo()
    assert len(reads) >= gone_at
    assert_whole(store, [2, 4])


@pytest.mark.parametrize("error", [BackendError, KeyboardInterrupt], ids=["error", "kill"])
def test_a_compaction_that_is_interrupted_anywhere(error: type[BaseException]) -> None:
    start = filled()
    remove_steps(start, [("main", 1)])
    recorder = RecordingBackend(_copy(start))
    compact_store(open_store(recorder))
    kinds: tuple[Kind, ...] = ("put", "put_if_absent", "delete")
    tried = 0
    for kind in kinds:
        for nth in range(1, recorder.count(kind) + 1):
            backend = _copy(start)
            faulty = FaultyBackend(backend, [Fault(kind, nth=nth, error=lambda: error("injected"))])
            if kind == "delete" and error is BackendError:
                compact_store(open_store(faulty))
            else:
                with pytest.raises((BackendError, KeyboardInterrupt)):
                    compact_store(open_store(faulty))
            assert faulty.struck == 1
            store = open_store(backend)
            for step in (2, 3, 4):
                assert load_step(store, step) == state_bytes(state(step))
            for found in keys(store, "pending/"):
                backend.delete(found)  # as when it has expired
            for _ in range(2):
                Store(store).gc(grace=0)
            assert set(all_objects(store)) == read_listed(store).objects()
            assert_whole(store, [2, 3, 4])
            tried += 1
    assert tried >= 5


def _copy(store: OpenStore) -> MemoryBackend:
    copy = MemoryBackend()
    for info in store.backend.list():
        copy.put(info.key, store.backend.get(info.key))
    return copy


def test_names_that_are_marked_are_not_put_again(store: OpenStore) -> None:
    name = load_manifest(store, 1).packs[0].name
    mark = put_mark(store, Mark(format_time(store.clock()), packs=(name,)))
    with pytest.raises(IncompleteSaveError, match="about to delete"):
        Announcement(store, "main", 9).claim_names([name])
    store.backend.delete(f"marks/{mark.id}")
    Announcement(store, "main", 9).claim_names([name, bytes(32)])
