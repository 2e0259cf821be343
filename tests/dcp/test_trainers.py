"""Trainers that call ``dcp.save`` themselves, without a place to pass a writer: what they write is taken in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save

from deltackpt import Store
from deltackpt.formats.watch import WatchEvent
from tests.dcp.states import new_store

Trainer = Callable[[Path, int], Path]


def model(step: int) -> dict[str, torch.Tensor]:
    noise = torch.randn(3000, generator=torch.Generator().manual_seed(step))
    return {"w": torch.randn(3000, generator=torch.Generator().manual_seed(0)) * (1 + 1e-5 * noise)}


def moments(step: int) -> dict[str, Any]:
    return {"state": {"w": {"exp_avg": model(step)["w"] / 8}}}


def torchtitan(root: Path, step: int) -> Path:
    folder = root / f"step-{step}"
    save({"model": model(step), "optimizer": moments(step), "train_state": {"step": step}}, checkpoint_id=folder)
    return folder


def olmo_core(root: Path, step: int) -> Path:
    folder = root / f"step{step}"
    save({"model": model(step), "optim": moments(step)}, checkpoint_id=folder / "model_and_optim")
    (folder / "train").mkdir()
    torch.save({"global_step": step}, folder / "train" / "rank0.pt")
    (folder / ".metadata.json").write_text("{}")
    return folder


def accelerate(root: Path, step: int) -> Path:
    folder = root / f"checkpoint_{step}"
    save({"model": model(step)}, checkpoint_id=folder / "pytorch_model_fsdp_0")
    save({"optimizer": moments(step)}, checkpoint_id=folder / "optimizer_0")
    for rank in range(2):
        torch.save({"step": step, "rng": torch.arange(8) + rank}, folder / f"random_states_{rank}.pkl")
    torch.save({"last_epoch": step}, folder / "scheduler.bin")
    return folder


def lightning(root: Path, step: int) -> Path:
    folder = root / f"epoch=0-step={step}.ckpt"
    save({"model": model(step), "optimizer_0": moments(step)}, checkpoint_id=folder)
    torch.save({"epoch": 0, "global_step": step}, folder / "meta.pt")
    return folder


TRAINERS: dict[str, Trainer] = {trainer.__name__: trainer for trainer in (torchtitan, olmo_core, accelerate, lightning)}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", TRAINERS)
def test_watch_takes_in_what_a_trainer_saves(tmp_path: Path, name: str) -> None:
    store: Store = new_store(block_elements=1024)
    now = 0.0
    happened: list[WatchEvent] = []
    watch = store.watch(tmp_path / "run", happened.append, settle=10)
    watch.clock = lambda: now
    for step in (10, 20):
        made = TRAINERS[name](tmp_path / "run", step)
        watch.look()
        now += 10
        watch.look()
        # Two looks: the first sees that it is whole, and the second that nothing has changed since.
        assert [info.step for info in store.steps()] == [10, 20][: step // 10]
        assert torch.equal(store.step(step).tensor("model.w"), model(step)["w"])
        store.step(step).restore(tmp_path / f"out-{step}", format="original")
        assert contents(tmp_path / f"out-{step}") == contents(made)
    assert [event.kind for event in happened] == ["imported", "imported"]
    first, second = store.steps()
    assert second.stored_bytes < 0.7 * first.stored_bytes


@pytest.mark.parametrize("name", TRAINERS)
def test_a_save_that_still_runs_is_left_alone(tmp_path: Path, name: str) -> None:
    store, now = new_store(), 0.0
    watch = store.watch(tmp_path / "run", lambda event: None, settle=10, strict=True)
    watch.clock = lambda: now
    made = TRAINERS[name](tmp_path / "run", 10)
    part = sorted(made.rglob("*.distcp"))[0]
    data = part.read_bytes()
    part.unlink()
    for _ in range(3):
        now += 1000
        watch.look()
        assert store.steps() == []
    part.write_bytes(data)
    watch.look()
    now += 10
    watch.look()
    assert [info.step for info in store.steps()] == [10]
