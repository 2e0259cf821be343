"""What is written in each format is the state, as the tools of that format read it; and it appears as a whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict_loader import load

from deltackpt import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import (
    BackendError,
    IncompleteStepError,
    InvalidArgumentError,
    TensorNotFoundError,
    UnsupportedDataError,
    UntrustedObjectError,
)
from deltackpt.store.opened import OpenStore
from deltackpt.testing.faults import RecordingBackend
from tests.dcp.states import State, blank, new_store, save_state
from tests.formats.values import identical

WIDTH, HEADS, KV_HEADS, HIDDEN, LAYERS, VOCABULARY = 8, 4, 2, 24, 2, 10
OLMO_CONFIG = {
    "model": {
        "d_model": WIDTH,
        "n_heads": HEADS,
        "n_kv_heads": KV_HEADS,
        "n_layers": LAYERS,
        "mlp_hidden_size": HIDDEN,
        "weight_tying": False,
        "max_sequence_length": 16,
        "vocab_size": VOCABULARY,
        "embedding_size": 12,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "clip_qkv": None,
    }
}


def olmo_model(norm_after: bool = False) -> dict[str, torch.Tensor]:
    """A state dict with OLMo's names and shapes."""
    generator = torch.Generator().manual_seed(3)
    kv = WIDTH // HEADS * KV_HEADS
    shapes = {"transformer.wte.weight": (12, WIDTH), "transformer.ff_out.weight": (12, WIDTH)}
    for number in range(LAYERS):
        block = f"transformer.blocks.{number}"
        shapes[f"{block}.att_proj.weight"] = (WIDTH + 2 * kv, WIDTH)
        shapes[f"{block}.attn_out.weight"] = (WIDTH, WIDTH)
        shapes[f"{block}.ff_proj.weight"] = (HIDDEN, WIDTH)
        shapes[f"{block}.ff_out.weight"] = (WIDTH, HIDDEN // 2)
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if norm_after:
        state["transformer.ln_f.weight"] = torch.ones(WIDTH)
        for number in range(LAYERS):
            for name in ("attn_norm", "ff_norm", "q_norm", "k_norm"):
                state[f"transformer.blocks.{number}.{name}.weight"] = torch.full((WIDTH,), number + 1.0)
    return state


def a_state() -> State:
    model = olmo_model()
    model["half"] = torch.linspace(0, 1, 300).to(torch.bfloat16).reshape(30, 10)
    moments = {number: {"step": torch.tensor(2.0), "exp_avg": w.float() / 8} for number, w in enumerate(model.values())}
    return {
        "model": model,
        "optim": {"state": moments, "param_groups": [{"lr": 1e-3, "params": list(moments)}]},
        "train": {"step": 7, "seen": [1, 2]},
        "config": {"lr": 1e-3, **OLMO_CONFIG},
    }


@pytest.fixture(scope="module")
def store() -> Store:
    store = new_store()
    save_state(store, 1, a_state())
    return store


def load_torch(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def test_safetensors(store: Store, tmp_path: Path) -> None:
    files = store.step(1).restore(tmp_path / "out", "safetensors")
    assert sorted(path.name for path in files) == ["config.yaml", "model.safetensors", "optim.pt", "train.pt"]
    state = a_state()
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert identical(dict(sorted(found.items())), dict(sorted(state["model"].items())))
    assert identical(load_torch(tmp_path / "out" / "optim.pt"), state["optim"])
    assert identical(load_torch(tmp_path / "out" / "train.pt"), state["train"])


def test_safetensors_in_several_files(store: Store, tmp_path: Path) -> None:
    step, state = store.step(1), a_state()
    limit = 1500
    files = step.restore(tmp_path / "out", "safetensors", only="model", max_shard_bytes=limit)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert {path.name for path in files} == {"model.safetensors.index.json", *index["weight_map"].values()}
    assert len(files) > 3
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in state["model"].values())
    for name, tensor in state["model"].items():
        assert identical(load_file(tmp_path / "out" / index["weight_map"][name])[name], tensor)
    for name in set(index["weight_map"].values()):
        members = load_file(tmp_path / "out" / name)
        assert len(members) == 1 or sum(t.nbytes for t in members.values()) <= limit


def test_what_safetensors_cannot_hold(tmp_path: Path) -> None:
    store = new_store()
    save_state(store, 1, {"model": {"w": torch.ones(2), "_extra_state": "text"}})
    save_state(store, 2, {"model": {"w": torch.ones(2, dtype=torch.float8_e4m3fnuz)}})
    for step, said in ((1, "_extra_state"), (2, "float8_e4m3fnuz")):
        with pytest.raises(UnsupportedDataError, match=said):
            store.step(step).restore(tmp_path / "out", "safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_dcp_folder_is_loaded_by_dcp(store: Store, tmp_path: Path) -> None:
    files = store.step(1).restore(tmp_path / "out", "dcp")
    assert ".metadata" in {path.name for path in files}
    state = a_state()
    loaded = blank(state)
    load(loaded, storage_reader=FileSystemReader(tmp_path / "out"), no_dist=True)
    assert identical(loaded, state)
    # Its own converter finds the nested state again; keys of dicts are strings there.
    dcp_to_torch_save(tmp_path / "out", tmp_path / "all.pt")
    whole = torch.load(tmp_path / "all.pt", weights_only=False)
    assert identical(whole["model"], state["model"])
    assert whole["train"] == state["train"]


def test_one_artifact_of_a_dcp_folder(store: Store, tmp_path: Path) -> None:
    store.step(1).restore(tmp_path / "out", "dcp", only="model")
    described = FileSystemReader(tmp_path / "out").read_metadata()
    assert {name.split(".")[0] for name in described.state_dict_metadata} == {"model"}


def test_olmo_has_names_in_its_optimizer(store: Store, tmp_path: Path) -> None:
    files = store.step(1).restore(tmp_path / "step7-unsharded", "olmo")
    assert sorted(path.name for path in files) == ["config.yaml", "model.pt", "optim.pt", "train.pt"]
    state, out = a_state(), tmp_path / "step7-unsharded"
    assert identical(load_torch(out / "model.pt"), state["model"])
    optim = load_torch(out / "optim.pt")
    names = list(state["model"])
    assert list(optim["state"]) == names
    assert optim["param_groups"] == [{"lr": 1e-3, "params": names}]
    for number, name in enumerate(names):
        assert identical(optim["state"][name], state["optim"]["state"][number])
    assert yaml.safe_load((out / "config.yaml").read_text()) == state["config"]
    assert load_torch(out / "train.pt") == state["train"]


def test_names_that_an_optimizer_lists_count(tmp_path: Path) -> None:
    state = a_state()
    names = list(reversed(state["model"]))
    ids = list(range(len(names)))
    state["optim"]["state"] = {n: {"exp_avg": state["model"][name] * 2} for n, name in zip(ids, names, strict=True)}
    state["optim"]["param_groups"] = [
        {"params": ids[:3], "param_names": names[:3]},
        {"params": ids[3:], "param_names": names[3:]},
    ]
    store = new_store()
    save_state(store, 1, state)
    store.step(1).restore(tmp_path / "out", "olmo", only="optim")
    optim = load_torch(tmp_path / "out" / "optim.pt")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["optim.pt"]
    for name in names:
        assert identical(optim["state"][name]["exp_avg"], state["model"][name] * 2)
    assert optim["param_groups"][0]["params"] == names[:3]


def test_ids_that_mean_nothing_for_sure_are_no_names(tmp_path: Path) -> None:
    state = a_state()
    groups = state["optim"]["param_groups"]
    ids = groups[0]["params"]
    state["optim"]["param_groups"] = [{**groups[0], "params": ids[:2]}, {**groups[0], "params": ids[2:]}]
    store = new_store()
    save_state(store, 1, state)
    swapped = a_state()
    moments = swapped["optim"]["state"]
    moments[0], moments[2] = moments[2], moments[0]
    save_state(store, 2, swapped)
    for step in (1, 2):
        with pytest.raises(UnsupportedDataError, match="ids of the optimizer"):
            store.step(step).restore(tmp_path / "out", "olmo")
    del state["config"]
    save_state(store, 3, state)
    with pytest.raises(IncompleteStepError, match="has no config"):
        store.step(3).restore(tmp_path / "out", "olmo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("norm_after", [False, True])
def test_olmo_under_the_names_of_transformers(norm_after: bool, tmp_path: Path) -> None:
    store, model = new_store(), olmo_model(norm_after)
    config = {"model": {**OLMO_CONFIG["model"], "norm_after": norm_after}}
    save_state(store, 1, {"model": model, "config": config})
    files = store.step(1).restore(tmp_path / "out", "hf")
    assert sorted(path.name for path in files) == ["config.json", "model.safetensors"]
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert len(found) == 2 + 7 * LAYERS + (1 + 4 * LAYERS if norm_after else 0)
    block, layer = "transformer.blocks.1", "model.layers.1"
    q, k, v = model[f"{block}.att_proj.weight"].split([8, 4, 4])
    up, gate = model[f"{block}.ff_proj.weight"].chunk(2)
    expected = {
        "model.embed_tokens.weight": model["transformer.wte.weight"],
        "lm_head.weight": model["transformer.ff_out.weight"],
        f"{layer}.self_attn.q_proj.weight": q,
        f"{layer}.self_attn.k_proj.weight": k,
        f"{layer}.self_attn.v_proj.weight": v,
        f"{layer}.self_attn.o_proj.weight": model[f"{block}.attn_out.weight"],
        f"{layer}.mlp.up_proj.weight": up,
        f"{layer}.mlp.gate_proj.weight": gate,
        f"{layer}.mlp.down_proj.weight": model[f"{block}.ff_out.weight"],
    }
    if norm_after:
        expected |= {
            "model.norm.weight": model["transformer.ln_f.weight"],
            f"{layer}.post_attention_layernorm.weight": model[f"{block}.attn_norm.weight"],
            f"{layer}.post_feedforward_layernorm.weight": model[f"{block}.ff_norm.weight"],
            f"{layer}.self_attn.q_norm.weight": model[f"{block}.q_norm.weight"],
            f"{layer}.self_attn.k_norm.weight": model[f"{block}.k_norm.weight"],
        }
    for name, tensor in expected.items():
        assert identical(found[name], tensor.clone()), name
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    assert described["model_type"] == ("olmo2" if norm_after else "olmo")
    for key, value in (
        ("vocab_size", 12),
        ("hidden_size", WIDTH),
        ("intermediate_size", HIDDEN // 2),
        ("num_hidden_layers", LAYERS),
        ("num_key_value_heads", KV_HEADS),
        ("tie_word_embeddings", False),
    ):
        assert described[key] == value


def test_a_model_with_names_of_transformers(tmp_path: Path) -> None:
    config = {"model_type": "gpt_neox", "hidden_size": 4}
    model = {"gpt_neox.embed_in.weight": torch.randn(6, 4), "embed_out.weight": torch.randn(6, 4)}
    store = new_store()
    save_state(store, 1, {"model": model, "config": config})
    store.step(1).restore(tmp_path / "out", "hf")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config
    assert identical(
        dict(sorted(load_file(tmp_path / "out" / "model.safetensors").items())), dict(sorted(model.items()))
    )


def test_a_model_that_no_config_describes(tmp_path: Path) -> None:
    store, model = new_store(), olmo_model()
    save_state(store, 1, {"model": model})
    with pytest.raises(IncompleteStepError, match="no config"):
        store.step(1).restore(tmp_path / "out", "hf")
    wrong = {"model": {**OLMO_CONFIG["model"], "n_kv_heads": 4}}
    save_state(store, 2, {"model": model, "config": wrong})
    with pytest.raises(UnsupportedDataError, match=r"att_proj.*24 rows"):
        store.step(2).restore(tmp_path / "out", "hf")
    save_state(store, 3, {"model": {**model, "transformer.odd": torch.ones(1)}, "config": OLMO_CONFIG})
    with pytest.raises(UnsupportedDataError, match=r"transformer\.odd"):
        store.step(3).restore(tmp_path / "out", "hf")
    with pytest.raises(TensorNotFoundError, match="optim"):
        store.step(1).restore(tmp_path / "out", "hf", only="optim")
    assert list(tmp_path.iterdir()) == []


class Opaque:
    """What is kept as a pickle."""


@pytest.mark.parametrize("file_format", ["torch", "safetensors", "dcp"])
def test_a_pickle_is_trusted_only_if_asked(file_format: str, tmp_path: Path) -> None:
    store = new_store()
    save_state(store, 1, {"model": {"w": torch.ones(2)}, "train": {"odd": Opaque()}})
    step = store.step(1)
    with pytest.raises(UntrustedObjectError, match=r"train\.odd"):
        step.restore(tmp_path / "out", file_format)
    step.restore(tmp_path / "model", file_format, only="model")
    step.restore(tmp_path / "out", file_format, trust_objects=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def test_wrong_arguments(store: Store, tmp_path: Path) -> None:
    step = store.step(1)
    with pytest.raises(InvalidArgumentError, match="known formats: original, torch, olmo, safetensors, hf, dcp"):
        step.restore(tmp_path / "out", "gguf")
    with pytest.raises(InvalidArgumentError, match="max_shard_bytes"):
        step.restore(tmp_path / "out", "safetensors", max_shard_bytes=0)
    with pytest.raises(IncompleteStepError, match="not imported"):
        step.restore(tmp_path / "out", "original")
    for file_format in ("torch", "olmo", "safetensors", "dcp"):
        with pytest.raises((TensorNotFoundError, IncompleteStepError), match="weights"):
            step.restore(tmp_path / "out", file_format, only="weights")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file_format", ["torch", "safetensors"])
def test_one_artifact_reads_no_other(file_format: str, tmp_path: Path) -> None:
    backend = RecordingBackend(MemoryBackend())
    store = new_store(backend)
    save_state(store, 1, a_state())
    opened = Store(OpenStore(backend, store.opened.config))
    step = opened.step(1)
    packs = {
        p.name.hex(): p.artifact for i in step.manifest.indexes for p in opened.opened.index(i.object).location.packs
    }
    backend.clear()
    step.restore(tmp_path / "out", file_format, only="model")
    gets = [done.key for done in backend.operations if done.key.startswith("packs/")]
    assert {packs[key.rsplit("/", 1)[-1]] for key in gets} == {"model"}


class Failing:
    """A function of the operating system of which one call, counted from 1, fails."""

    def __init__(self, real: Callable[..., Any], at: int) -> None:
        self.real = real
        self.at = at
        self.count = 0
        self.lock = threading.Lock()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        with self.lock:
            self.count += 1
            if self.count == self.at:
                raise OSError(errno.ENOSPC, "full")
        return self.real(*arguments, **named)


@pytest.mark.parametrize("call", ["pwrite", "fsync", "ftruncate", "preadv", "open"])
def test_a_disk_that_fails_at_any_moment_leaves_what_was_there(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("kept")
    real, step = getattr(os, call), store.step(1)
    calls = Failing(real, 0)
    monkeypatch.setattr(os, call, calls)
    step.restore(tmp_path / "whole", "torch")
    monkeypatch.setattr(os, call, real)
    shutil.rmtree(tmp_path / "whole")
    # Once the folder has its name a fault of the last fsync, of the folder around it, comes too late.
    last = calls.count - (call in ("fsync", "open"))
    assert last >= 3
    for at in {1, 2, last // 2, last - 1, last}:
        monkeypatch.setattr(os, call, Failing(real, at))
        with pytest.raises(BackendError, match="No space left"):
            step.restore(out, "torch", force=True)
        monkeypatch.setattr(os, call, real)
        assert {path.name for path in tmp_path.iterdir()} <= {"out", "out.partial"}
        assert [path.name for path in out.iterdir()] == ["mine"]
    step.restore(out, "torch", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_kill_leaves_only_what_is_partial(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed runs no handlers: what it leaves is the folder as it was at that moment."""
    seen: list[list[str]] = []
    real = os.fsync

    def look(descriptor: int) -> None:
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    store.step(1).restore(tmp_path / "out", "torch")
    assert len(seen) >= 6
    assert {tuple(names) for names in seen[:-1]} == {("out.partial",)}
    assert seen[-1] == ["out"]
