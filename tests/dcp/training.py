"""A small model that trains deterministically on one core, for tests of saving in the middle of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]]], Optimizer]] = {
    "adamw": lambda groups: AdamW(groups, lr=1e-2, betas=(0.8, 0.95), weight_decay=0.1),
    "amsgrad": lambda groups: AdamW(groups, lr=1e-2, amsgrad=True),
    "momentum": lambda groups: SGD(groups, lr=1e-2, momentum=0.9, nesterov=True),
    "sgd": lambda groups: SGD(groups, lr=1e-2),
    "tensor lr": lambda groups: AdamW(groups, lr=torch.tensor(1e-2), foreach=False, capturable=False),
}


class Run:
    """A model, its optimizer and the batch that comes next."""

    def __init__(self, optimizer: str = "adamw", seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 3))
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimizer = OPTIMIZERS[optimizer]([{"params": decayed}, {"params": others, "weight_decay": 0.0}])
        self.batch = 0

    def step(self) -> float:
        """Train on one batch; the loss."""
        generator = torch.Generator().manual_seed(1000 + self.batch)
        inputs = torch.randn(32, 8, generator=generator)
        loss = nn.functional.cross_entropy(self.model(inputs), inputs[:, :3].argmax(dim=1))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.batch += 1
        return loss.item()

    def steps(self, count: int) -> list[float]:
        return [self.step() for _ in range(count)]

    def state(self) -> dict[str, Any]:
        """The state as people save it: two state dicts and some numbers."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "train": {"batch": self.batch},
            "config": {"lr": 1e-2, "layers": [8, 16, 3], "name": "naïve", "nested": {"none": None, "yes": True}},
        }
