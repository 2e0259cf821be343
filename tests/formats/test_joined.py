"""The parts of ranks -> whole tensors, and imported states to DCP and back: the same values, nothing unpickled."""

from __future__ import annotations

import fractions
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load

from deltackpt import Store
from deltackpt.errors import DamagedFileError, IncompleteStepError, UnsupportedDataError
from tests.dcp.states import blank, new_store
from tests.formats import ranks
from tests.formats.imported import hf_model_folder, import_folder, olmo_folder, weights
from tests.formats.values import identical


def load_torch(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def by_key(value: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(sorted(value.items()))


def imported(folder: Path) -> Store:
    store = new_store()
    import_folder(store, 1, folder)
    return store


@pytest.mark.parametrize(
    "write", [ranks.olmo_local, partial(ranks.olmo_local, old=True), ranks.olmo_legacy], ids=["local", "old", "legacy"]
)
def test_olmos_ranks_as_its_unsharded_files(write: Callable[[Path], Path], tmp_path: Path) -> None:
    store = imported(write(tmp_path / "in"))
    files = store.step(1).restore(tmp_path / "out", "olmo")
    assert sorted(path.name for path in files) == ["config.yaml", "model.pt", "optim.pt", "train.pt"]
    prefix = "" if (tmp_path / "in" / "rank0.pt").exists() else "transformer."
    model = {prefix + name: value for name, value in weights(3).items()}
    found = load_torch(tmp_path / "out" / "model.pt")
    assert identical(by_key(dict(found)), by_key(model))
    assert identical(load_torch(tmp_path / "out" / "optim.pt"), ranks.optim_by_name(model))
    store.step(1).restore(tmp_path / "flat", "safetensors", only="model")
    assert identical(by_key(load_file(tmp_path / "flat" / "model.safetensors")), by_key(model))


def test_the_training_state_of_ranks(tmp_path: Path) -> None:
    imported(ranks.olmo_local(tmp_path / "local")).step(1).restore(tmp_path / "out", "torch")
    assert (tmp_path / "out" / "train.pt").read_bytes() == (tmp_path / "local" / "train" / "rank0.pt").read_bytes()
    imported(ranks.olmo_legacy(tmp_path / "legacy")).step(1).restore(tmp_path / "legacy-out", "torch", only="train")
    found = torch.load(tmp_path / "legacy-out" / "train.pt", weights_only=False)
    assert {**found, "checkpoints": [str(p) for p in found["checkpoints"]]} == {
        "global_step": 3,
        "checkpoints": ["runs/step1"],
    }


@pytest.mark.parametrize("write", [ranks.olmo_local, ranks.olmo_legacy, ranks.zero])
def test_a_rank_that_is_missing_is_named(write: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = write(tmp_path / "in")
    for path in folder.rglob("*rank*1*.pt"):
        path.unlink()
    store = imported(folder)
    with pytest.raises(IncompleteStepError, match="rank 1 is missing"):
        store.step(1).restore(tmp_path / "out", "torch")
    assert not (tmp_path / "out").exists()


def test_the_last_rank_that_is_missing_is_noticed(tmp_path: Path) -> None:
    folder = ranks.olmo_legacy(tmp_path / "legacy")
    (folder / "rank2.pt").unlink()
    with pytest.raises(IncompleteStepError, match="do not make up all of"):
        imported(folder).step(1).restore(tmp_path / "out", "torch")
    zero = ranks.zero(tmp_path / "zero")
    next(zero.glob("*rank_2*")).unlink()
    with pytest.raises(DamagedFileError, match="bytes of group 0"):
        imported(zero).step(1).restore(tmp_path / "out", "torch")


def test_zero_as_whole_tensors(tmp_path: Path) -> None:
    store = imported(ranks.zero(tmp_path / "in"))
    store.step(1).restore(tmp_path / "out", "torch")
    model = load_torch(tmp_path / "out" / "model.pt")
    expected = {**weights(3), "seen": torch.arange(3), "tied": weights(3)["embed.weight"]}
    assert identical(by_key(model), by_key(expected))
    optim = load_torch(tmp_path / "out" / "optim.pt")
    assert identical(dict(sorted(optim["state"].items())), dict(sorted(ranks.moments(weights(3)).items())))
    assert [group["params"] for group in optim["param_groups"]] == [["embed.weight", "layer.weight"], ["layer.bias"]]


def test_an_imported_step_to_dcp_and_back(tmp_path: Path) -> None:
    store = imported(olmo_folder(tmp_path / "in"))
    store.step(1).restore(tmp_path / "dcp", "dcp")
    expected = {"model": load_torch(tmp_path / "in" / "model.pt"), "optim": load_torch(tmp_path / "in" / "optim.pt")}
    state = blank(expected)
    load(state, storage_reader=FileSystemReader(tmp_path / "dcp"), no_dist=True)
    assert identical(state, expected)
    for name in ("train.pt", "config.yaml"):
        assert (tmp_path / "dcp" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()
    store.step(1).restore(tmp_path / "optim", "dcp", only="optim")
    assert not (tmp_path / "optim" / "train.pt").exists()
    state = blank({"optim": expected["optim"]})
    load(state, storage_reader=FileSystemReader(tmp_path / "optim"), no_dist=True)
    assert identical(state["optim"], expected["optim"])

    again = imported(tmp_path / "dcp")
    again.step(1).restore(tmp_path / "out", "olmo")
    for name in ("model", "optim"):
        found = load_torch(tmp_path / "out" / f"{name}.pt")
        assert sort_keys(found) == sort_keys(expected[name])
    for name in ("train.pt", "config.yaml"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()


def sort_keys(value: Any) -> Any:
    """A state to be compared whatever the order of its keys is; tensors by value and dtype."""
    if isinstance(value, dict):
        return {key: sort_keys(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list):
        return [sort_keys(member) for member in value]
    return (str(value.dtype), value.tolist()) if isinstance(value, torch.Tensor) else value


def test_numbers_of_parameters_become_names_where_that_is_sure(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optim = torch.optim.AdamW(model.parameters())
    model(torch.ones(3)).sum().backward()
    optim.step()
    folder = tmp_path / "in"
    olmo_folder(folder)
    torch.save(model.state_dict(), folder / "model.pt")
    torch.save(optim.state_dict(), folder / "optim.pt")
    imported(folder).step(1).restore(tmp_path / "out", "olmo")
    found = load_torch(tmp_path / "out" / "optim.pt")
    names = list(model.state_dict())
    assert found["param_groups"][0]["params"] == names
    for number, state in optim.state_dict()["state"].items():
        assert identical(found["state"][names[number]], state)
    # safetensors files do not have the order of the parameters.
    store = imported(hf_model_folder(tmp_path / "hf"))
    with pytest.raises(UnsupportedDataError, match="ids of the optimizer"):
        store.step(1).restore(tmp_path / "no", "olmo", only="optim")


def test_weights_in_a_bin_become_a_model_and_come_back(tmp_path: Path) -> None:
    folder = hf_model_folder(tmp_path / "in")
    (folder / "model.safetensors").unlink()
    torch.save(weights(), folder / "pytorch_model.bin")
    imported(folder).step(1).restore(tmp_path / "torch", "torch")
    assert (tmp_path / "torch" / "model.pt").read_bytes() == (folder / "pytorch_model.bin").read_bytes()
    shutil.rmtree(tmp_path / "torch" / "sub")
    imported(tmp_path / "torch").step(1).restore(tmp_path / "hf", "hf")
    assert identical(by_key(load_file(tmp_path / "hf" / "model.safetensors")), by_key(weights()))


def test_what_is_no_plain_data_is_named(tmp_path: Path) -> None:
    folder = olmo_folder(tmp_path / "in")
    torch.save({"state": {}, "param_groups": [{"params": [], "share": fractions.Fraction(1, 3)}]}, folder / "optim.pt")
    store = imported(folder)
    with pytest.raises(UnsupportedDataError, match=r"'param_groups.0.share': fractions.Fraction") as caught:
        store.step(1).restore(tmp_path / "out", "dcp")
    assert caught.value.where == "optim.pt"
    assert not (tmp_path / "out").exists()
    store.step(1).restore(tmp_path / "out", "dcp", only="model")


def test_legacy_files_are_read_too(tmp_path: Path) -> None:
    folder = olmo_folder(tmp_path / "in")
    expected = load_torch(folder / "optim.pt")
    torch.save(expected, folder / "optim.pt", _use_new_zipfile_serialization=False)
    imported(folder).step(1).restore(tmp_path / "out", "dcp", only="optim")
    state = blank({"optim": expected})
    load(state, storage_reader=FileSystemReader(tmp_path / "out"), no_dist=True)
    assert identical(state["optim"], expected)
