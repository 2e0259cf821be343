"""A real training run, cached as flat arrays: what the codec benchmarks code.

One file a role and step: ``weights`` (fp32), ``bf16``, ``exp_avg`` and ``exp_avg_sq``, each the matrices of the model
one after another, as words. The RL-like steps continue from the same state at a rate of 1e-6 with the moments kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpt import GPTConfig
from benchmarks.text import Tokenizer, read_sources
from benchmarks.training import TrainConfig, Trainer, make_deterministic

__all__ = ["FULL", "INTERVALS", "ROLES", "TINY", "Run", "Trajectory"]

ROLES = ("weights", "bf16", "exp_avg", "exp_avg_sq")
INTERVALS = (1, 10, 100)

_RL_RATE = 1e-6

Words = NDArray[np.uint16] | NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Run:
    """A training run.

    Args:
        model, train: its settings.
        base: the step that the others are measured against.
        text_bytes: how much text it trains on.
    """

    model: GPTConfig
    train: TrainConfig
    base: int
    text_bytes: int


FULL = Run(GPTConfig(vocab=8192, dropout=0.0), TrainConfig(steps=1300, warmup=100, batch=4), 1000, 6 << 20)
TINY = Run(
    GPTConfig(vocab=512, context=16, width=32, layers=1, heads=2, dropout=0.0),
    TrainConfig(steps=200, warmup=5, batch=2),
    5,
    1 << 18,
)


def _rounded(weight: torch.Tensor) -> NDArray[np.uint16]:
    return weight.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


def _roles(trainer: Trainer) -> Iterator[tuple[str, Words]]:
    """Every role of the state as one array of words."""
    matrices = [p.detach().flatten() for p in trainer.model.parameters() if p.dim() >= 2]
    weights = torch.cat(matrices)
    yield "weights", weights.numpy().view(np.uint32)
    yield "bf16", _rounded(weights)
    for name in ("exp_avg", "exp_avg_sq"):
        moments = [trainer.optimizer.state[p][name].flatten() for p in trainer.model.parameters() if p.dim() >= 2]
        yield name, torch.cat(moments).numpy().view(np.uint32)


class Trajectory:
    """The steps of one run; trained at the first use and kept in ``folder``."""

    def __init__(self, folder: Path, run: Run = FULL) -> None:
        self._folder, self._run = folder, run
        self._settings = json.dumps(
            {"base": run.base, "model": asdict(run.model), "train": asdict(run.train)}, sort_keys=True
        )
        done = folder / "settings.json"
        if not done.exists() or done.read_text() != self._settings:
            folder.mkdir(parents=True, exist_ok=True)
            done.unlink(missing_ok=True)
            self._train()
            done.write_text(self._settings)

    def words(self, role: str, step: str) -> Words:
        """The array of a role at a step: ``"0"`` is the base, ``"10"`` ten steps later, ``"rl1"`` one RL-like step."""
        found: Words = np.load(self._folder / f"{role}-{step}.npy")
        return found

    def _keep(self, trainer: Trainer, step: str) -> None:
        for role, words in _roles(trainer):
            np.save(self._folder / f"{role}-{step}.npy", words)

    def _train(self) -> None:
        make_deterministic()
        run = self._run
        text = read_sources(run.text_bytes)
        tokenizer = Tokenizer.train(text, run.model.vocab)
        trainer = Trainer(run.model, run.train, tokenizer.encode(text))
        while trainer.step < run.base:
            trainer.train_step()
        self._keep(trainer, "0")
        for interval in INTERVALS:
            while trainer.step < run.base + interval:
                trainer.train_step()
            self._keep(trainer, str(interval))
        self._keep(trainer, "rl0")
        # So long a schedule that the rate stays where it begins.
        trainer.config = replace(run.train, steps=1 << 40, warmup=0, peak_lr=_RL_RATE)
        for done in range(1, max(INTERVALS[:2]) + 1):
            trainer.train_step()
            if done in INTERVALS:
                self._keep(trainer, f"rl{done}")
