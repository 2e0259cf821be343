"""A deterministic training run: the loss of a step is a function of the settings, the text and the machine alone.

A run continued from a saved state repeats the losses of the first run bit for bit. What that takes: a fixed number of
threads, deterministic algorithms, data picked by (seed, step) alone, and torch's random state (dropout) in the state.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from benchmarks.gpt import GPT, GPTConfig

__all__ = ["THREADS", "State", "TrainConfig", "Trainer", "make_deterministic"]

State = dict[str, Any]

# Sums are split by the number of threads, so that it is part of what makes a loss: fixed, whatever the machine has.
THREADS = 2


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of a run.

    Args:
        steps: length of the learning rate schedule, in steps.
        warmup: steps over which the rate rises linearly to ``peak_lr``; a cosine takes it down to a tenth afterwards.
        batch: sequences per step.
        seed: of the weights, of dropout and of the order of the data.
        clip: largest norm of the gradient.
    """

    steps: int
    warmup: int = 20
    batch: int = 8
    seed: int = 0
    peak_lr: float = 6e-4
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0

    def lr(self, step: int) -> float:
        """The learning rate that leads to ``step`` (the first is 1)."""
        if step <= self.warmup:
            return self.peak_lr * step / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.peak_lr * (0.1 + 0.45 * (1.0 + math.cos(math.pi * done)))


def make_deterministic(threads: int = THREADS) -> None:
    """Set torch, for the whole process, so that equal steps give equal bits."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Fills new memory, which nothing here reads before it is written: an eighth of the time of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class Trainer:
    """A model, its AdamW, and the number of steps done.

    Args:
        model_config: sizes of the GPT.
        config: settings of the run.
        tokens: ids of the text, uint16, longer than one sequence.
    """

    def __init__(self, model_config: GPTConfig, config: TrainConfig, tokens: NDArray[np.uint16]) -> None:
        if len(tokens) <= model_config.context:
            raise ValueError(f"{len(tokens)} tokens of text are too few for a context of {model_config.context}")
        self.config = config
        self.model_config = model_config
        self.tokens = tokens
        self.step = 0
        self.loss = math.nan
        torch.manual_seed(config.seed)
        self.model = GPT(model_config)
        matrices = [parameter for parameter in self.model.parameters() if parameter.dim() >= 2]
        vectors = [parameter for parameter in self.model.parameters() if parameter.dim() < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=config.peak_lr,
            betas=(config.beta1, config.beta2),
            fused=True,
        )

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of ``step``, int64 of shape (batch, context): a function of (seed, step) alone."""
        context = self.model_config.context
        random = np.random.default_rng([self.config.seed, step])
        starts = random.integers(0, len(self.tokens) - context, size=self.config.batch)
        rows = torch.from_numpy(self.tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64))
        return rows[:, :-1], rows[:, 1:]

    def train_step(self) -> float:
        """Do one step and return its loss."""
        inputs, targets = self.batch(self.step + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr(self.step + 1)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.step += 1
        self.loss = loss.item()
        return self.loss

    def state(self) -> State:
        """Everything that the run continues from, by artifact; tensors of the model and optimizer are not copied.

        ``model`` and ``optim`` are what ``load_state_dict`` takes. ``weights_bf16`` of ``train`` are the weights
        rounded to bfloat16, as one would ship them; tied weights are one tensor there too.
        """
        weights = self.model.state_dict()
        rounded: dict[int, Tensor] = {}
        for weight in weights.values():
            rounded.setdefault(weight.data_ptr(), weight.to(torch.bfloat16))
        return {
            "model": weights,
            "optim": self.optimizer.state_dict(),
            "train": {
                "step": self.step,
                "loss": self.loss,
                "rng": torch.get_rng_state(),
                "weights_bf16": {name: rounded[weight.data_ptr()] for name, weight in weights.items()},
            },
            "config": {"model": asdict(self.model_config), "train": asdict(self.config)},
        }

    def blank_state(self) -> State:
        """A state of the same shapes to load into, for a trainer that has not done a step yet.

        AdamW makes its moments on the first step: one with rate 0 and gradients of zero, which changes no weight.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return self.state()

    def load(self, state: State) -> None:
        """Continue from ``state``: its ``model``, ``optim`` and ``train`` parts, by plain ``load_state_dict``."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optim"])
        self.step = state["train"]["step"]
        self.loss = state["train"]["loss"]
        torch.set_rng_state(state["train"]["rng"])
