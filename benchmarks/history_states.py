"""The states of a small training run, trained at the first use and then kept in a folder as arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpt import GPTConfig
from benchmarks.text import Tokenizer, read_sources
from benchmarks.training import TrainConfig, Trainer, make_deterministic
from deltackpt.testing.arrays import State, Stored

__all__ = ["Course", "read_states"]


@dataclass(frozen=True, slots=True)
class Course:
    """A run of a GPT with AdamW, all fp32, and which of its states are saved.

    Attributes:
        steps: how many are saved.
        interval: training steps between two of them.
        warmup: training steps before the first one.
        width, layers, vocab: of the model.
    """

    steps: int = 256
    interval: int = 10
    warmup: int = 100
    width: int = 48
    layers: int = 1
    vocab: int = 768

    @property
    def model(self) -> GPTConfig:
        return GPTConfig(vocab=self.vocab, context=64, width=self.width, layers=self.layers, heads=4, dropout=0.0)

    @property
    def train(self) -> TrainConfig:
        return TrainConfig(self.warmup + self.interval * self.steps, warmup=min(50, self.warmup), batch=4)


def read_states(course: Course, cache: Path) -> Iterator[State]:
    """The states, in order, from a folder of their own in ``cache``; trained now where they are not there."""
    what = {"model": asdict(course.model), "train": asdict(course.train), "first": course.warmup}
    text = json.dumps({**what, "every": course.interval, "steps": course.steps}, sort_keys=True)
    folder = cache / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not (folder / "done").exists():
        _train(course, folder)
    for number in range(course.steps):
        with np.load(folder / f"{number}.npz") as arrays:
            yield {fqn: _stored(fqn, arrays[fqn]) for fqn in arrays.files}


def _train(course: Course, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    make_deterministic()
    text = read_sources(1 << 20)
    trainer = Trainer(course.model, course.train, Tokenizer.train(text, course.vocab).encode(text))
    for number in range(course.steps):
        while trainer.step < course.warmup + number * course.interval:
            trainer.train_step()
        np.savez(folder / f"{number}.npz", allow_pickle=False, **_arrays(trainer))
    (folder / "done").touch()


def _arrays(trainer: Trainer) -> dict[str, NDArray[np.float32]]:
    found = {}
    for name, parameter in trainer.model.named_parameters():
        found[f"model.{name}"] = parameter.detach().numpy()
        for moment in ("exp_avg", "exp_avg_sq"):
            found[f"optim.state.{name}.{moment}"] = trainer.optimizer.state[parameter][moment].numpy()
    return found


def _stored(fqn: str, array: NDArray[np.float32]) -> Stored:
    moment = fqn.rpartition(".")[2] if fqn.startswith("optim.") else ""
    return Stored(array, artifact="optim" if moment else "model", role=moment or "weight")
