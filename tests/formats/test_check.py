"""What keeps a step from being resumed is named before it is tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from deltackpt import Store
from deltackpt.errors import DamagedFileError, InvalidArgumentError, TensorNotFoundError, UnsupportedDataError
from deltackpt.formats.expected import expected_shapes
from tests.dcp.states import new_store, save_state
from tests.formats.imported import import_folder, olmo_folder, weights
from tests.formats.test_restore_formats import OLMO_CONFIG, olmo_model


@pytest.fixture
def store() -> Store:
    store = new_store()
    optim = {"state": {name: {"exp_avg": w} for name, w in weights().items()}, "param_groups": [{"params": []}]}
    save_state(store, 1, {"model": weights(), "optim": optim})
    return store


def write(kind: str, model: dict[str, torch.Tensor], at: Path) -> Path:
    at.mkdir()
    if kind == "safetensors":
        names = sorted(model)
        save_file({name: model[name] for name in names[:1]}, at / "model-00001-of-00002.safetensors")
        save_file({name: model[name] for name in names[1:]}, at / "model-00002-of-00002.safetensors")
    elif kind == "torch":
        torch.save(model, at / "model.pt")
    elif kind == "nested":
        torch.save({"epoch": 3, "model_state_dict": model, "optimizer": {"state": {}}}, at / "run.ckpt")
    else:
        save({"model": model}, storage_writer=FileSystemWriter(at), no_dist=True)
    return at


@pytest.mark.parametrize("kind", ["safetensors", "torch", "nested", "dcp"])
def test_differences_are_named(kind: str, store: Store, tmp_path: Path) -> None:
    step = store.step(1)
    report = step.check(write(kind, weights(), tmp_path / "same"))
    assert report.ok, report
    assert report.tensors == 3
    other = weights()
    other["new.weight"] = torch.ones(1)
    del other["embed.weight"]
    other["layer.weight"] = torch.ones(17, 16)
    other["layer.bias"] = other["layer.bias"].half()
    report = step.check(write(kind, other, tmp_path / "other"))
    assert not report.ok
    assert report.missing == ("new.weight",)
    assert report.extra == ("embed.weight",)
    assert report.shapes == {"layer.weight": ((16, 16), (17, 16))}
    # What DCP wrote is read from its metadata, which is enough for names and shapes.
    assert report.dtypes == ({} if kind == "dcp" else {"layer.bias": ("float32", "float16")})


def test_another_step_and_an_optimizer(store: Store, tmp_path: Path) -> None:
    save_state(store, 2, {"model": {**weights(), "more": torch.ones(2)}})
    assert store.step(1).check(store.step(2)).missing == ("more",)
    assert store.step(2).check(store.step(1)).extra == ("more",)
    assert store.step(1).check(store.step(1), only="optim").ok
    with pytest.raises(TensorNotFoundError, match="it has: model"):
        store.step(2).check(store.step(1), only="optim")
    imported = new_store()
    import_folder(imported, 1, olmo_folder(tmp_path / "in"))
    report = imported.step(1).check(tmp_path / "in", only="optim")
    assert report.ok
    assert report.tensors == 6
    assert imported.step(1).check(tmp_path / "in" / "optim.pt", only="optim").ok


@pytest.mark.parametrize("norm_after", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_a_config_of_olmo(norm_after: bool, whole: bool, tmp_path: Path) -> None:
    store, model = new_store(), olmo_model(norm_after)
    if norm_after:  # OLMo normalises keys at their own width
        for number in (0, 1):
            model[f"transformer.blocks.{number}.k_norm.weight"] = torch.ones(4)
    save_state(store, 1, {"model": model})
    affine = {"layer_norm_with_affine": norm_after, "attention_layer_norm": norm_after, "rope": True}
    config: dict[str, Any] = {**OLMO_CONFIG["model"], **affine}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"model": config} if whole else config))
    report = store.step(1).check(path)
    assert report.ok, report
    path.write_text(yaml.safe_dump({"model": {**config, "n_layers": 3, "mlp_hidden_size": 32}}))
    report = store.step(1).check(tmp_path)
    assert len(report.missing) == (8 if norm_after else 4)
    assert report.shapes["transformer.blocks.0.ff_proj.weight"] == ((24, 8), (32, 8))


LLAMA = {"hidden_size": 8, "num_attention_heads": 4, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 10}


@pytest.mark.parametrize(
    ("config", "count", "sample"),
    [
        (
            {"model_type": "llama", "num_key_value_heads": 2, **LLAMA},
            21,
            ("model.layers.1.self_attn.k_proj.weight", (4, 8)),
        ),
        (
            {"model_type": "qwen2", "tie_word_embeddings": True, **LLAMA},
            26,
            ("model.layers.0.self_attn.q_proj.bias", (8,)),
        ),
        ({"model_type": "qwen3", "head_dim": 4, **LLAMA}, 25, ("model.layers.0.self_attn.q_norm.weight", (4,))),
        ({"model_type": "olmo", **LLAMA}, 16, ("lm_head.weight", (10, 8))),
        ({"model_type": "olmo2", **LLAMA}, 25, ("model.layers.0.post_feedforward_layernorm.weight", (8,))),
        ({"model_type": "gpt_neox", **LLAMA}, 28, ("gpt_neox.layers.1.attention.query_key_value.bias", (24,))),
        (
            {"model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_positions": 16, "vocab_size": 10},
            28,
            ("transformer.h.1.mlp.c_fc.weight", (8, 32)),
        ),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_configs_of_transformers(config: dict[str, Any], count: int, sample: tuple[str, tuple[int, ...]]) -> None:
    shapes = expected_shapes(config, "config.json")
    assert len(shapes) == count
    assert shapes[sample[0]] == sample[1]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("LlamaConfig", "LlamaForCausalLM"), ("Qwen2Config", "Qwen2ForCausalLM")]
    + [(f"{k}Config", f"{k}ForCausalLM") for k in ("Olmo", "Olmo2", "Qwen3", "Mistral", "GPTNeoX")]
    + [("GPT2Config", "GPT2LMHeadModel")],
)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_transformers_has_the_same_tensors(kind: str, name: str, tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    sizes: dict[str, Any] = {**LLAMA, "num_key_value_heads": 2, "tie_word_embeddings": tied, "pad_token_id": 0}
    if kind == "GPT2Config":
        sizes = {
            "n_embd": 8,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 16,
            "vocab_size": 10,
            "tie_word_embeddings": tied,
        }
    if kind == "GPTNeoXConfig":
        del sizes["num_key_value_heads"]
    config = getattr(transformers, kind)(**sizes)
    with torch.device("meta"):
        model = getattr(transformers, name)(config)
    # Two names of one tensor: transformers writes the first.
    state = {
        n: tuple(t.shape)
        for n, t in model.state_dict().items()
        if not (tied and n in ("lm_head.weight", "embed_out.weight"))
    }
    if kind == "GPTNeoXConfig" and "lm_head.weight" in state:  # its name in new versions; on the hub it is the old one
        state["embed_out.weight"] = state.pop("lm_head.weight")
    buffers = {n for n, _ in model.named_buffers()}
    assert expected_shapes(config.to_dict(), "config") == {n: s for n, s in state.items() if n not in buffers}


def test_what_cannot_be_compared(store: Store, tmp_path: Path) -> None:
    step = store.step(1)
    with pytest.raises(InvalidArgumentError, match="no such file"):
        step.check(tmp_path / "none")
    with pytest.raises(InvalidArgumentError, match="no tensors"):
        step.check(tmp_path)
    config = tmp_path / "config.json"
    for text, error in (
        ("{", DamagedFileError),
        ('{"model_type": "unheard"}', UnsupportedDataError),
        ('{"model_type": "llama"}', UnsupportedDataError),
        (json.dumps({"model_type": "llama", **LLAMA, "num_attention_heads": 0}), UnsupportedDataError),
        ("{}", UnsupportedDataError),
    ):
        config.write_text(text)
        with pytest.raises(error, match=r"config\.json"):
            step.check(config)
