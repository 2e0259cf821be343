from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable

import numpy as np
import pytest

from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import (
    BackendError,
    CommitConflictError,
    CorruptObjectError,
    DeltackptError,
    IncompleteSaveError,
    MissingObjectError,
)
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.index import Index, decode_index, encode_index, make_index
from deltackpt.format.keys import StepKey, index_key, manifest_key, pending_key
from deltackpt.format.manifest import ArtifactTotals
from deltackpt.store.catalog import visible_steps
from deltackpt.store.commit import next_generation
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.store.receipt import WriterReceipt
from deltackpt.testing.arrays import (
    State,
    Stored,
    commit,
    load_manifest,
    load_step,
    save_step,
    split,
    state_bytes,
    write_step,
)
from deltackpt.testing.faults import Fault, FaultyBackend, flip_bits, truncate_object


def sharded(seed: int = 0, parts: int = 4) -> State:
    values = np.random.default_rng(seed).standard_normal((40, 8)).astype(np.float32)
    return {"w": Stored(values, boxes=split(values.shape, parts)), "empty": np.zeros((0, 3), np.float32)}


def steps(store: OpenStore) -> list[tuple[int, int]]:
    return [(step.key.step, step.key.generation) for step in visible_steps(store)]


def reput(store: OpenStore, receipt: WriterReceipt, change: Callable[[Index], Index]) -> WriterReceipt:
    """The receipt of a writer that wrote another index."""
    data = encode_index(change(decode_index(store.backend.get(index_key(receipt.index)), source="test")))
    name = blake3_digest(data)
    store.backend.put(index_key(name), data)
    return dataclasses.replace(receipt, index=name, index_bytes=len(data))


def test_the_header_says_what_is_there(store: OpenStore) -> None:
    rng = np.random.default_rng(0)
    state: State = {
        "w": rng.standard_normal((8, 16)).astype(np.float32),
        "m": Stored(rng.standard_normal((8, 16)), artifact="optim", role="exp_avg"),
        "o": Stored(np.arange(100, dtype=np.uint8), artifact="train", kind="object"),
    }
    first = save_step(store, state, step=5, metrics={"loss": 1.5, "bad": math.nan, "tag": "a", "none": None})
    assert (first.key, first.parent, first.is_key, first.depth) == (StepKey("main", 5, 1), None, True, 1)
    assert (first.metrics["loss"], first.metrics["tag"], first.metrics["none"]) == (1.5, "a", None)
    assert math.isnan(first.metrics["bad"])  # type: ignore[arg-type]

    sizes = {info.key: info.size for info in store.backend.list()}
    packs = sum(size for key, size in sizes.items() if key.startswith("packs/"))
    assert first.stored_bytes == packs + sum(size for key, size in sizes.items() if key.startswith("indexes/"))
    assert sum(total.stored_bytes for total in first.artifacts.values()) == packs
    raw = {"model": 512, "optim": 1024, "train": 100}
    assert {name: total.raw_bytes for name, total in first.artifacts.items()} == raw
    assert {total.entries for total in first.artifacts.values()} == {1}
    assert first.raw_bytes == sum(raw.values())
    manifest = load_manifest(store, 5)
    lengths = [store.index(entry.object).location.length.sum() for entry in manifest.indexes]
    assert first.restore_bytes == sum(lengths)
    assert len(manifest.packs) == 3

    changed = {**state, "w": state["w"] * np.float32(1.0001)}  # type: ignore[operator]
    second = save_step(store, changed, step=7)
    assert (second.parent, second.chain_key, second.distance, second.depth) == (first.key, ("main", 5), 1, 2)
    assert second.artifacts["optim"] == ArtifactTotals(1024, 0, 1)
    assert second.artifacts["model"].stored_bytes > 0
    assert (second.writer["writers"], second.writer["duplicates"]) == (1, 4)
    assert first.restore_bytes < second.restore_bytes < first.restore_bytes + second.stored_bytes


def test_an_empty_step(store: OpenStore) -> None:
    header = save_step(store, {}, step=1)
    assert (header.raw_bytes, header.depth, header.is_key, header.artifacts) == (0, 1, True, {})
    assert load_step(store, 1) == {}
    manifest = load_manifest(store, 1)
    assert (manifest.indexes, manifest.packs) == ((), ())


def test_no_writers_at_all(store: OpenStore) -> None:
    commit(store, {}, [], step=1)
    assert load_step(store, 1) == {}


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_writer_is_missing(store: OpenStore, missing: int) -> None:
    save_step(store, sharded(), step=1, writers=3)
    state = sharded(seed=1, parts=3)
    receipts = write_step(store, state, step=2, writers=3)
    del receipts[missing]
    with pytest.raises(IncompleteSaveError, match=r"no writer saved the part of (w|empty) at offsets"):
        commit(store, state, receipts, step=2)
    assert steps(store) == [(1, 1)]
    assert load_step(store, 1) == state_bytes(sharded())


def test_a_shard_is_missing_or_too_many(store: OpenStore) -> None:
    state = sharded()
    values = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    fewer = {**state, "w": Stored(values, boxes=split(values.shape, 4)[:3])}
    with pytest.raises(IncompleteSaveError, match=r"part of w at offsets \[30, 0\]"):
        commit(store, state, write_step(store, fewer, step=1), step=1)
    with pytest.raises(IncompleteSaveError, match=r"part of b .* was saved but not planned"):
        commit(store, state, write_step(store, {**state, "b": values}, step=1), step=1)
    with pytest.raises(IncompleteSaveError, match="two writers saved the same part of"):
        commit(store, state, [*write_step(store, state, step=1)] * 2, step=1)
    assert steps(store) == []


def test_another_dtype_or_shape_than_planned(store: OpenStore) -> None:
    values = np.zeros((8, 8), np.float32)
    for other in (values.astype(np.float64), values[:4]):
        with pytest.raises(DeltackptError):
            commit(store, {"w": values}, write_step(store, {"w": other}, step=1), step=1)
    with pytest.raises(DeltackptError, match="number of blocks"):
        commit(open_store_with(store, 32), {"w": values}, write_step(store, {"w": values}, step=1), step=1)
    assert steps(store) == []


def open_store_with(store: OpenStore, block_elements: int) -> OpenStore:
    return OpenStore(store.backend, store.config, StoreOptions(block_elements=block_elements))


def test_two_savers_of_one_step(store: OpenStore) -> None:
    one, other = sharded(1), sharded(2)
    first, second = write_step(store, one, step=3), write_step(store, other, step=3)
    generation = next_generation(store, "main", 3)
    commit(store, one, first, step=3, generation=generation)
    before = {info.key: store.backend.get(info.key) for info in store.backend.list()}
    announced = {pending_key(receipt.pending.id) for receipt in second}
    assert announced < set(before)
    with pytest.raises(CommitConflictError, match=r"somebody else committed step main:3 .*overwrite=True"):
        commit(store, other, second, step=3, generation=generation)
    after = {info.key: store.backend.get(info.key) for info in store.backend.list()}
    assert after == {key: data for key, data in before.items() if key not in announced}
    assert load_step(store, 3) == state_bytes(one)
    commit(store, other, second, step=3)
    assert load_step(store, 3) == state_bytes(other)


def test_an_overwrite_is_a_new_generation_and_readers_of_the_old_one_go_on(store: OpenStore) -> None:
    save_step(store, sharded(0), step=1)
    save_step(store, sharded(1), step=2)
    old = load_manifest(store, 2)
    child = sharded(1)
    save_step(store, child, step=3)
    assert next_generation(store, "main", 2) == 2
    header = save_step(store, sharded(9), step=2)
    assert (header.key.generation, header.parent) == (2, StepKey("main", 1, 1))
    assert steps(store) == [(1, 1), (2, 2), (3, 1)]
    fresh = open_store(store.backend)
    assert load_step(fresh, old) == state_bytes(sharded(1))
    assert load_step(fresh, 2) == state_bytes(sharded(9))
    assert load_step(fresh, 3) == state_bytes(child)
    # History may be removed, lowest first.
    store.backend.delete(manifest_key(old.header.key))
    assert load_step(open_store(store.backend), 2) == state_bytes(sharded(9))
    assert load_step(open_store(store.backend), 3) == state_bytes(child)


def test_a_lost_answer_to_the_commit(store: OpenStore) -> None:
    backend = FaultyBackend(store.backend, [Fault("put_if_absent", when="after")])
    save_step(open_store(backend), sharded(), step=1)
    assert backend.struck == 1
    assert load_step(store, 1) == state_bytes(sharded())


def test_a_failed_commit(store: OpenStore) -> None:
    backend = FaultyBackend(store.backend, [Fault("put_if_absent", when="before")])
    with pytest.raises(BackendError, match="injected"):
        save_step(open_store(backend), sharded(), step=1)
    assert steps(store) == []


def test_references_that_no_base_explains(store: OpenStore) -> None:
    save_step(store, sharded(), step=1)
    (receipt,) = write_step(store, sharded(), step=2)

    def without_bases(index: Index) -> Index:
        assert index.identity.refs
        header = dataclasses.replace(index.header, bases=())
        return make_index(header, index.identity, index.location, index.placement)

    with pytest.raises(IncompleteSaveError, match="which none of its bases holds"):
        commit(store, sharded(), [reput(store, receipt, without_bases)], step=2)
    assert steps(store) == [(1, 1)]


def test_a_base_that_was_deleted_meanwhile(store: OpenStore) -> None:
    save_step(store, sharded(), step=1)
    receipts = write_step(store, sharded(), step=2)
    store.backend.delete(manifest_key(StepKey("main", 1, 1)))
    with pytest.raises(MissingObjectError):
        commit(open_store(store.backend), sharded(), receipts, step=2)
    assert steps(store) == []


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda backend, key: flip_bits(backend, key, 40), CorruptObjectError),
        (lambda backend, key: truncate_object(backend, key, 40), CorruptObjectError),
        (lambda backend, key: backend.delete(key), MissingObjectError),
    ],
)
def test_an_index_that_did_not_arrive(
    store: OpenStore, damage: Callable[[object, str], None], error: type[DeltackptError]
) -> None:
    receipts = write_step(store, sharded(), step=1, writers=2)
    damage(store.backend, index_key(receipts[1].index))
    with pytest.raises(error, match=receipts[1].index.hex()):
        commit(store, sharded(), receipts, step=1)
    assert steps(store) == []


def test_writers_that_wrote_the_same_have_one_identity() -> None:
    """Two ranks whose shards are equal block for block: their indexes differ in nothing but places."""
    store = create_store(MemoryBackend(), StoreOptions(block_elements=16))
    values = np.concatenate([np.arange(64, dtype=np.float32)] * 2).reshape(32, 4)
    for step in (1, 2, 3):
        state = {"w": Stored(values * np.float32(step), boxes=split(values.shape, 2))}
        save_step(store, state, step=step, writers=2)
        assert load_step(open_store(store.backend), step) == state_bytes(state)
        manifest = load_manifest(store, step)
        assert len({entry.identity for entry in manifest.indexes}) == len(manifest.indexes)


def test_a_writer_that_sees_another_artifact_than_the_coordinator(store: OpenStore) -> None:
    """Each rank classifies by what it holds; a checkpoint must not fail for that."""
    values = np.arange(50, dtype=np.float32)
    receipts = write_step(store, {"x": Stored(values, artifact="optim")}, step=1)
    header = commit(store, {"x": values}, receipts, step=1)
    assert header.artifacts["model"] == ArtifactTotals(200, 0, 1)
    assert header.artifacts["optim"].stored_bytes > 0
    assert load_step(open_store(store.backend), 1) == {"x": values.tobytes()}


def test_the_step_before_cannot_be_read(store: OpenStore, caplog: pytest.LogCaptureFixture) -> None:
    """One damaged manifest must not stop a run from saving."""
    for step in (1, 2):
        save_step(store, sharded(step), step=step)
    flip_bits(store.backend, manifest_key(StepKey("main", 2, 1)), 50)
    opened = open_store(store.backend)
    with caplog.at_level(logging.WARNING, "deltackpt"):
        header = save_step(opened, sharded(3), step=3)
    assert "manifests/main/000000000002/000001" in caplog.text
    assert (header.parent, header.is_key, header.depth) == (StepKey("main", 2, 1), True, 1)
    assert load_step(opened, 3) == state_bytes(sharded(3))
    assert load_step(opened, 1) == state_bytes(sharded(1))
    header = save_step(opened, sharded(3), step=4)
    assert header.parent == StepKey("main", 3, 1)
    assert header.writer["duplicates"] == 8


def test_deltas_whose_parent_was_damaged_before_the_commit(store: OpenStore) -> None:
    """The chain is then told from the bases that the writers really used."""
    near = {"w": np.arange(64, dtype=np.float32).reshape(8, 8)}
    save_step(store, near, step=1)
    next_state = {"w": near["w"] + np.float32(0.001)}
    receipts = write_step(store, next_state, step=2)
    store.backend.put("manifests/main/000000000001/000002", b"damaged")
    header = commit(open_store(store.backend), next_state, receipts, step=2)
    assert (header.depth, header.distance, header.chain_key) == (2, 1, ("main", 1))
    assert load_step(open_store(store.backend), 2) == state_bytes(next_state)


def test_writers_that_used_another_base_than_the_coordinator_sees(store: OpenStore) -> None:
    near = {"w": np.arange(64, dtype=np.float32).reshape(8, 8)}
    save_step(store, near, step=1)
    late = {"w": near["w"] + np.float32(0.001)}
    receipts = write_step(store, late, step=9)
    save_step(store, {"w": near["w"] * 3}, step=5)
    header = commit(store, late, receipts, step=9)
    assert header.parent == StepKey("main", 5, 1)
    assert header.depth == 2
    assert load_step(open_store(store.backend), 9) == state_bytes(late)
