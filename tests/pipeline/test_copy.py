"""Steps in another store: the same, with all that is known of them, and nothing half there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from deltackpt import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import (
    BackendError,
    CorruptObjectError,
    MissingObjectError,
    StepExistsError,
    StepNotFoundError,
    TensorNotFoundError,
)
from deltackpt.store.opened import OpenStore
from deltackpt.store.signing_keys import make_keys
from deltackpt.testing.faults import Fault, FaultyBackend, RecordingBackend
from tests.dcp.states import State, new_store, save_state
from tests.formats.imported import contents, import_folder, olmo_folder
from tests.formats.values import identical


def a_state(step: int) -> State:
    weight = torch.linspace(0, 1, 4000).sin().reshape(100, 40) + 1e-6 * step
    return {"model": {"w": weight, "b": weight[0] * 2}, "optim": {"m": weight / 3}, "train": {"step": step}}


def a_run(store: Store | None = None) -> Store:
    """Steps 1 to 6 in chains of three, and a branch that starts at step 4."""
    store = store or new_store(key_every=3, block_elements=1000, chain="previous")
    for step in range(1, 7):
        save_state(store, step, a_state(step), metrics={"loss": 1 / step})
    store.branch("tuned", at=4)
    save_state(store, 5, a_state(50), branch="tuned")
    store.tag(3, "third")
    store.annotate(3, {"mmlu": 0.5})
    return store


def same_steps(one: Store, other: Store) -> None:
    for info in other.steps(None):
        name = f"{info.branch}:{info.step}"
        assert identical(one.step(name).load(), other.step(name).load()), name
        mine = one.step(name).info
        assert (mine.created, mine.metrics, mine.parent) == (info.created, info.metrics, info.parent)


def test_a_whole_store(tmp_path: Path) -> None:
    source, target = a_run(), new_store(key_every=2)
    report = source.copy_to(target)
    assert [(s.branch, s.step, s.how) for s in report.steps] == [
        *(("main", step, "objects") for step in range(1, 7)),
        ("tuned", 5, "objects"),
    ]
    assert len(target.steps(None)) == 7
    same_steps(source, target)
    assert target.verify(deep=True).ok
    assert target.step("tag:third").key.step == 3
    assert target.steps()[2].metrics == source.steps()[2].metrics == {"loss": 1 / 3, "mmlu": 0.5}
    packs = [found.key for found in source.opened.backend.list("packs/")]
    assert [found.key for found in target.opened.backend.list("packs/")] == packs
    # The line goes on there.
    save_state(target, 7, a_state(7))
    save_state(target, 6, a_state(51), branch="tuned")
    assert target.step(7).info.parent == "main:6"


def test_steps_whose_bases_stay_behind_are_encoded_anew() -> None:
    source, target = a_run(), new_store()
    report = source.copy_to(target, ["2..3", 5, "tag:third", "tuned:latest"])
    assert [(s.branch, s.step, s.how) for s in report.steps] == [
        ("main", 2, "encoded"),
        ("main", 3, "encoded"),
        ("main", 5, "encoded"),
        ("tuned", 5, "encoded"),
    ]
    assert len(target.steps(None)) == 4
    same_steps(source, target)
    assert target.verify(deep=True).ok
    # Nothing of the steps that stayed behind came along: fewer bytes than the chain from its key step on has.
    chain = sum(found.size for found in source.opened.backend.list("packs/"))
    assert sum(found.size for found in target.opened.backend.list("packs/")) < chain


def test_a_chain_from_its_key_step_on_goes_as_it_is() -> None:
    source, target = a_run(), new_store()
    assert source.step(4).info.is_key
    report = source.copy_to(target, ["4..6"])
    assert [s.how for s in report.steps] == ["objects"] * 3
    same_steps(source, target)
    assert target.verify(deep=True).ok


def test_one_artifact() -> None:
    source, target = a_run(), new_store()
    report = source.copy_to(target, only="model")
    assert {s.how for s in report.steps} == {"encoded"}
    for info in target.steps(None):
        step = target.step(info.step, info.branch)
        assert [entry.fqn for entry in step.entries()] == ["model.w", "model.b"]
        assert identical(step.load(), source.step(info.step, info.branch).load("model."))
    assert target.verify(deep=True).ok
    assert {s.how for s in source.copy_to(target, only="model").steps} == {"there"}
    with pytest.raises(TensorNotFoundError, match="no artifact 'none'"):
        source.copy_to(new_store(), only="none")


def test_one_artifact_into_a_store_that_measures_its_chain() -> None:
    source, target = new_store(key_every=8, chain="previous"), new_store(key_every=8, chain="auto")
    weight = torch.linspace(0, 1, 300 * 64).sin().reshape(300, 64)
    for step in range(1, 6):
        save_state(source, step, {"model": {"w": weight + 1e-6 * step}, "train": {"step": step}})
    assert {s.how for s in source.copy_to(target, only="model").steps} == {"encoded"}
    for step in range(1, 6):
        assert identical(target.step(step).load(), source.step(step).load("model."))
    assert "chain_near" in target.step(2).info.writer  # it was measured, on parts of blocks


def test_imported_files(tmp_path: Path) -> None:
    source, target, models = new_store(), new_store(), new_store()
    for step in (1, 2):
        import_folder(source, step, olmo_folder(tmp_path / str(step), step))
    assert source.copy_to(target, [2]).steps[0].how == "encoded"
    target.step(2).restore(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "2")
    source.copy_to(models, only="model")
    (file,) = models.step(2).restore(tmp_path / "model")
    assert file.read_bytes() == (tmp_path / "2" / "model.pt").read_bytes()


def test_what_is_there_stays() -> None:
    source, target = a_run(), new_store()
    source.copy_to(target, [1])
    recording = RecordingBackend(target.opened.backend)
    again = Store(OpenStore(recording, target.opened.config))
    assert [s.how for s in source.copy_to(again, [1]).steps] == ["there"]
    assert recording.bytes_written() == 0
    save_state(target, 3, a_state(99))
    with pytest.raises(StepExistsError, match="main:3"):
        source.copy_to(target)
    assert [info.step for info in target.steps(None)] == [1, 3]
    with pytest.raises(StepNotFoundError, match=r"7\.\.9"):
        source.copy_to(target, ["7..9"])
    with pytest.raises(StepNotFoundError):
        source.copy_to(target, branch="nowhere")
    with pytest.raises(StepNotFoundError):
        source.copy_to(target, [77])


@pytest.mark.parametrize("steps", [["4..5"], ["2..3"]])
def test_an_interrupted_copy_goes_on(steps: list[str]) -> None:
    """Whichever put fails, every step that is there is whole, and the next copy does the rest."""
    source = a_run()
    count = RecordingBackend(MemoryBackend())
    source.copy_to(new_store(count), steps)
    puts = count.count("put") + count.count("put_if_absent")
    assert puts > 8
    for kind in ("put", "put_if_absent"):
        total = count.count(kind)
        for nth in sorted({2, 3, total // 2, total - 1, total}):  # the first makes the store
            for when in ("before", "after"):
                inner = MemoryBackend()
                target = new_store(inner)
                failing = FaultyBackend(inner, [Fault(kind, nth, when=when)])
                with suppress(BackendError):
                    source.copy_to(Store(OpenStore(failing, target.opened.config)), steps)
                seen = Store(OpenStore(inner, target.opened.config))
                same_steps(source, seen)
                source.copy_to(seen, steps)
                same_steps(source, seen)
                assert seen.verify(deep=True).ok
                assert len(seen.steps(None)) == 2


def test_damage_is_not_copied() -> None:
    inner = MemoryBackend()
    source = a_run(new_store(inner, key_every=3, block_elements=1000, chain="previous"))
    key = next(found.key for found in inner.list("packs/"))
    data = bytearray(inner.get(key))
    data[len(data) // 2] ^= 1
    inner.put(key, bytes(data))
    target = new_store()
    with pytest.raises(CorruptObjectError):
        Store(OpenStore(inner, source.opened.config)).copy_to(target)
    assert target.verify(deep=True).ok
    inner.delete(key)
    with pytest.raises(MissingObjectError):
        Store(OpenStore(inner, source.opened.config)).copy_to(target)
    assert target.verify(deep=True).ok
    assert np.all([info.step > 0 for info in target.steps(None)])


def test_parity_goes_along_and_signatures_cannot(tmp_path: Path) -> None:
    inner, outer = MemoryBackend(), MemoryBackend()
    source = a_run(new_store(inner, key_every=3, block_elements=1000, chain="previous"))
    source.protect(0.1)
    make_keys(tmp_path / "key")
    source.sign(tmp_path / "key")
    target = new_store(outer)
    report = source.copy_to(target, ["1..3"])
    parity = [found.key for found in outer.list("parity/")]
    assert report.parity == len(parity) > 6
    assert (report.unprotected, report.signed) == (0, 3)
    assert list(outer.list("signatures/")) == []
    # Damage to any object of the copy can be repaired from it.
    for name in parity:
        damaged = name.removeprefix("parity/")
        data = bytearray(outer.get(damaged))
        data[len(data) // 2] ^= 1
        outer.put(damaged, bytes(data))
    Store(OpenStore(outer, target.opened.config)).repair()
    seen = Store(OpenStore(outer, target.opened.config))
    assert seen.verify(deep=True).ok
    same_steps(source, seen)
    # What is encoded anew has none.
    report = source.copy_to(new_store(), [5])
    assert report.parity == 0
    assert report.unprotected > 1
    assert source.copy_to(seen, ["1..3"]).parity == 0


def test_notes_and_branches_of_steps_that_are_there_follow() -> None:
    source, target = a_run(), new_store()
    source.copy_to(target, [3])
    source.annotate(3, {"later": 1.0})
    assert [s.how for s in source.copy_to(target, [3]).steps] == ["there"]
    assert target.step(3).info.metrics == source.step(3).info.metrics
    assert target.step(3).info.metrics["later"] == 1.0
