from __future__ import annotations

from pathlib import Path

import torch

from deltackpt import Store
from tests.cli.helpers import Run, make_state, save


def test_layers_and_tensors(cli: Run, store: Path) -> None:
    ran = cli("diff", store, "100", "latest")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "from main:100 to main:300"
    assert [line.split()[0] for line in lines[2:5]] == ["layer", "model", "optim.state.0"]
    assert "train.step" in ran.out
    tensors = cli("diff", store, "100", "300", "--tensors", "--prefix", "model.").out
    assert "model.half" in tensors
    assert "optim" not in tensors


def test_the_document(cli: Run, store: Path) -> None:
    state = make_state(300)
    del state["model"]["half"]
    state["model"]["new"] = state["model"]["weight"] * 2
    save(str(store), 400, state)
    document = cli("diff", store, "300", "400", "--json").document
    assert document["a"] == {"branch": "main", "step": 300, "generation": 1}
    tensors = {tensor["fqn"]: tensor for tensor in document["tensors"]}
    assert {name: tensor["status"] for name, tensor in tensors.items() if tensor["kind"] == "tensor"} == {
        "model.weight": "same",
        "model.new": "added",
        "optim.state.0.exp_avg": "same",
        "model.half": "removed",
    }
    assert (tensors["model.weight"]["l2"], tensors["model.weight"]["cosine"]) == (0.0, 1.0)
    assert tensors["train.step"]["l2"] is None
    assert [layer["name"] for layer in document["layers"]] == ["model", "optim.state.0"]
    text = cli("diff", store, "300", "400").out
    assert "only in B" in text
    assert "only in A" in text


def test_between_branches_and_what_is_not_there(cli: Run, store: Path) -> None:
    assert cli("diff", store, "tuned:250", "main:latest").out.startswith("from tuned:250 to main:300")
    ran = cli("diff", store, "100", "150")
    assert ran.code == 13
    assert "nearest" in ran.err
    assert cli("diff", store, "100", "200", "--prefix", "zzz").code == 14


def test_the_library_says_the_same(cli: Run, store: Path) -> None:
    found = Store.open(store).diff("100", 300)
    document = cli("diff", store, "100", "300", "--json").document
    assert [(t["fqn"], t["changed"], t["l2"]) for t in document["tensors"] if t["kind"] == "tensor"] == [
        (t.fqn, t.sums.changed, t.sums.l2) for t in found.tensors if t.kind == "tensor"
    ]


def test_what_counts_steps_does_not_drown_its_layer(cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "adam"
    Store.create(path)
    for step in (1000, 2000):
        state = {"0": {"step": torch.tensor(float(step)), "exp_avg": torch.full((8,), 1 + step * 1e-6)}}
        save(str(path), step, {"optim": {"state": state, "param_groups": [{"lr": 1e-3, "params": [0]}]}})
    document = cli("diff", path, "1000", "2000", "--json").document
    (layer,) = document["layers"]
    assert (layer["tensors"], layer["elements"]) == (1, 8)
    assert 0 < layer["l2"] < 1
    counters = {tensor["fqn"]: tensor["counter"] for tensor in document["tensors"] if tensor["kind"] == "tensor"}
    assert counters == {"optim.state.0.exp_avg": False, "optim.state.0.step": True}
    assert "without 1 counter of steps" in cli("diff", path, "1000", "2000").out
    assert "optim.state.0.step" in cli("diff", path, "1000", "2000", "--tensors").out
