"""States as plain torch files, from what DCP flattens to training that goes on."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from deltackpt.errors import BackendError, InvalidNameError, ObjectExistsError, UnsupportedDataError
from deltackpt.formats.nesting import Entry, split_parts
from deltackpt.formats.torch_files import refuse_existing, write_torch_files
from deltackpt.tensor.roles import classify_all
from tests.formats.values import identical


def restore(state: dict[str, Any], out: Path) -> dict[str, Any]:
    """Through DCP's flattening into files and back."""
    flat, paths = flatten_state_dict(state)
    artifacts = classify_all({fqn: (paths[fqn], isinstance(value, torch.Tensor)) for fqn, value in flat.items()})
    entries = [Entry(fqn, paths[fqn], artifacts[fqn], value) for fqn, value in flat.items()]
    files = write_torch_files(out, split_parts(entries))
    return {file.name: load(file) for file in files}


def load(file: Path) -> Any:
    if file.suffix == ".yaml":
        return yaml.safe_load(file.read_text())
    return torch.load(file, weights_only=True)


def a_run(optimizer: str, seed: int = 0) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    groups: list[dict[str, Any]] = [{"params": model[0].parameters(), "lr": 0.05}, {"params": model[2].parameters()}]
    if optimizer == "adamw":
        return model, torch.optim.AdamW(groups, lr=0.01, amsgrad=True)
    return model, torch.optim.SGD(groups, lr=0.01, momentum=0.9)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        batch = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("steps", [0, 3])
def test_training_goes_on_from_a_raw_optimizer_state(optimizer: str, steps: int, tmp_path: Path) -> None:
    model, optim = a_run(optimizer)
    train(model, optim, range(steps))
    files = restore({"model": model.state_dict(), "optim": optim.state_dict(), "step": steps}, tmp_path)
    assert list(files) == ["model.pt", "optim.pt", "train.pt"]
    assert identical(files["optim.pt"], optim.state_dict())
    assert files["train.pt"] == {"step": steps}
    expected = train(model, optim, range(steps, steps + 3))

    fresh, fresh_optim = a_run(optimizer, seed=1)
    fresh.load_state_dict(files["model.pt"])
    fresh_optim.load_state_dict(files["optim.pt"])
    assert train(fresh, fresh_optim, range(steps, steps + 3)) == expected


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("flat", [False, True])
def test_training_goes_on_from_dcps_own_state(optimizer: str, flat: bool, tmp_path: Path) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optim = a_run(optimizer)
    train(model, optim, range(3))
    model_state, optim_state = get_state_dict(model, optim, options=options)
    files = restore({"app": {"model": model_state, "optim": optim_state}}, tmp_path)
    assert identical(files["optim.pt"], dict(optim_state))
    expected = train(model, optim, range(3, 6))

    fresh, fresh_optim = a_run(optimizer, seed=1)
    set_state_dict(
        fresh, fresh_optim, model_state_dict=files["model.pt"], optim_state_dict=files["optim.pt"], options=options
    )
    assert train(fresh, fresh_optim, range(3, 6)) == expected


def test_a_model_alone(tmp_path: Path) -> None:
    state = torch.nn.BatchNorm1d(3).state_dict()
    files = restore(state, tmp_path)
    assert list(files) == ["model.pt"]
    torch.nn.BatchNorm1d(3).load_state_dict(files["model.pt"])
    assert identical(files["model.pt"], dict(state))


CONFIG = {
    "name": "gpt",
    "lr": 1e-05,
    "layers": [1, {"wide": None}],
    "yes": True,
    "text": "1e3",
    "no": "no",
    "inf": float("inf"),
    "big": 2**70,
    "é\n": "日本",
    "empty": [],
}


def test_a_plain_config_is_yaml(tmp_path: Path) -> None:
    (file,) = write_torch_files(tmp_path, {"config": CONFIG})
    assert file.name == "config.yaml"
    assert identical(yaml.safe_load(file.read_text()), CONFIG)
    assert file.read_text().startswith("name: gpt\nlr: 1.0e-05\n")
    assert "日本" in file.read_text()
    (file,) = write_torch_files(tmp_path / "nan", {"config": [float("nan")]})
    assert file.read_text() == "- .nan\n"


_TWICE = [1]


@pytest.mark.parametrize(
    "value",
    [{"a": (1, 2)}, {1: "a"}, {"a": torch.ones(1)}, {"a": b"x"}, {"a": {1}}],
    ids=lambda value: str(type(next(iter(value.values())))),
)
def test_another_config_is_a_torch_file(value: dict[Any, Any], tmp_path: Path) -> None:
    (file,) = write_torch_files(tmp_path, {"config": value})
    assert file.name == "config.pt"
    assert identical(load(file), value)


def test_a_config_with_a_list_in_two_places(tmp_path: Path) -> None:
    (file,) = write_torch_files(tmp_path, {"config": {"a": _TWICE, "b": _TWICE}})
    assert file.read_text() == "a:\n- 1\nb:\n- 1\n"


def test_files_that_are_there_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "optim.pt").write_bytes(b"mine")
    parts = {"model": {"w": torch.ones(1)}, "optim": {"x": 1}}
    with pytest.raises(ObjectExistsError, match=r"optim\.pt"):
        write_torch_files(tmp_path, parts)
    assert [file.name for file in tmp_path.iterdir()] == ["optim.pt"]
    assert (tmp_path / "optim.pt").read_bytes() == b"mine"
    write_torch_files(tmp_path, parts, overwrite=True)
    assert load(tmp_path / "optim.pt") == {"x": 1}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.pt", "optim.pt"]


def test_a_file_that_comes_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(value: object, file: Any) -> None:
        (tmp_path / "model.pt").write_bytes(b"theirs")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(ObjectExistsError):
        write_torch_files(tmp_path, {"model": {}})
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.pt", b"theirs")]


def test_existing_files_can_be_asked_for_before_the_work(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "nowhere", ["model", "config"])
    for name in ("config.yaml", "config.pt", "model.pt"):
        (tmp_path / name).symlink_to("nowhere")
        with pytest.raises(ObjectExistsError, match=name):
            refuse_existing(tmp_path, ["model", "config"])
        (tmp_path / name).unlink()


@pytest.mark.parametrize("name", ["../model", "a/b", "", ".", "..", ".hidden", "a\0", "x" * 200, "-x"])
def test_names_cannot_leave_the_folder(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InvalidNameError):
        write_torch_files(out, {"model": {}, name: {}})
    with pytest.raises(InvalidNameError):
        refuse_existing(out, [name])
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"theirs")
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.pt").symlink_to(victim)
    write_torch_files(out, {"model": {"a": 1}}, overwrite=True)
    assert victim.read_bytes() == b"theirs"
    assert load(out / "model.pt") == {"a": 1}


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_full_disk_leaves_nothing(size: int, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(BackendError, match=r"model\.pt.*File too large"):
            write_torch_files(tmp_path, {"model": torch.ones(size)}, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.pt", b"old")]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BackendError, match="file/out"):
        write_torch_files(tmp_path / "file" / "out", {"model": {}})


def test_a_value_that_cannot_be_pickled(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedDataError, match="train"):
        write_torch_files(tmp_path, {"train": {"f": lambda: 1}})
    assert list(tmp_path.iterdir()) == []


def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    (file,) = write_torch_files(tmp_path, {"model": {}})
    other = tmp_path / "other"
    other.touch()
    assert os.stat(file).st_mode == os.stat(other).st_mode
    assert os.stat(file).st_nlink == 1
