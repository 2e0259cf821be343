"""Checkpoints as ranks write them in parts, made from whole states in one process."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata, TensorProperties
from torch.distributed._shard.sharded_tensor.shard import Shard
from torch.distributed.fsdp._flat_param import _ShardParamInfo
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.formats.imported import weights

Tensors = Mapping[str, torch.Tensor]


def moments(model: Tensors) -> dict[str, dict[str, torch.Tensor]]:
    """The state of an optimizer for each of the weights."""
    return {n: {"step": torch.tensor(7.0), "exp_avg": w / 8, "exp_avg_sq": w.square()} for n, w in model.items()}


def optim_by_name(model: Tensors) -> dict[str, Any]:
    """As OLMo has it in ``optim.pt``."""
    group = {"lr": 1e-3, "betas": (0.9, 0.95), "param_names": list(model), "params": list(model)}
    return {"state": moments(model), "param_groups": [group]}


def save(value: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that ShardedTensor is old
        torch.save(value, path)


def _flat_range(model: Tensors, rank: int, ranks: int) -> tuple[int, int, int]:
    """The first and the last element that a rank has of all weights one after another, and the padding at its end."""
    total = sum(w.numel() for w in model.values())
    size = -(-total // ranks)
    start = min(rank * size, total)
    end = min(start + size, total)
    return start, end, size - (end - start)


def _inside(model: Tensors, start: int, end: int) -> dict[str, tuple[int, int]]:
    """The elements of each weight that lie in a range: first, and the one behind the last."""
    found, at = {}, 0
    for name, w in model.items():
        low, high = max(start, at), min(end, at + w.numel())
        found[name] = (low - at, high - at) if low < high else (0, 0)
        at += w.numel()
    return found


def olmo_local(folder: Path, ranks: int = 3, *, old: bool = False) -> Path:
    """As ``LocalShardedCheckpointer`` of OLMo; ``old``: with the metadata of torch 2.0."""
    model = weights(3)
    flat = torch.cat([w.flatten() for w in model.values()])
    prefix = "_fsdp_wrapped_module.transformer"
    ids = {name: number for number, name in enumerate(model)}
    for rank in range(ranks):
        start, end, padding = _flat_range(model, rank, ranks)
        inside = _inside(model, start, end)
        handle: dict[str, Any] = {
            "flat_param.data": torch.cat([flat[start:end], torch.zeros(padding)]),
            "flat_param._fqns": tuple(model),
            "flat_param._shapes": tuple(w.shape for w in model.values()),
            "flat_param._shard_numel_padded": padding,
        }
        if old:
            touched = [number for number, (low, high) in enumerate(inside.values()) if low < high]
            handle["flat_param._shard_indices"] = (touched[0], touched[-1])
            handle["flat_param._shard_param_offsets"] = tuple((a, b - 1) for a, b in inside.values() if a < b)
        else:
            infos, at = [], 0
            for low, high in inside.values():
                if low < high:
                    infos.append(_ShardParamInfo(True, at, high - low, low, high - 1))
                    at += high - low
                else:
                    infos.append(_ShardParamInfo(False, None, None, None, None))
            handle["flat_param._shard_param_infos"] = tuple(infos)
        save({"modules": [{"name": prefix, "handles": [handle]}]}, folder / f"model/rank{rank}.pt")
        state = {
            ids[name]: {
                key: value if value.ndim == 0 else value.flatten()[slice(*inside[name])].clone()
                for key, value in own.items()
            }
            for name, own in moments(model).items()
        }
        names = [f"{prefix}.{name}" for name in model]
        group = {"lr": 1e-3, "betas": (0.9, 0.95), "param_names": names, "params": list(ids.values())}
        save({"state": state, "param_groups": [group]}, folder / f"optim/rank{rank}.pt")
        save({"global_step": 3, "rank": rank}, folder / f"train/rank{rank}.pt")
    (folder / "metadata.yaml").write_text(f"world_size: {ranks}\n")
    (folder / "config.yaml").write_text("run_name: small\n")
    return folder


def _sharded(whole: torch.Tensor, rank: int, ranks: int) -> ShardedTensor:
    """A rank's rows of a tensor, with the places of all."""
    parts = whole.chunk(ranks)
    places = []
    at = 0
    for number, part in enumerate(parts):
        offsets = [at] + [0] * (whole.ndim - 1)
        places.append(ShardMetadata(offsets, list(part.shape), f"rank:{number}/cpu"))
        at += part.shape[0]
    own = [Shard(parts[rank].clone(), places[rank])] if rank < len(parts) else []
    about = ShardedTensorMetadata(places, whole.shape, TensorProperties(whole.dtype))
    return ShardedTensor._init_from_local_shards_and_global_metadata(own, about)


def olmo_legacy(folder: Path, ranks: int = 3) -> Path:
    """As ``TorchLegacyShardedCheckpointer`` of OLMo."""
    model = weights(3)
    for rank in range(ranks):
        dist.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
        try:
            state = {
                name: {k: v if v.ndim == 0 else _sharded(v, rank, ranks) for k, v in own.items()}
                for name, own in moments(model).items()
            }
            value = {
                "model": OrderedDict((name, _sharded(w, rank, ranks)) for name, w in model.items()),
                "optim": {"state": state, "param_groups": optim_by_name(model)["param_groups"]},
                "global_step": 3,
                "checkpoints": [Path("runs/step1")],
                "rng": {"python": (3, object)},
            }
            save(value, folder / f"rank{rank}.pt")
        finally:
            dist.destroy_process_group()
    (folder / "config.yaml").write_text("run_name: small\n")
    return folder


def zero(folder: Path, ranks: int = 3) -> Path:
    """As DeepSpeed writes ZeRO 1 and 2: two groups, half precision weights beside flat float32 ones."""
    model = weights(3)
    groups = [{n: w for n, w in model.items() if w.ndim == number} for number in (2, 1)]
    module = {**{name: w.bfloat16() for name, w in model.items()}, "seen": torch.arange(3), "tied": torch.ones(1)}
    about = {
        "module": module,
        "param_shapes": [OrderedDict((name, w.shape) for name, w in group.items()) for group in groups],
        "buffer_names": ["seen"],
        "shared_params": {"tied": "embed.weight"},
        "ds_config": object,
    }
    save(about, folder / "mp_rank_00_model_states.pt")
    flats = [torch.cat([w.flatten() for w in group.values()]) for group in groups]
    for rank in range(ranks):
        parts = []
        for flat in flats:
            padded = torch.cat([flat, torch.zeros(-flat.numel() % (2 * ranks))])
            parts.append(padded.chunk(ranks)[rank].clone())
        state = {
            number: {"step": torch.tensor(7.0), "exp_avg": part / 8, "exp_avg_sq": part.square()}
            for number, part in enumerate(parts)
        }
        inner = {
            "base_optimizer_state": {"state": state, "param_groups": [{"lr": 0.1, "params": [n]} for n in (0, 1)]},
            "single_partition_of_fp32_groups": parts,
            "partition_count": [ranks, ranks],
            "zero_stage": 2,
        }
        save(
            {"optimizer_state_dict": inner, "ds_version": "0.14"},
            folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
        )
    assert math.prod(flats[0].shape) % ranks  # so that there is padding
    return folder
