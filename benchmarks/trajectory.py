"""A real training run, cached as flat arrays: what the codec benchmarks code.

One file a role and step: ``weights`` (fp32), ``bf16``, ``exp_avg`` and ``exp_avg_sq``, each the matrices of the model
one after another, as words. The RL-like steps continue from the same state at a rate of 1e-6 with the moments kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpt import GPTConfig
from benchmarks.text import Tokenizer, read_sources
from benchmarks.training import TrainConfig, Trainer, make_deterministic

__all__ = ["BASE", "INTERVALS", "ROLES", "Trajectory"]

ROLES = ("weights", "bf16", "exp_avg", "exp_avg_sq")
BASE = 1000
INTERVALS = (1, 10, 100)

_TEXT_BYTES = 6 << 20
_RL_RATE = 1e-6
_MODEL = GPTConfig(vocab=8192, dropout=0.0)
_TRAIN = TrainConfig(steps=1300, warmup=100, batch=4)

Words = NDArray[np.uint16] | NDArray[np.uint32]


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

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._settings = json.dumps({"base": BASE, "model": asdict(_MODEL), "train": asdict(_TRAIN)}, sort_keys=True)
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
        text = read_sources(_TEXT_BYTES)
        tokenizer = Tokenizer.train(text, _MODEL.vocab)
        trainer = Trainer(_MODEL, _TRAIN, tokenizer.encode(text))
        while trainer.step < BASE:
            trainer.train_step()
        self._keep(trainer, "0")
        for interval in INTERVALS:
            while trainer.step < BASE + interval:
                trainer.train_step()
            self._keep(trainer, str(interval))
        self._keep(trainer, "rl0")
        # So long a schedule that the rate stays where it begins.
        trainer.config = replace(_TRAIN, steps=1 << 40, warmup=0, peak_lr=_RL_RATE)
        for done in range(1, max(INTERVALS[:2]) + 1):
            trainer.train_step()
            if done in INTERVALS:
                self._keep(trainer, f"rl{done}")
