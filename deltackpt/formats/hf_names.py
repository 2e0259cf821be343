"""A model of a training framework under the names that ``transformers`` gives its tensors, and its ``config.json``.

Names and layouts of OLMo are those of ``olmo/model.py`` in allenai/OLMo; those of ``transformers`` are in its modules
olmo and olmo2 and the conversion scripts beside them. A state that has the names of ``transformers`` already (GPT-2,
Llama, GPT-NeoX as Pythia, and all others) is taken as it is where its config says what it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from deltackpt.errors import IncompleteStepError, UnsupportedDataError

__all__ = ["HfModel", "to_hf"]

_OLMO_MARK: Final = "transformer.wte.weight"


@dataclass(frozen=True, slots=True)
class HfModel:
    """A model for ``from_pretrained``.

    Attributes:
        tensors: by their names in ``transformers``.
        config: what ``config.json`` holds.
    """

    tensors: Mapping[str, torch.Tensor]
    config: Mapping[str, object]

    @property
    def config_text(self) -> str:
        """``config.json``."""
        return json.dumps(self.config, indent=2, sort_keys=True) + "\n"


def to_hf(tensors: Mapping[str, torch.Tensor], config: object) -> HfModel:
    """The model under the names of ``transformers``.

    Args:
        tensors: the model's, by name; parts that are cut out of fused ones are views.
        config: that of the step: OLMo's (with a member ``model``) or one of ``transformers`` (with ``model_type``).

    Raises:
        IncompleteStepError: there is no config, or it does not say what the model is.
        UnsupportedDataError: the tensors are not those that the config describes.
    """
    values = config if isinstance(config, Mapping) else {}
    nested = values.get("model")
    if isinstance(values.get("model_type"), str):
        return HfModel(dict(tensors), dict(values))
    if isinstance(nested, Mapping) and isinstance(nested.get("model_type"), str) and _OLMO_MARK not in tensors:
        return HfModel(dict(tensors), dict(nested))
    olmo = nested if isinstance(nested, Mapping) else values
    if "d_model" in olmo and _OLMO_MARK in tensors:
        return _from_olmo(tensors, olmo)
    raise IncompleteStepError(
        "no config of the step says how its model is called in transformers",
        where="config",
        hint="a config is OLMo's, or one with model_type; the format safetensors keeps the names as they are",
    )


def _from_olmo(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> HfModel:
    norm_after = bool(config.get("norm_after", False))
    shapes = _Shapes.of(config)
    found = {
        new: part for name, tensor in tensors.items() for new, part in _olmo_tensor(name, tensor, shapes, norm_after)
    }
    tied = bool(config.get("weight_tying", True))
    if not tied and "lm_head.weight" not in found:
        raise UnsupportedDataError(
            "the config says that the head has weights of its own, but there are none",
            where="transformer.ff_out.weight",
        )
    if tied:
        found.pop("lm_head.weight", None)
    return HfModel(found, _olmo_config(config, shapes, norm_after, tied))


@dataclass(frozen=True, slots=True)
class _Shapes:
    """Sizes that fused tensors are cut by."""

    width: int
    heads: int
    kv_heads: int
    hidden: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> _Shapes:
        width, heads = int(config["d_model"]), int(config["n_heads"])
        kv_heads = config.get("n_kv_heads")
        if kv_heads is None:
            kv_heads = 1 if config.get("multi_query_attention") else heads
        hidden = config.get("mlp_hidden_size")
        if hidden is None:
            hidden = int(config.get("mlp_ratio", 4) * width)
        return cls(width, heads, int(kv_heads), int(hidden))

    @property
    def kv_width(self) -> int:
        return self.width // self.heads * self.kv_heads


_TOP: Final = {
    "transformer.wte.weight": "model.embed_tokens.weight",
    "transformer.ln_f.weight": "model.norm.weight",
    "transformer.ff_out.weight": "lm_head.weight",
}
_BLOCK: Final = {
    "attn_out.weight": "self_attn.o_proj.weight",
    "attn_out.bias": "self_attn.o_proj.bias",
    "ff_out.weight": "mlp.down_proj.weight",
    "q_norm.weight": "self_attn.q_norm.weight",
    "k_norm.weight": "self_attn.k_norm.weight",
}


def _olmo_tensor(name: str, tensor: torch.Tensor, shapes: _Shapes, norm_after: bool) -> list[tuple[str, torch.Tensor]]:
    """What a tensor of OLMo is in transformers: names and the rows of each."""
    if name in _TOP:
        return [(_TOP[name], tensor)]
    prefix, _, rest = name.partition("transformer.blocks.")
    number, _, member = rest.partition(".")
    layer = f"model.layers.{number}"
    if prefix == "" and number.isdigit():
        if member in _BLOCK:
            return [(f"{layer}.{_BLOCK[member]}", tensor)]
        part, _, kind = member.rpartition(".")
        if part == "att_proj":
            sizes = {"q": shapes.width, "k": shapes.kv_width, "v": shapes.kv_width}
            names = {key: f"{layer}.self_attn.{key}_proj.{kind}" for key in sizes}
            return _cut(name, tensor, [(names[key], size) for key, size in sizes.items()])
        if part == "ff_proj":
            half = shapes.hidden // 2
            return _cut(name, tensor, [(f"{layer}.mlp.up_proj.{kind}", half), (f"{layer}.mlp.gate_proj.{kind}", half)])
        if member == "attn_norm.weight":
            return [(f"{layer}.{'post_attention_layernorm' if norm_after else 'input_layernorm'}.weight", tensor)]
        if member == "ff_norm.weight":
            after = "post_feedforward_layernorm" if norm_after else "post_attention_layernorm"
            return [(f"{layer}.{after}.weight", tensor)]
    raise UnsupportedDataError(
        "transformers has no tensor for this one of OLMo's", where=name, hint="restore it with the format safetensors"
    )


def _cut(name: str, tensor: torch.Tensor, parts: list[tuple[str, int]]) -> list[tuple[str, torch.Tensor]]:
    total = sum(size for _, size in parts)
    if tensor.ndim == 0 or tensor.shape[0] != total:
        raise UnsupportedDataError(
            f"its shape is {list(tensor.shape)}, but by the config it has {total} rows", where=name
        )
    cut: Callable[..., tuple[torch.Tensor, ...]] = tensor.split
    return [(new, rows) for (new, _), rows in zip(parts, cut([size for _, size in parts]), strict=True)]


def _olmo_config(config: Mapping[str, Any], shapes: _Shapes, norm_after: bool, tied: bool) -> dict[str, object]:
    common: dict[str, object] = {
        "architectures": ["Olmo2ForCausalLM" if norm_after else "OlmoForCausalLM"],
        "model_type": "olmo2" if norm_after else "olmo",
        "vocab_size": config.get("embedding_size") or config.get("vocab_size"),
        "hidden_size": shapes.width,
        "intermediate_size": shapes.hidden // 2,
        "num_hidden_layers": config.get("n_layers"),
        "num_attention_heads": shapes.heads,
        "num_key_value_heads": shapes.kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": config.get("max_sequence_length"),
        "pad_token_id": config.get("pad_token_id"),
        "bos_token_id": None,
        "eos_token_id": config.get("eos_token_id"),
        "tie_word_embeddings": tied,
        "rope_theta": float(config.get("rope_theta", 10000.0)),
        "attention_bias": bool(config.get("include_bias", False)),
    }
    if norm_after:
        common["rms_norm_eps"] = config.get("layer_norm_eps", 1e-5)
    else:
        common["clip_qkv"] = config.get("clip_qkv")
    return common
