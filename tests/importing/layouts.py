"""Small checkpoints as training programs lay them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

KEYS = ("transformer.wte.weight", "transformer.blocks.0.att_proj.weight", "transformer.ln_f.weight")
SHAPES = ((16, 8), (8, 24), (8,))


def weights(step: int) -> dict[str, torch.Tensor]:
    """Weights that change a little from step to step."""
    generator = torch.Generator().manual_seed(0)
    first = {key: torch.randn(shape, generator=generator) for key, shape in zip(KEYS, SHAPES, strict=True)}
    return {key: value * (1 + 1e-5 * step) for key, value in first.items()}


def moments(step: int, names: tuple[Any, ...] = KEYS) -> dict[str, Any]:
    """An optimizer's state, by the names given."""
    state = {
        name: {"step": torch.tensor(float(step)), "exp_avg": value / 8, "exp_avg_sq": value.square()}
        for name, value in zip(names, weights(step).values(), strict=True)
    }
    return {"state": state, "param_groups": [{"lr": 1e-3, "params": list(names)}]}


def save(value: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)


def text(path: Path, value: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value)


def train_state(step: int) -> dict[str, Any]:
    return {"global_step": step, "rng": {"torch": torch.get_rng_state()}, "scheduler": {"lr": 0.1}}


def olmo(root: Path, step: int) -> Path:
    folder = root / f"step{step}-unsharded"
    save(weights(step), folder / "model.pt")
    save(moments(step), folder / "optim.pt")
    save(train_state(step), folder / "train.pt")
    text(folder / "config.yaml", yaml.safe_dump({"run_name": "small", "model": {"d_model": 8}}))
    return folder


def olmo_legacy(root: Path, step: int, ranks: int = 3) -> Path:
    folder = root / f"step{step}"
    for rank in range(ranks):
        part = {key: value[rank : rank + 2] for key, value in weights(step).items()}
        save({"model": part, "optim": moments(step), **train_state(step)}, folder / f"rank{rank}.pt")
    text(folder / "config.yaml", "run_name: small\n")
    return folder


def olmo_local(root: Path, step: int, ranks: int = 2) -> Path:
    folder = root / f"step{step}"
    for rank in range(ranks):
        flat = torch.cat([value.flatten() for value in weights(step).values()])[rank::2].clone()
        handles = {f"handles.{n}": {"flat_param.data": flat, "flat_param._fqns": list(KEYS)} for n in range(2)}
        save(handles, folder / f"model/rank{rank}.pt")
        state = {n: {"exp_avg": flat / 8, "exp_avg_sq": flat.square()} for n in range(2)}
        save({"state": state, "param_groups": [{"params": [0, 1]}]}, folder / f"optim/rank{rank}.pt")
        save(train_state(step), folder / f"train/rank{rank}.pt")
    text(folder / "metadata.yaml", f"world_size: {ranks}\n")
    text(folder / "config.yaml", "run_name: small\n")
    return folder


def hf_trainer(root: Path, step: int) -> Path:
    folder = root / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_file(weights(step), folder / "model.safetensors", {"format": "pt"})
    save(moments(step, (0, 1, 2)), folder / "optimizer.pt")
    save({"last_epoch": step}, folder / "scheduler.pt")
    save({"cpu": torch.get_rng_state()}, folder / "rng_state.pth")
    save({"lr": 1e-3}, folder / "training_args.bin")
    text(folder / "config.json", '{"hidden_size": 8}')
    log = [{"step": step - 1, "loss": 9.0}, {"step": step, "loss": 1.5, "epoch": 2.0}]
    text(folder / "trainer_state.json", json.dumps({"global_step": step, "log_history": log}))
    return folder


def deepspeed(root: Path, step: int, ranks: int = 4) -> Path:
    folder = root / f"global_step{step}"
    save({"module": weights(step), "optimizer": None}, folder / "mp_rank_00_model_states.pt")
    for rank in range(ranks):
        flat = torch.cat([value.flatten() for value in weights(step).values()])[rank::ranks].clone()
        state = {0: {"exp_avg": flat / 8, "exp_avg_sq": flat.square(), "step": torch.tensor(1.0)}}
        inner = {"base_optimizer_state": {"state": state}, "single_partition_of_fp32_groups": [flat], "zero_stage": 1}
        save({"optimizer_state_dict": inner}, folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    return folder


def lightning(root: Path, step: int) -> Path:
    path = root / f"epoch=1-step={step}.ckpt"
    state = {f"model.{key}": value for key, value in weights(step).items()}
    save({"epoch": 1, "global_step": step, "state_dict": state, "optimizer_states": [moments(step, (0, 1, 2))]}, path)
    return path
