"""A run goes on from a restored step, through files and through DCP, as if it had never stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from deltackpt import Store
from deltackpt.dcp import DeltaStorageReader, DeltaStorageWriter
from deltackpt.errors import InvalidArgumentError, ObjectExistsError, TensorNotFoundError, UntrustedObjectError
from tests.dcp.states import State, bits, load_state, new_store, save_state
from tests.dcp.training import OPTIMIZERS, Run
from tests.formats.values import identical


def read(folder: Path, part: str) -> Any:
    return torch.load(folder / f"{part}.pt", weights_only=True)


def a_saved_run(store: Store, optimizer: str) -> tuple[list[float], State]:
    """Train, save steps 3 to 5, train on; the losses after step 4, and step 4's state."""
    run, losses, kept = Run(optimizer), [], {}
    for step in range(1, 8):
        losses.append(run.step())
        if step in (3, 4, 5):
            save_state(store, step, run.state())
        if step == 4:
            kept = {name: value.clone() for name, value in run.model.state_dict().items()}
    return losses[4:], kept


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_from_restored_files(tmp_path: Path, optimizer: str) -> None:
    store = new_store()
    losses, kept = a_saved_run(store, optimizer)
    written = store.step(4).restore(tmp_path / "out")
    assert sorted(path.name for path in written) == ["config.yaml", "model.pt", "optim.pt", "train.pt"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in written)
    resumed = Run(optimizer, seed=5)
    resumed.model.load_state_dict(read(tmp_path / "out", "model"))
    resumed.optimizer.load_state_dict(read(tmp_path / "out", "optim"))
    resumed.batch = read(tmp_path / "out", "train")["batch"]
    assert all(bits(resumed.model.state_dict()[name]) == bits(value) for name, value in kept.items())
    assert resumed.steps(3) == losses


def test_restored_files_hold_what_was_saved(tmp_path: Path) -> None:
    store, run = new_store(), Run()
    run.steps(2)
    save_state(store, 1, run.state())
    store.step(1).restore(tmp_path)
    optim = read(tmp_path, "optim")
    assert identical(optim, run.optimizer.state_dict())
    assert list(optim["state"]) == list(range(6))
    assert identical(read(tmp_path, "model"), dict(run.model.state_dict()))
    assert read(tmp_path, "train") == {"batch": 2}
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == run.state()["config"]
    assert "naïve" in text


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_from_a_dcp_load(optimizer: str) -> None:
    store = new_store()
    losses, _ = a_saved_run(store, optimizer)
    resumed = Run(optimizer, seed=5)
    resumed.step()  # so that the optimizer has a state to load into
    state = load_state(store, 4, resumed.state())
    resumed.model.load_state_dict(state["model"])
    resumed.optimizer.load_state_dict(state["optimizer"])
    resumed.batch = state["train"]["batch"]
    assert resumed.steps(3) == losses


@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
@pytest.mark.parametrize("through", ["dcp", "files"])
def test_training_goes_on_with_parameters_named_in_the_optimizer(tmp_path: Path, optimizer: str, through: str) -> None:
    store, run = new_store(), Run(optimizer)
    run.steps(3)
    model, optim = get_state_dict(run.model, run.optimizer)
    async_save({"model": model, "optim": optim}, storage_writer=DeltaStorageWriter(store, 3), no_dist=True).result()  # type: ignore[union-attr]
    losses = run.steps(2)
    resumed = Run(optimizer, seed=5)
    resumed.batch = 3
    model, optim = get_state_dict(resumed.model, resumed.optimizer)
    if through == "dcp":
        load({"model": model, "optim": optim}, storage_reader=DeltaStorageReader(store, 3), no_dist=True)
    else:
        store.step(3).restore(tmp_path)
        model, optim = read(tmp_path, "model"), read(tmp_path, "optim")
    set_state_dict(resumed.model, resumed.optimizer, model_state_dict=model, optim_state_dict=optim)
    assert resumed.steps(2) == losses


def test_a_state_saved_flat_and_one_nested_deeply(tmp_path: Path) -> None:
    store = new_store()
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    save_state(store, 1, model.state_dict())
    (path,) = store.step(1).restore(tmp_path / "flat")
    assert path == tmp_path / "flat" / "model.pt"
    assert identical(read(tmp_path / "flat", "model"), dict(model.state_dict()))
    nested = {
        "app": {
            "state_dict": {
                "enc": [{"w": torch.ones(2)}, {"w": torch.zeros(3), "extra": (1, "x")}],
                "n.o": torch.eye(2),
            },
            "scheduler": {"last_epoch": 3, "lrs": [0.1, 0.2]},
        }
    }
    save_state(store, 2, nested)
    store.step(2).restore(tmp_path / "deep")
    assert identical(read(tmp_path / "deep", "model"), nested["app"]["state_dict"])
    assert read(tmp_path / "deep", "train") == {"app": {"scheduler": nested["app"]["scheduler"]}}


def test_one_artifact_files_in_the_way_and_formats(tmp_path: Path) -> None:
    store, run = new_store(), Run()
    run.steps(1)
    save_state(store, 1, run.state())
    step = store.step(1)
    assert step.restore(tmp_path, only="model") == [tmp_path / "model.pt"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    before = (tmp_path / "model.pt").read_bytes()
    run.steps(1)
    save_state(store, 2, run.state())
    with pytest.raises(ObjectExistsError, match=str(tmp_path)):
        store.step(2).restore(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert (tmp_path / "model.pt").read_bytes() == before
    store.step(2).restore(tmp_path, force=True)
    assert identical(read(tmp_path, "model"), dict(run.model.state_dict()))
    with pytest.raises(TensorNotFoundError, match="config, model, optim, train"):
        step.restore(tmp_path / "x", only="weights")
    with pytest.raises(InvalidArgumentError, match="known formats"):
        step.restore(tmp_path / "x", format="gguf")
    assert not (tmp_path / "x").exists()


class Opaque:
    """What is kept as a pickle."""


def test_a_pickle_in_one_part_keeps_no_other_from_being_restored(tmp_path: Path) -> None:
    store = new_store()
    save_state(store, 1, {"model": {"w": torch.ones(4)}, "train": {"thing": Opaque(), "arrays": np.arange(3)}})
    step = store.step(1)
    with pytest.raises(UntrustedObjectError, match=r"train\.thing"):
        step.restore(tmp_path / "all")
    assert not (tmp_path / "all").exists()
    step.restore(tmp_path / "model", only="model")
    assert torch.equal(read(tmp_path / "model", "model")["w"], torch.ones(4))
    step.restore(tmp_path / "train", only="train", trust_objects=True)
    found = torch.load(tmp_path / "train" / "train.pt", weights_only=False)
    assert isinstance(found["thing"], Opaque)
    assert identical(found["arrays"], np.arange(3))


def test_parts_of_tensors_and_of_states() -> None:
    store = new_store()
    w = torch.arange(60.0).reshape(10, 6)
    save_state(store, 1, {"model": {"w": w, "s": torch.tensor(3)}, "note": "x"})
    step = store.step(1)
    for index in (
        (slice(0, 2),),
        slice(3, 8),
        4,
        -1,
        (..., 2),
        (slice(None), slice(1, 3)),
        (5, 5),
        (slice(9, 2), 0),
        (slice(-3, 100), -2),
        ...,
    ):
        found = step.tensor("model.w", index=index)
        expected = w[index]
        assert found.shape == expected.shape, index
        assert torch.equal(found, expected), index
    assert step.tensor("model.s").item() == 3
    assert step.tensor("model.s", index=()).shape == ()
    wrong: list[Any] = [slice(0, 9, 2), 10, True, (0, 0, 0), (..., ...), 1.5, [1], (None, 0)]
    for odd in wrong:
        with pytest.raises(InvalidArgumentError, match=r"model\.w"):
            step.tensor("model.w", index=odd)
    with pytest.raises(InvalidArgumentError, match="object, not a tensor"):
        step.tensor("note")
    with pytest.raises(TensorNotFoundError, match="did you mean"):
        step.tensor("model.W")
    assert identical(step.load("model."), {"model.w": w, "model.s": torch.tensor(3)})
    with pytest.raises(TensorNotFoundError):
        step.load("optim.")


def test_the_reader_in_the_store_restores_a_step_without_the_package(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", block_elements=100)
    run, kept = Run(), {}
    for step in (1, 2, 3):
        run.steps(1)
        copies = {name: value.detach().bfloat16() for name, value in run.model.named_parameters()}
        state = {**run.state(), "model": {"weights": run.model.state_dict(), "copy": copies}}
        kept[step] = {
            "model": {f"model.weights.{name}": value.clone() for name, value in run.model.state_dict().items()}
            | {f"model.copy.{name}": value for name, value in copies.items()},
            "optim": {
                f"optimizer.state.{number}.{name}": value.clone()
                for number, values in run.optimizer.state_dict()["state"].items()
                for name, value in values.items()
            },
        }
        save_state(store, step, state)
    assert store.step(3).info.depth >= 3
    # Whoever imports these while the script runs gets an error.
    for name in ("deltackpt", "torch"):
        (tmp_path / "traps" / name).mkdir(parents=True)
        (tmp_path / "traps" / name / "__init__.py").write_text("raise ImportError('not in the script')")
    script = tmp_path / "store" / "reader.py"
    for step in (1, 3):
        out = tmp_path / f"out{step}"
        subprocess.run(
            [sys.executable, "-W", "error", str(script), "restore", str(step), "--out", str(out)],
            check=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "traps")},
        )
        for part, tensors in kept[step].items():
            found = load_file(out / f"{part}.safetensors")
            assert found.keys() == tensors.keys()
            assert all(identical(found[name], value) for name, value in tensors.items())
        objects = json.loads((out / "train.objects.json").read_text())["objects"]
        assert objects["train.batch"]["value"] == step


def test_the_package_does_not_import_torch_until_it_is_needed() -> None:
    code = "import sys, deltackpt; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0
