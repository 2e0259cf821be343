"""The tensors that a model has by its config: names and shapes. Pure.

OLMo's are those of ``olmo/model.py`` in allenai/OLMo; the others those of the modules of ``transformers`` that
``model_type`` names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from deltackpt.errors import UnsupportedDataError

__all__ = ["expected_shapes"]

Shape: TypeAlias = "tuple[int, ...]"
Shapes: TypeAlias = "dict[str, Shape]"


def expected_shapes(config: Mapping[str, Any], where: str) -> Shapes:
    """Names to shapes of a model's tensors.

    Args:
        config: OLMo's (the whole of config.yaml, or its ``model``) or that of ``transformers``.
        where: the file, for errors.

    Raises:
        UnsupportedDataError: the config does not say, or it is of a model whose tensors are not known here.
    """
    nested = config.get("model")
    model = nested if isinstance(nested, Mapping) else config
    kind = model.get("model_type")
    derive = _KINDS.get(kind) if isinstance(kind, str) else _olmo if "d_model" in model else None
    if derive is None:
        known = ", ".join(sorted(_KINDS))
        raise UnsupportedDataError(
            "the shapes of tensors cannot be told from this config",
            where=where,
            hint=f"it is none of OLMo's or with model_type {known}; compare with a folder of weights or another step",
        )
    try:
        return derive(model)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UnsupportedDataError(f"the config lacks {error}, or it makes no sense", where=where) from error


def _olmo(config: Mapping[str, Any]) -> Shapes:
    width, heads = int(config["d_model"]), int(config["n_heads"])
    hidden = int(config.get("mlp_hidden_size") or config.get("mlp_ratio", 4) * width)
    kv_heads = int(config.get("n_kv_heads") or (1 if config.get("multi_query_attention") else heads))
    kv_width, vocabulary = width // heads * kv_heads, int(config.get("embedding_size") or config["vocab_size"])
    gated = str(config.get("activation_type", "swiglu")) == "swiglu"
    norms = {"attn_norm.weight": (width,), "ff_norm.weight": (width,)}
    if config.get("attention_layer_norm"):
        norms |= {"q_norm.weight": (width,), "k_norm.weight": (kv_width,)}
    parametric = bool(config.get("layer_norm_with_affine", True))
    block: Shapes = {
        "att_proj.weight": (width + 2 * kv_width, width),
        "attn_out.weight": (width, width),
        "ff_proj.weight": (hidden, width),
        "ff_out.weight": (width, hidden // 2 if gated else hidden),
        **(norms if parametric else {}),
    }
    if config.get("include_bias"):
        block |= {name.replace(".weight", ".bias"): shape[:1] for name, shape in dict(block).items()}
    shapes: Shapes = {"transformer.wte.weight": (vocabulary, width)}
    if not config.get("rope") and not config.get("alibi"):
        shapes["transformer.wpe.weight"] = (int(config["max_sequence_length"]), width)
    if parametric:
        shapes["transformer.ln_f.weight"] = (width,)
    if not config.get("weight_tying", True):
        shapes["transformer.ff_out.weight"] = (vocabulary, width)
    return _with_blocks(shapes, "transformer.blocks", int(config["n_layers"]), block)


def _llama(config: Mapping[str, Any]) -> Shapes:
    width, heads, hidden = (int(config[k]) for k in ("hidden_size", "num_attention_heads", "intermediate_size"))
    kind, vocabulary = config["model_type"], int(config["vocab_size"])
    head = int(config.get("head_dim") or width // heads)
    kv_width, q_width = head * int(config.get("num_key_value_heads") or heads), head * heads
    block: Shapes = {
        "self_attn.q_proj.weight": (q_width, width),
        "self_attn.k_proj.weight": (kv_width, width),
        "self_attn.v_proj.weight": (kv_width, width),
        "self_attn.o_proj.weight": (width, q_width),
        "mlp.gate_proj.weight": (hidden, width),
        "mlp.up_proj.weight": (hidden, width),
        "mlp.down_proj.weight": (width, hidden),
    }
    if kind == "qwen2" or config.get("attention_bias"):
        names = ("q", "k", "v") if kind == "qwen2" else ("q", "k", "v", "o")
        block |= {f"self_attn.{n}_proj.bias": block[f"self_attn.{n}_proj.weight"][:1] for n in names}
    if kind == "olmo2":
        block |= {"self_attn.q_norm.weight": (q_width,), "self_attn.k_norm.weight": (kv_width,)}
        block |= {f"post_{name}_layernorm.weight": (width,) for name in ("attention", "feedforward")}
    elif kind == "qwen3":
        block |= {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
    if kind not in ("olmo", "olmo2"):
        block |= {"input_layernorm.weight": (width,), "post_attention_layernorm.weight": (width,)}
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, width)}
    if kind != "olmo":
        shapes["model.norm.weight"] = (width,)
    if not config.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (vocabulary, width)
    return _with_blocks(shapes, "model.layers", int(config["num_hidden_layers"]), block)


def _gpt_neox(config: Mapping[str, Any]) -> Shapes:
    width, hidden, vocabulary = (int(config[k]) for k in ("hidden_size", "intermediate_size", "vocab_size"))
    block: Shapes = {
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
        "attention.query_key_value.weight": (3 * width, width),
        "attention.dense.weight": (width, width),
        "mlp.dense_h_to_4h.weight": (hidden, width),
        "mlp.dense_4h_to_h.weight": (width, hidden),
    }
    biased = {n: s for n, s in block.items() if "attention." not in n or config.get("attention_bias", True)}
    block |= {name.replace(".weight", ".bias"): shape[:1] for name, shape in biased.items()}
    shapes: Shapes = {
        "gpt_neox.embed_in.weight": (vocabulary, width),
        "gpt_neox.final_layer_norm.weight": (width,),
        "gpt_neox.final_layer_norm.bias": (width,),
    }
    if not config.get("tie_word_embeddings", False):
        shapes["embed_out.weight"] = (vocabulary, width)
    return _with_blocks(shapes, "gpt_neox.layers", int(config["num_hidden_layers"]), block)


def _gpt2(config: Mapping[str, Any]) -> Shapes:
    width, vocabulary = int(config["n_embd"]), int(config["vocab_size"])
    hidden = int(config.get("n_inner") or 4 * width)
    # Its linear layers are transposed: (inputs, outputs).
    linear = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width)}
    linear |= {"mlp.c_fc": (width, hidden), "mlp.c_proj": (hidden, width)}
    block: Shapes = {}
    for name, (inputs, outputs) in linear.items():
        block |= {f"{name}.weight": (inputs, outputs), f"{name}.bias": (outputs,)}
    for name in ("ln_1", "ln_2"):
        block |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    shapes: Shapes = {
        "transformer.wte.weight": (vocabulary, width),
        "transformer.wpe.weight": (int(config["n_positions"]), width),
        "transformer.ln_f.weight": (width,),
        "transformer.ln_f.bias": (width,),
    }
    if not config.get("tie_word_embeddings", True):
        shapes["lm_head.weight"] = (vocabulary, width)
    return _with_blocks(shapes, "transformer.h", int(config["n_layer"]), block)


def _with_blocks(shapes: Shapes, prefix: str, count: int, block: Shapes) -> Shapes:
    blocks = {f"{prefix}.{number}.{name}": shape for number in range(count) for name, shape in block.items()}
    return {**shapes, **blocks}


_KINDS: Final[Mapping[str, Callable[[Mapping[str, Any]], Shapes]]] = {
    **dict.fromkeys(("llama", "mistral", "olmo", "olmo2", "qwen2", "qwen3"), _llama),
    "gpt_neox": _gpt_neox,
    "gpt2": _gpt2,
}
"""By ``model_type``."""
