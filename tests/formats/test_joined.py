"""The parts of ranks -> whole tensors, and imported states to DCP and back: the same values, nothing unpickled."""

from __future__ import annotations

import fractions
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.testing._internal.distributed.fake_pg import FakeStore

from deltackpt import Store
from deltackpt.errors import DamagedFileError, IncompleteStepError, InvalidArgumentError, UnsupportedDataError
from tests.dcp.states import blank, new_store, save_state
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


def load_rank(path: Path, rank: int, ranks: int) -> Any:
    """As OLMo's trainer of this rank does; its tensors then know where their rows lie."""
    dist.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that ShardedTensor is old
            return torch.load(path, weights_only=False)
    finally:
        dist.destroy_process_group()


def rows_of(sharded: ShardedTensor) -> torch.Tensor:
    """The rows that a rank has, checked against their places."""
    shards = sharded.local_shards()
    for shard in shards:
        assert list(shard.tensor.shape) == shard.metadata.shard_sizes
    about = sharded.metadata()
    return shards[0].tensor if shards else torch.empty(0, *about.size[1:], dtype=about.tensor_properties.dtype)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("write", [olmo_folder, ranks.olmo_local, ranks.olmo_legacy], ids=["whole", "local", "legacy"])
def test_back_to_the_files_of_ranks(write: Callable[[Path], Path], count: int, tmp_path: Path) -> None:
    store = imported(write(tmp_path / "in"))
    store.step(1).restore(tmp_path / "whole", "olmo")
    files = store.step(1).restore(tmp_path / "step3", "olmo", ranks=count)
    assert [path.name for path in files] == ["config.yaml", *(f"rank{rank}.pt" for rank in range(count))]
    model, optim = (load_torch(tmp_path / "whole" / f"{name}.pt") for name in ("model", "optim"))
    # As torch has it on each rank.
    loaded = [load_rank(tmp_path / "step3" / f"rank{rank}.pt", rank, count) for rank in range(count)]
    for name, weight in model.items():
        assert isinstance(loaded[0]["model"][name], ShardedTensor)
        assert torch.equal(torch.cat([rows_of(one["model"][name]) for one in loaded]), weight)
        for kind, value in optim["state"].get(name, {}).items():
            parts = [one["optim"]["state"][name][kind] for one in loaded]
            assert torch.equal(torch.cat([rows_of(part) for part in parts]) if value.ndim else parts[0], value)
    assert loaded[-1]["optim"]["param_groups"] == optim["param_groups"]
    assert "rng" not in loaded[0]
    # Taken in again, and joined.
    again = Store.create(tmp_path / "store")
    report = again.import_checkpoints([tmp_path / "step3"])
    assert [(one.layout, one.status, list(one.lacks)) for one in report.steps] == [("olmo-sharded", "imported", [])]
    again.step(3).restore(tmp_path / "again", "olmo")
    assert identical(by_key(dict(load_torch(tmp_path / "again" / "model.pt"))), by_key(dict(model)))
    assert sort_keys(load_torch(tmp_path / "again" / "optim.pt")) == sort_keys(optim)


def test_a_rank_has_its_own_rows_only(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    model = {"a": torch.randn(400, 100), "b": torch.randn(300)}
    state = {"model": model, "optim": ranks.optim_by_name(model), "train": {"global_step": 3}, "config": {"width": 4}}
    save_state(store, 3, state)
    config, *files = store.step(3).restore(tmp_path / "ranks", "olmo", ranks=4)
    assert config.name == "config.yaml"
    assert all(abs(path.stat().st_size - 3 * 40_300) < 8192 for path in files)


def test_a_saved_state_as_the_files_of_ranks(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    model = weights(3)
    train = {"global_step": 3, "rng": {"torch": torch.arange(4)}}
    state = {"model": model, "optim": ranks.optim_by_name(model), "train": train, "config": {"width": 4}}
    save_state(store, 3, state)
    store.step(3).restore(tmp_path / "ranks", "olmo", ranks=2)
    imported(tmp_path / "ranks").step(1).restore(tmp_path / "again", "olmo")
    assert identical(by_key(dict(load_torch(tmp_path / "again" / "model.pt"))), by_key(model))
    assert load_torch(tmp_path / "again" / "train.pt") == {"global_step": 3}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"format": "torch", "ranks": 2}, "the format olmo has"),
        ({"format": "olmo", "ranks": 2, "only": "model"}, "the format olmo has"),
        ({"format": "olmo", "ranks": 0}, "ranks must be from 1"),
    ],
)
def test_ranks_that_make_no_sense(arguments: dict[str, Any], match: str, tmp_path: Path) -> None:
    step = imported(olmo_folder(tmp_path / "in")).step(1)
    with pytest.raises(InvalidArgumentError, match=match):
        step.restore(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


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


def plain_file(folder: Path, wrap: Callable[[dict[str, Any]], dict[str, Any]] = lambda parts: parts) -> Path:
    """What most training scripts save: one file with all parts."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 7, "best": {"loss": 1.5}}
    folder.mkdir()
    torch.save(wrap(parts), folder / "ckpt_7.pt")
    return folder


def as_lightning(parts: dict[str, Any]) -> dict[str, Any]:
    return {
        "epoch": 1,
        "state_dict": OrderedDict(parts["model"]),
        "optimizer_states": [parts["optimizer"]],
        "lr_schedulers": [{"last_epoch": 1}],
        "hyper_parameters": {"width": 4},
    }


@pytest.mark.parametrize(
    ("wrap", "train"),
    [
        (lambda parts: parts, {"step": 7, "best": {"loss": 1.5}}),
        (lambda parts: {"state": parts, "epoch": 2}, {"state": {"step": 7, "best": {"loss": 1.5}}, "epoch": 2}),
        (as_lightning, {"epoch": 1, "lr_schedulers": [{"last_epoch": 1}], "hyper_parameters": {"width": 4}}),
    ],
    ids=["plain", "nested", "lightning"],
)
def test_one_file_with_all_parts(
    wrap: Callable[[dict[str, Any]], dict[str, Any]], train: dict[str, Any], tmp_path: Path
) -> None:
    folder = plain_file(tmp_path / "in", wrap)
    whole = load_torch(folder / "ckpt_7.pt")
    inner = whole.get("state", whole)
    model = dict(inner["model"] if "model" in inner else inner["state_dict"])
    optim = inner["optimizer"] if "optimizer" in inner else inner["optimizer_states"][0]
    step = imported(folder).step(1)
    assert [path.name for path in step.restore(tmp_path / "same")] == ["ckpt_7.pt"]
    files = step.restore(tmp_path / "torch", "torch")
    assert sorted(path.name for path in files) == ["model.pt", "optim.pt", "train.pt"]
    assert identical(dict(load_torch(tmp_path / "torch" / "model.pt")), model)
    assert identical(load_torch(tmp_path / "torch" / "optim.pt"), optim)
    assert load_torch(tmp_path / "torch" / "train.pt") == train
    for only in ("model", "optim"):
        assert [p.name for p in step.restore(tmp_path / only, "torch", only=only)] == [f"{only}.pt"]
    step.restore(tmp_path / "flat", "safetensors")
    assert identical(by_key(load_file(tmp_path / "flat" / "model.safetensors")), by_key(model))
    assert (tmp_path / "flat" / "optim.pt").exists()
    step.restore(tmp_path / "dcp", "dcp")
    state = blank({"model": model, "optim": optim})
    load(state, storage_reader=FileSystemReader(tmp_path / "dcp"), no_dist=True)
    assert identical(state, {"model": model, "optim": optim})
    torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4)).load_state_dict(
        load_torch(tmp_path / "torch" / "model.pt")
    )


def test_what_is_no_plain_data_keeps_only_its_own_part(tmp_path: Path) -> None:
    folder = plain_file(tmp_path / "in", lambda parts: {**parts, "scheduler": fractions.Fraction(1, 3)})
    step = imported(folder).step(1)
    with pytest.raises(UnsupportedDataError, match=r"fractions\.Fraction"):
        step.restore(tmp_path / "out", "torch")
    step.restore(tmp_path / "out", "torch", only="model")
    assert set(load_torch(tmp_path / "out" / "model.pt")) == {"0.weight", "0.bias", "1.weight", "1.bias"}
