"""Damaged objects are put back as they were, or it is said which steps that costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from deltackpt.backend.base import Backend
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import BackendError
from deltackpt.format.keys import INDEXES, MANIFESTS, PACKS, PARITY, pack_key, parity_key, parse_parity_key
from deltackpt.pipeline.protect import protect_store
from deltackpt.pipeline.repair import repair_store
from deltackpt.pipeline.verify import verify_store
from deltackpt.store.catalog import visible_steps
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import State, Stored, load_step, save_step, state_bytes
from deltackpt.testing.faults import Fault, FaultyBackend, flip_bits, truncate_object
from tests.pipeline.helpers import floats, near

DAMAGES: dict[str, Callable[[Backend, str], None]] = {
    "flipped": lambda backend, key: flip_bits(backend, key, 100, 0x10),
    "cut short": lambda backend, key: truncate_object(backend, key, -1),
}


def states() -> dict[int, State]:
    found: dict[int, State] = {}
    w = floats(64, 64)
    for step in range(3):
        found[step] = {"w": w, "frozen": floats(64, 16, seed=1)}
        w = near(w, seed=step)
    return found


def saved() -> OpenStore:
    store = create_store(MemoryBackend(), StoreOptions(block_elements=512))
    for step, state in states().items():
        save_step(store, state, step=step)
    return store


def contents(backend: Backend, *prefixes: str) -> dict[str, bytes]:
    return {info.key: backend.get(info.key) for prefix in prefixes for info in backend.list(prefix)}


def objects(backend: Backend) -> dict[str, bytes]:
    return contents(backend, PACKS, INDEXES, MANIFESTS)


def clone(store: OpenStore) -> OpenStore:
    backend = MemoryBackend()
    for key, data in contents(store.backend, "").items():
        backend.put(key, data)
    return open_store(backend)


def assert_exact(store: OpenStore, steps: set[int]) -> None:
    fresh = open_store(store.backend)
    assert {found.key.step for found in visible_steps(fresh)} == steps
    for step in steps:
        assert load_step(fresh, step) == state_bytes(states()[step])
    assert verify_store(fresh, deep=True, threads=1).ok


def test_a_whole_store_needs_no_repair() -> None:
    store = saved()
    before = contents(store.backend, "")
    report = repair_store(store)
    assert (report.ok, report.repaired, report.lost, report.dropped) == (True, (), (), ())
    assert report.checked == len(objects(store.backend))
    assert contents(store.backend, "") == before


def test_parity_is_made_once_for_every_object() -> None:
    store = saved()
    before = objects(store.backend)
    report = protect_store(store, 0.1, threads=2)
    assert (report.added, report.kept, report.damaged) == (len(before), 0, ())
    assert report.object_bytes == sum(map(len, before.values()))
    assert {parse_parity_key(info.key) for info in store.backend.list(PARITY)} == set(before)
    again = protect_store(store, 0.1, threads=2)
    assert (again.added, again.kept, again.parity_bytes) == (0, len(before), report.parity_bytes)
    assert objects(store.backend) == before


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("source", ["parity", "copy"])
def test_every_object_is_repaired(damage: str, source: str) -> None:
    store = saved()
    copy = clone(store)
    if source == "parity":
        protect_store(store, 0.2, threads=1)
    before = objects(store.backend)
    for key in before:
        DAMAGES[damage](store.backend, key)
        assert not verify_store(store, deep=True, threads=1).ok
        report = repair_store(store, other=copy if source == "copy" else None)
        assert [(done.key, done.source) for done in report.repaired] == [(key, source)]
        assert report.ok
        assert objects(store.backend) == before
    assert_exact(store, {0, 1, 2})


def test_objects_that_are_gone_come_from_the_other_store() -> None:
    store = saved()
    copy = clone(store)
    before = objects(store.backend)
    for prefix in (PACKS, INDEXES):
        for info in list(store.backend.list(prefix)):
            store.backend.delete(info.key)
    report = repair_store(store, other=copy)
    assert report.ok
    assert objects(store.backend) == before


def test_what_cannot_be_repaired_is_named_with_its_steps_and_kept() -> None:
    store = saved()
    first = min(info.key for info in store.backend.list(MANIFESTS))
    before = objects(store.backend)
    pack = next(key for key in before if key.startswith(PACKS) and key in _packs_of_all(store))
    flip_bits(store.backend, pack, 100)
    damaged = contents(store.backend, "")
    report = repair_store(store)
    assert not report.ok
    (lost,) = report.lost
    assert lost.key == pack
    assert set(lost.steps) == {"main:0", "main:1", "main:2"}
    assert "no parity" in lost.reason
    assert "no other store" in lost.reason
    assert contents(store.backend, "") == damaged
    assert first in damaged


def _packs_of_all(store: OpenStore) -> set[str]:
    from deltackpt.pipeline.damage import needed_objects

    needed = [set(needed_objects(store.manifest(found.key))) for found in visible_steps(store)]
    return set.intersection(*needed)


def test_steps_that_cannot_be_repaired_are_dropped_when_asked() -> None:
    store = saved()
    newest = max(info.key for info in store.backend.list(MANIFESTS))
    flip_bits(store.backend, newest, -3)
    report = repair_store(store, drop=True)
    assert report.dropped == ("main:2",)
    assert report.ok
    assert_exact(store, {0, 1})


def test_a_dropped_step_does_not_show_what_it_replaced() -> None:
    store = saved()
    save_step(store, states()[0], step=2)
    assert visible_steps(store)[-1].key.generation == 2
    flip_bits(store.backend, max(info.key for info in store.backend.list(MANIFESTS)), -3)
    assert repair_store(store, drop=True).dropped == ("main:2",)
    assert_exact(store, {0, 1})


def test_parity_of_a_damaged_object_is_refused() -> None:
    store = saved()
    key = next(info.key for info in store.backend.list(PACKS))
    flip_bits(store.backend, key, 50)
    report = protect_store(store, 0.1, threads=1)
    assert report.damaged == (key,)
    assert parity_key(key) not in contents(store.backend, PARITY)


def test_parity_put_for_another_object_changes_nothing() -> None:
    store = saved()
    protect_store(store, 0.2, threads=1)
    packs = [info.key for info in store.backend.list(PACKS)]
    store.backend.put(parity_key(packs[0]), store.backend.get(parity_key(packs[1])))
    flip_bits(store.backend, packs[0], 100)
    damaged = store.backend.get(packs[0])
    (lost,) = repair_store(store).lost
    assert lost.key == packs[0]
    assert store.backend.get(packs[0]) == damaged


def test_a_disk_that_fails_is_no_damage() -> None:
    store = saved()
    broken = open_store(FaultyBackend(store.backend, [Fault("get", nth=4, times=None)]))
    with pytest.raises(BackendError):
        repair_store(broken, drop=True)
    assert_exact(store, {0, 1, 2})


def test_a_repair_can_be_killed_and_run_again() -> None:
    reference = saved()
    before = objects(reference.backend)
    for nth in range(1, 4):
        store = clone(reference)
        protect_store(store, 0.5, threads=1)
        for info in list(store.backend.list(PACKS)):
            flip_bits(store.backend, info.key, 100)
        killed = FaultyBackend(store.backend, [Fault("put", nth=nth, error=KeyboardInterrupt)])
        with pytest.raises(KeyboardInterrupt):
            repair_store(open_store(killed))
        assert killed.struck == 1
        assert repair_store(store).ok
        assert objects(store.backend) == before


def frozen_and_moving() -> dict[int, State]:
    """A tensor that stays the same, in an artifact of its own, beside one that changes."""
    found: dict[int, State] = {}
    w = floats(64, 16)
    for step in range(4):
        found[step] = {"frozen": Stored(floats(64, 64, seed=1), artifact="other"), "w": w}
        w = near(w, seed=step)
    return found


def assert_holds(store: OpenStore, held: Mapping[int, State]) -> None:
    fresh = open_store(store.backend)
    for step, state in held.items():
        assert load_step(fresh, step) == state_bytes(state)
    assert verify_store(fresh, deep=True, threads=1).ok


@pytest.mark.parametrize("damage", ["flipped", "many", "cut short", "gone"])
def test_a_pack_is_rebuilt_from_equal_records_elsewhere(damage: str) -> None:
    held = frozen_and_moving()
    store = create_store(MemoryBackend(), StoreOptions("previous", key_every=8, block_elements=512))
    for step, state in held.items():
        save_step(store, state, step=step)
    save_step(store, {"frozen": held[0]["frozen"]}, step=0, branch="anew")
    before = objects(store.backend)
    pack = max((key for key in before if key.startswith(PACKS)), key=lambda key: len(before[key]))
    if damage == "flipped":
        flip_bits(store.backend, pack, 100)
    elif damage == "many":
        for offset in (2, 60, 3000, len(before[pack]) - 4):
            flip_bits(store.backend, pack, offset)
    elif damage == "cut short":
        truncate_object(store.backend, pack, 1000)
    else:
        store.backend.delete(pack)
    report = repair_store(store)
    if damage == "gone":  # with it went its random id: it cannot be what it was, but all its blocks are there
        assert report.repaired == ()
        assert report.rewritten
    else:
        assert [(done.key, done.source) for done in report.repaired] == [(pack, "duplicates")]
        assert objects(store.backend) == before
    assert (report.ok, report.lost, report.dropped) == (True, (), ())
    assert_holds(store, held)


def test_steps_are_written_anew_from_other_records_of_the_same_blocks() -> None:
    """A branch that began anew has the same content, as key records; on main it is deltas."""
    held = {step: {"w": state["w"]} for step, state in frozen_and_moving().items()}
    store = create_store(MemoryBackend(), StoreOptions("previous", key_every=8, block_elements=512))
    for step, state in held.items():
        save_step(store, state, step=step)
    alone = create_store(MemoryBackend(), StoreOptions("previous", key_every=1, block_elements=512))
    for step in (1, 2):
        save_step(alone, held[step], step=step, branch="copy")
    for key, data in contents(alone.backend, PACKS, INDEXES, MANIFESTS).items():
        store.backend.put(key, data)
    own = {step: _own_pack(store, step) for step in held}
    flip_bits(store.backend, own[1], 100)
    flip_bits(store.backend, own[2], 100)
    report = repair_store(store)
    # Step 3 needs the blocks of steps 1 and 2, which are elsewhere; its own are whole.
    assert report.rewritten == ("main:1", "main:2", "main:3")
    assert (report.ok, report.lost, report.repaired) == (True, (), ())
    assert_holds(store, held)
    assert load_step(open_store(store.backend), "copy:2") == state_bytes(held[2])
    # Of step 3 there is no other record: nothing is made up.
    flip_bits(store.backend, _own_pack(store, 3), 100)
    again = repair_store(store)
    assert (again.ok, again.rewritten, [lost.steps for lost in again.lost]) == (False, (), [("main:3",)])
    assert "the same blocks are not all in other packs" in again.lost[0].reason
    assert repair_store(store, drop=True).dropped == ("main:3",)
    assert_holds(store, {step: state for step, state in held.items() if step != 3})


def _own_pack(store: OpenStore, step: int) -> str:
    """The pack that the newest generation of a step of main wrote."""
    listed = {
        found.key.step: found.key for found in visible_steps(open_store(store.backend)) if found.key.branch == "main"
    }
    own = {pack.name for pack in store.manifest(listed[step]).packs}
    for before in range(step):
        own -= {pack.name for pack in store.manifest(listed[before]).packs}
    (name,) = own
    return pack_key(name)
