"""Damaged and missing objects: the right error in the right place, nothing else affected, and saving goes on."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable

import numpy as np
import pytest

from deltackpt.backend.base import Backend
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import CorruptObjectError, DeltackptError, MissingObjectError, TruncatedObjectError
from deltackpt.format.keys import StepKey, index_key, manifest_key, pack_key
from deltackpt.format.manifest import encode_manifest
from deltackpt.pipeline.load import load_bytes
from deltackpt.pipeline.verify import VerifyReport, verify_store
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.catalog import visible_steps
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import State, Stored, load_manifest, load_step, save_step, state_bytes
from deltackpt.testing.faults import Fault, FaultyBackend, flip_bits, overwrite_bytes, truncate_object
from tests.pipeline.helpers import blocks_of, check, floats, indexes_of, keys, near, own_index

Damage = Callable[[Backend, str], None]

DAMAGES: dict[str, tuple[Damage, type[DeltackptError]]] = {
    "flipped": (lambda backend, key: flip_bits(backend, key, 100, 0x10), CorruptObjectError),
    "flipped at the end": (lambda backend, key: flip_bits(backend, key, -3), CorruptObjectError),
    "cut short": (lambda backend, key: truncate_object(backend, key, 60), CorruptObjectError),
    "empty": (lambda backend, key: truncate_object(backend, key, 0), CorruptObjectError),
    "gone": (lambda backend, key: backend.delete(key), MissingObjectError),
}


def states() -> dict[int, State]:
    """Three steps of a tensor that changes, with one that stays; the second branch shares nothing with them."""
    found: dict[int, State] = {}
    w, data = floats(16, 16), Stored(np.arange(40, dtype=np.uint8), kind="object")
    for step in range(3):
        found[step] = {"w": w, "frozen": floats(8, 16, seed=1), "o": data}
        w = near(w, seed=step)
    return found


def saved() -> OpenStore:
    store = create_store(MemoryBackend(), StoreOptions("previous", block_elements=64))
    for step, state in states().items():
        save_step(store, state, step=step)
    save_step(store, {"x": floats(64)}, step=7, branch="other")
    return store


def intact(store: OpenStore) -> set[str]:
    """The steps that load exactly; the others raise an error of ours."""
    found = set()
    expected = {("main", step): state for step, state in states().items()} | {("other", 7): {"x": floats(64)}}
    for (branch, step), state in expected.items():
        fresh = open_store(store.backend)
        try:
            loaded = load_step(fresh, step, branch)
        except DeltackptError:
            continue
        assert loaded == state_bytes(state)
        found.add(f"{branch}:{step}")
    return found


def affected(report: VerifyReport, key: str) -> set[str]:
    return {name for problem in report.problems if key in problem.where for name in problem.affected}


ALL = {"main:0", "main:1", "main:2", "other:7"}


@pytest.mark.parametrize("name", DAMAGES)
def test_manifests(name: str) -> None:
    damage, error = DAMAGES[name]
    store = saved()
    key = manifest_key(StepKey("main", 1, 1))
    damage(store.backend, key)
    fresh = open_store(store.backend)
    if error is not MissingObjectError:
        with pytest.raises(error, match=key):
            load_step(fresh, 1)
        report = verify_store(store, deep=False, threads=1)
        assert affected(report, key) == {"main:1"}
        assert [problem.where for problem in report.problems] == [key]
    assert intact(store) == ALL - {"main:1"}


@pytest.mark.parametrize("name", DAMAGES)
def test_indexes(name: str) -> None:
    damage, error = DAMAGES[name]
    store = saved()
    key = index_key(load_manifest(store, 1).indexes[0].object)
    owner = {n for n in range(3) for entry in load_manifest(store, n).indexes if index_key(entry.object) == key}
    damage(store.backend, key)
    lost = {f"main:{step}" for step in owner}
    assert intact(store) == ALL - lost
    with pytest.raises(error, match=key):
        load_step(open_store(store.backend), max(owner))
    for deep in (False, True):
        report = verify_store(store, deep=deep, threads=1)
        assert affected(report, key) == lost


@pytest.mark.parametrize("name", DAMAGES)
def test_packs(name: str) -> None:
    """The pack of step 1: it takes the deltas of steps 1 and 2, but leaves what is in others."""
    damage, error = DAMAGES[name]
    store = saved()
    (pack,) = own_index(store, 1).location.packs
    key = pack_key(pack.name)
    damage(store.backend, key)
    in_footer = name == "flipped at the end"
    lost = set() if in_footer else {"main:1", "main:2"}
    assert intact(store) == ALL - lost
    for step in (1, 2) if lost else ():
        with pytest.raises(error, match=rf"{key}.*; needed for w of step main:{step}") as caught:
            load_step(open_store(store.backend), step)
        if name != "gone":
            assert caught.value.offset is not None
    shallow = verify_store(store, deep=False, threads=1)
    found_by_size = name in ("cut short", "empty", "gone")
    assert affected(shallow, key) == ({"main:1", "main:2"} if found_by_size else set())
    assert shallow.ok != found_by_size
    deep = verify_store(store, deep=True, threads=2)
    assert not deep.ok
    tensors = {f"{step} w" for step in lost}
    assert affected(deep, key) == tensors | (lost if found_by_size else set())
    # The tensor that stayed is in another pack, and can still be had.
    assert load_one(store, 2, "frozen") == state_bytes(states()[2])["frozen"]


def load_one(store: OpenStore, step: int, fqn: str) -> bytes:
    fresh = open_store(store.backend)
    return load_bytes(fresh, load_manifest(fresh, step), fqn, threads=1).tobytes()


def test_every_byte_of_a_pack_is_under_a_hash() -> None:
    """Wherever a bit flips, loading is exact or fails, and a deep verification finds it."""
    store = saved()
    (pack,) = own_index(store, 1).location.packs
    key = pack_key(pack.name)
    for at in range(0, pack.size, 37):
        flip_bits(store.backend, key, at, 0x04)
        assert ALL - {"main:1", "main:2"} <= intact(store)
        report = verify_store(store, deep=True, threads=1)
        assert not report.ok
        flip_bits(store.backend, key, at, 0x04)
    assert verify_store(store, deep=True, threads=1).ok


def test_errors_say_which_byte() -> None:
    store = saved()
    index = own_index(store, 1)
    key = pack_key(index.location.packs[0].name)
    row = 2
    offset = int(index.location.offset[row])
    flip_bits(store.backend, key, offset + 50)
    with pytest.raises(CorruptObjectError, match=rf"{key}, byte {offset}: the record's checksum") as caught:
        load_step(open_store(store.backend), 1)
    assert (caught.value.where, caught.value.offset) == (key, offset)
    report = verify_store(store, deep=True, threads=1)
    places = {(problem.where, problem.offset): problem for problem in report.problems}
    assert set(places[key, offset].affected) == {"main:1 w", "main:2 w"}
    assert places[key, None].affected == ()
    truncate_object(store.backend, key, offset + 10)
    with pytest.raises(TruncatedObjectError, match=re.escape(key)):
        load_step(open_store(store.backend), 1)


def test_a_record_in_the_place_of_another() -> None:
    """Each is intact in itself."""
    store = create_store(MemoryBackend(), StoreOptions("previous", block_elements=64))
    noise = np.random.default_rng(0).integers(0, 256, 128, dtype=np.uint8)
    save_step(store, {"x": noise}, step=1)
    index = own_index(store, 1)
    key = pack_key(index.location.packs[0].name)
    lengths = index.location.length.tolist()
    one, other = 0, 1
    assert lengths[one] == lengths[other]
    data = store.backend.get(key)
    places = [slice(int(index.location.offset[r]), int(index.location.offset[r]) + lengths[r]) for r in (one, other)]
    overwrite_bytes(store.backend, key, places[0].start, data[places[1]])
    with pytest.raises(CorruptObjectError, match="another record than the index says"):
        load_step(open_store(store.backend), 1)


class _WrongOnce(MemoryBackend):
    """Flips a bit of what the first read of a pack gives, as failing memory would."""

    wrong = ""

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        data = bytearray(super().get(key, start, length))
        if key == self.wrong:
            self.wrong = ""
            data[-3] ^= 0x10
        return bytes(data)


def test_what_only_others_are_decoded_from_is_not_trusted(caplog: pytest.LogCaptureFixture) -> None:
    """Only the last block of a chain is hashed: that is enough to see a wrong byte of the first."""
    backend = _WrongOnce()
    store = create_store(backend, StoreOptions("previous", block_elements=64))
    for step, state in states().items():
        save_step(store, {"w": state["w"]}, step=step)
    first = own_index(store, 0).location
    (pack,) = {pack_key(info.name) for info in first.packs}
    backend.wrong = pack
    assert load_step(open_store(backend), 2) == state_bytes({"w": states()[2]["w"]})
    assert "right when it was read and decoded again" in caplog.text
    flip_bits(backend, pack, int(first.offset[1] + first.length[1]) - 3)
    with pytest.raises(CorruptObjectError, match="needed for w of step main:2") as caught:
        load_step(open_store(backend), 2)
    assert (caught.value.where, caught.value.offset) == (pack, int(first.offset[1]))


def test_the_same_store_object_sees_damage_that_came_later() -> None:
    """Verification trusts nothing that the process remembers."""
    store = saved()
    for step in range(3):
        load_step(store, step)
    index = index_key(load_manifest(store, 2).indexes[0].object)
    flip_bits(store.backend, index, 50)
    flip_bits(store.backend, manifest_key(StepKey("other", 7, 1)), 50)
    report = verify_store(store, deep=False, threads=1)
    assert affected(report, index)
    assert affected(report, "manifests/other") == {"other:7"}


def test_verification_goes_on_where_the_backend_fails() -> None:
    """A bad sector is what it is there to find."""
    store = saved()
    for prefix in ("manifests/main/000000000001", "indexes/", "packs/"):
        backend = FaultyBackend(store.backend, [Fault("get", prefix=prefix)])
        report = verify_store(OpenStore(backend, store.config), deep=True, threads=1)
        assert backend.struck == 1
        assert [problem.kind for problem in report.problems] == ["backend"]
    backend = FaultyBackend(store.backend, [Fault("list")])
    with pytest.raises(DeltackptError, match="injected"):
        verify_store(OpenStore(backend, store.config), deep=False, threads=1)


def test_a_sound_store() -> None:
    store = saved()
    objects = keys(store, "packs/") | keys(store, "indexes/")
    for deep in (False, True):
        seen: list[tuple[int, int]] = []
        report = verify_store(store, deep=deep, threads=3, progress=lambda *done, seen=seen: seen.append(done))
        assert report.ok
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert (report.steps, report.indexes + report.packs) == (4, len(objects))
        rows = sum(own_index(store, step).rows for step in range(3)) + 1
        assert report.records == (rows if deep else 0)
        assert report.unreferenced_bytes == 0
    store.backend.put("packs/ff/" + "ff" * 32, b"left by a save that failed")
    assert verify_store(store, deep=True, threads=1).unreferenced_bytes == 26


def test_a_manifest_that_does_not_list_all_that_it_needs() -> None:
    """Nobody writes such a manifest; a deletion that trusted its list would destroy the step."""
    store = saved()
    manifest = load_manifest(store, 2)
    key = manifest_key(manifest.header.key)
    for wrong in (
        dataclasses.replace(manifest, packs=manifest.packs[1:]),
        dataclasses.replace(manifest, packs=manifest.packs[:-1]),
    ):
        store.backend.put(key, encode_manifest(wrong))
        report = verify_store(store, deep=False, threads=1)
        assert [problem.message for problem in report.problems] == ["the manifest does not list a pack that it needs"]
        assert report.problems[0].affected == ("main:2",)


# Saving on a damaged base


@pytest.mark.parametrize(
    ("what", "name"),
    [
        (what, name)
        for what in ("manifest", "index", "older index", "pack", "older pack")
        for name in DAMAGES
        # Without its manifest there is no such step.
        if (what, name) != ("manifest", "gone")
    ],
)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_save_does_without_a_damaged_base(name: str, what: str, warm: bool, caplog: pytest.LogCaptureFixture) -> None:
    """It succeeds, is exact, says in the log what it missed, and needs nothing of what is damaged."""
    store = create_store(MemoryBackend(), StoreOptions("previous", block_elements=64))
    cache = BaseCache(0)
    for step, state in states().items():
        save_step(store, state, step=step, cache=cache, base_memory=1 << 20)
    # Of the index or pack with the blocks that change; what stays lies in those of step 0.
    older = 1 if what.startswith("older") else 2
    index = own_index(store, older)
    key = {
        "manifest": manifest_key(StepKey("main", 2, 1)),
        "index": next(index_key(e.object) for e in load_manifest(store, 2).indexes if e.identity == index.digest),
        "pack": pack_key(index.location.packs[0].name),
    }[what.rsplit(maxsplit=1)[-1]]
    DAMAGES[name][0](store.backend, key)
    final: State = {**states()[2], "w": near(near(floats(16, 16), seed=1), seed=9)}
    with caplog.at_level(logging.WARNING, "deltackpt"):
        opened = open_store(store.backend)
        header = save_step(opened, final, step=3, cache=cache if warm else BaseCache(0), base_memory=1 << 20)
    if what.endswith("pack") and (name == "flipped at the end" or (warm and name == "flipped")):
        # The damage is where no record is, or the base was in memory and its pack is as long as it was: nothing was
        # missed.
        assert caplog.records == []
        return
    assert len(caplog.records) == 1
    assert key in caplog.text
    assert load_step(open_store(store.backend), 3) == state_bytes(final)
    problems = verify_store(store, deep=True, threads=1).problems
    assert not any(lost.startswith("main:3") for problem in problems for lost in problem.affected)
    # A flip is in one record, and the other blocks go on.
    assert header.depth == (4 if "pack" in what and name == "flipped" else 1)
    assert header.writer["duplicates"] == (0 if what == "manifest" else 3)
    # And the run goes on from there, with deltas.
    later: State = {**final, "w": near(final["w"], seed=7)}  # type: ignore[arg-type]
    assert save_step(open_store(store.backend), later, step=4).depth == header.depth + 1
    assert load_step(open_store(store.backend), 4) == state_bytes(later)


def test_one_damaged_record_costs_one_block(caplog: pytest.LogCaptureFixture) -> None:
    store = create_store(MemoryBackend(), StoreOptions("previous", block_elements=64))
    for step, state in states().items():
        save_step(store, state, step=step)
    index = own_index(store, 2)
    key = pack_key(index.location.packs[0].name)
    flip_bits(store.backend, key, int(index.location.offset[1]) + 45)
    final: State = {**states()[2], "w": near(states()[2]["w"])}  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "deltackpt"):
        save_step(open_store(store.backend), final, step=3)
    assert len(caplog.records) == 1
    assert own_index(store, 3).identity.depth.tolist() == [4, 1, 4, 4]
    assert load_step(open_store(store.backend), 3) == state_bytes(final)


def test_a_damaged_base_in_memory_is_not_used(store: OpenStore) -> None:
    cache = BaseCache(0)
    w = floats(8, 16)
    save_step(store, {"w": w}, step=1, cache=cache, base_memory=1 << 20)
    for held in cache._held.values():
        held.block[5] ^= 0x20
    header = save_step(store, {"w": near(w)}, step=2, cache=cache, base_memory=1 << 20)
    assert (header.writer["bases_cached"], header.writer["bases_decoded"]) == (0, 2)
    assert cache.stats().damaged == 2
    check(store, {1: {"w": w}, 2: {"w": near(w)}})


def test_an_unchanged_block_whose_record_is_damaged_is_written_anew() -> None:
    """Its address is the same, but a reference to it would be a reference to nothing."""
    store = create_store(MemoryBackend(), StoreOptions("previous", block_elements=64))
    state: State = {"w": floats(4, 16), "tied": floats(4, 16)}
    save_step(store, state, step=1)
    index = own_index(store, 1)
    assert index.rows == 1
    flip_bits(store.backend, pack_key(index.location.packs[0].name), 80)
    save_step(open_store(store.backend), state, step=2)
    assert own_index(store, 2).rows == 1
    manifest = load_manifest(store, 2)
    assert blocks_of(manifest, "w") == blocks_of(manifest, "tied")
    check(store, {2: state})
    assert [step.key.step for step in visible_steps(store)] == [1, 2]
    assert len(indexes_of(store, manifest)) == 1
