"""Ways to train, for benchmarks of what checkpoints cost: sizes, optimizers, precisions, and stages of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpt import GPTConfig

__all__ = ["OPTIMIZERS", "PRECISIONS", "REGIMES", "SIZES", "Lion", "Regime", "make_optimizer"]

SIZES: Mapping[str, GPTConfig] = {
    "tiny": GPTConfig(vocab=512, context=16, width=32, layers=1, heads=2, dropout=0.0),
    "1M": GPTConfig(vocab=1024, context=128, width=128, layers=4, heads=4, dropout=0.0),
    "7M": GPTConfig(vocab=4096, context=128, width=256, layers=8, heads=8, dropout=0.0),
    "30M": GPTConfig(vocab=8192, context=128, width=512, layers=8, heads=8, dropout=0.0),
}

PRECISIONS = ("fp32", "bf16+master", "bf16")


@dataclass(frozen=True, slots=True)
class Regime:
    """Where in training checkpoints are kept.

    Attributes:
        decayed: whether the pretraining before it ran to the end of its schedule.
        rate: the learning rate from there on; None: as the schedule has it.
        fresh: whether the optimizer starts anew.
        rank: of LoRA adapters, which alone are trained; 0 for none.
    """

    decayed: bool
    rate: float | None = None
    fresh: bool = False
    rank: int = 0


REGIMES: Mapping[str, Regime] = {
    "early": Regime(decayed=False),
    "late": Regime(decayed=True),
    "finetune": Regime(decayed=True, rate=1e-5, fresh=True),
    "rl": Regime(decayed=True, rate=1e-6),
    "lora": Regime(decayed=True, rate=1e-4, fresh=True, rank=8),
}


class Lion(torch.optim.Optimizer):
    """Lion: the sign of a momentum (Chen et al., 2023, "Symbolic Discovery of Optimization Algorithms")."""

    def __init__(self, params: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": 0.1})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; there is no closure."""
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                momentum, gradient = state["exp_avg"], parameter.grad
                update = momentum.mul(first).add_(gradient, alpha=1 - first).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
                momentum.mul_(second).add_(gradient, alpha=1 - second)


def _adamw(params: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


def _sgd(params: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
    # Not fused: torch 2.13's reads memory before it is written where parameters are bfloat16.
    return torch.optim.SGD(params, lr=lr, momentum=0.9, foreach=False)


def _lion(params: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
    return Lion(params, lr)


OPTIMIZERS: Mapping[str, Callable[[Iterable[Tensor], float], Any]] = {"adamw": _adamw, "sgd": _sgd, "lion": _lion}
"""By name."""

# Learning rates are given as those of AdamW; SGD takes 100 times as much, Lion a fifth.
_SCALES = {"adamw": 1.0, "sgd": 100.0, "lion": 0.2}


def make_optimizer(name: str, params: Mapping[str, Tensor], rate: float) -> tuple[torch.optim.Optimizer, float]:
    """An optimizer of the parameters in their order, and what its learning rate is multiplied by."""
    optimizer: torch.optim.Optimizer = OPTIMIZERS[name](list(params.values()), rate * _SCALES[name])
    return optimizer, _SCALES[name]
