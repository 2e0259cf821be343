"""Imported files in other formats: names change, content does not, and nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load

from deltackpt import Store
from deltackpt.errors import IncompleteStepError, UnsupportedDataError
from tests.dcp.states import blank, new_store
from tests.formats.imported import contents, hf_model_folder, import_folder, olmo_folder, weights
from tests.formats.test_restore_formats import OLMO_CONFIG, olmo_model
from tests.formats.values import identical


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = new_store()
    import_folder(store, 1, olmo_folder(tmp_path / "1", 1))
    import_folder(store, 2, hf_model_folder(tmp_path / "2", 2))
    return store


def load_torch(path: Path) -> object:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("file_format", ["torch", "olmo"])
def test_what_is_in_the_format_already_is_passed_on(file_format: str, store: Store, tmp_path: Path) -> None:
    store.step(1).restore(tmp_path / "out", file_format)
    assert contents(tmp_path / "out") == contents(tmp_path / "1")
    store.step(1).restore(tmp_path / "optim", file_format, only="optim")
    assert [path.name for path in (tmp_path / "optim").iterdir()] == ["optim.pt"]


def test_a_folder_of_transformers_as_torch_files(store: Store, tmp_path: Path) -> None:
    store.step(2).restore(tmp_path / "out", "torch")
    out = tmp_path / "out"
    found = load_torch(out / "model.pt")
    assert isinstance(found, dict)
    assert identical(dict(sorted(found.items())), dict(sorted(weights(2).items())))
    assert (out / "optim.pt").read_bytes() == (tmp_path / "2" / "optimizer.pt").read_bytes()
    assert (out / "tokenizer.json").read_text() == "{}"
    with pytest.raises(IncompleteStepError, match="no config, train"):
        store.step(2).restore(tmp_path / "olmo", "olmo")
    with pytest.raises(UnsupportedDataError, match="ids of the optimizer"):
        store.step(2).restore(tmp_path / "olmo", "olmo", only="optim")
    assert not (tmp_path / "olmo").exists()


def test_safetensors_with_tied_and_sliced_tensors(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    base = torch.arange(6000.0).reshape(60, 100)
    model = {"whole": base, "tied": base, "rows": base[10:20], "t": torch.arange(12.0).reshape(3, 4).clone()}
    torch.save(model, folder / "model.pt")
    store = new_store()
    import_folder(store, 1, folder)
    files = store.step(1).restore(tmp_path / "out", "safetensors")
    assert [path.name for path in files] == ["model.safetensors"]
    found = load_file(files[0])
    assert {name: tensor.tolist() for name, tensor in found.items()} == {n: t.tolist() for n, t in model.items()}
    torch.save({"t": base.T}, folder / "model.pt")
    import_folder(store, 2, folder)
    with pytest.raises(UnsupportedDataError, match="strides"):
        store.step(2).restore(tmp_path / "strided", "safetensors")
    store.step(2).restore(tmp_path / "torch", "torch")
    assert (tmp_path / "torch" / "model.pt").read_bytes() == (folder / "model.pt").read_bytes()


def test_olmos_files_for_transformers(tmp_path: Path) -> None:
    folder = olmo_folder(tmp_path / "in")
    torch.save(olmo_model(), folder / "model.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump(OLMO_CONFIG))
    store = new_store()
    import_folder(store, 1, folder)
    store.step(1).restore(tmp_path / "out", "hf")
    found = load_file(tmp_path / "out" / "model.safetensors")
    q, _, _ = olmo_model()["transformer.blocks.0.att_proj.weight"].split([8, 4, 4])
    assert torch.equal(found["model.layers.0.self_attn.q_proj.weight"], q)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "olmo"


def test_weights_for_dcp(store: Store, tmp_path: Path) -> None:
    store.step(2).restore(tmp_path / "out", "dcp", only="model")
    state = blank({"model": weights(2)})
    load(state, storage_reader=FileSystemReader(tmp_path / "out"), no_dist=True)
    assert identical(state["model"], weights(2))


def test_the_parts_of_ranks_are_not_taken_for_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for rank in range(2):
        torch.save({"model": {"flat": torch.ones(8) * rank}}, folder / f"rank{rank}.pt")
    store = new_store()
    import_folder(store, 1, folder)
    for file_format in ("safetensors", "hf"):
        with pytest.raises(UnsupportedDataError, match="do not say what they are parts of"):
            store.step(1).restore(tmp_path / "out", file_format)
    store.step(1).restore(tmp_path / "original")
    assert contents(tmp_path / "original") == contents(folder)
