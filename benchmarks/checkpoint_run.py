"""A training run of any regime, optimizer and precision, whose checkpoints are kept as plain torch files.

The forward pass computes in float32 from weights of the precision that is trained, so that runs are the same on every
machine with the same torch; what is saved has the dtypes of a run on an accelerator.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from benchmarks.gpt import GPT
from benchmarks.regimes import OPTIMIZERS, PRECISIONS, REGIMES, SIZES, make_optimizer
from benchmarks.text import Tokenizer, read_sources
from benchmarks.training import TrainConfig, Trainer, make_deterministic

__all__ = ["CheckpointRun", "RegimeTrainer", "write_checkpoints"]

# One thread trains these small models in less time than two do where the machine has other work, too.
_THREADS = 1


@dataclass(frozen=True, slots=True)
class CheckpointRun:
    """Settings of a run; equal ones give equal checkpoints.

    Attributes:
        size, optimizer, precision, regime: keys of :mod:`benchmarks.regimes`.
        base: steps of pretraining before the first checkpoint.
        batch: sequences a step.
        text_bytes: how much text there is.
    """

    size: str = "1M"
    optimizer: str = "adamw"
    precision: str = "fp32"
    regime: str = "early"
    base: int = 200
    batch: int = 2
    text_bytes: int = 2 << 20
    seed: int = 0

    def __post_init__(self) -> None:
        for value, known in (
            (self.size, SIZES),
            (self.optimizer, OPTIMIZERS),
            (self.precision, PRECISIONS),
            (self.regime, REGIMES),
        ):
            if value not in known:
                raise ValueError(f"{value!r} is none of {', '.join(known)}")

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.regime} {self.size} {self.optimizer} {self.precision}"

    @property
    def pretraining(self) -> str:
        """All that the state at ``base`` depends on, as JSON: runs of several regimes begin at the same one."""
        own = {name: value for name, value in asdict(self).items() if name != "regime"}
        own |= {"decayed": REGIMES[self.regime].decayed, "torch": torch.__version__, "threads": _THREADS}
        return json.dumps(own, sort_keys=True)


class RegimeTrainer:
    """A model, its parameters in the precision that is trained, and their optimizer.

    Args:
        run: its settings.
    """

    def __init__(self, run: CheckpointRun) -> None:
        make_deterministic(_THREADS)
        text = read_sources(run.text_bytes)
        model = SIZES[run.size]
        # Where the rate is not to have decayed yet, the schedule is ten times as long.
        decayed = REGIMES[run.regime].decayed
        steps = run.base if decayed else 10 * run.base
        config = TrainConfig(steps=steps, warmup=max(1, min(100, run.base // 4)), batch=run.batch, seed=run.seed)
        self._data = Trainer(model, config, Tokenizer.train(text, model.vocab).encode(text))
        self._run = run
        self.step = 0
        self.loss = float("nan")
        self._model: GPT = self._data.model
        self._frozen: dict[str, Tensor] = {}
        half = run.precision == "bf16"
        self.params = {
            name: value.detach().to(torch.bfloat16 if half else torch.float32, copy=True).requires_grad_()
            for name, value in self._model.named_parameters()
        }
        self._rate: float | None = None
        self._optimizer, self._scale = make_optimizer(run.optimizer, self.params, config.peak_lr)

    def train_step(self) -> None:
        """Do one step."""
        self.step += 1
        rate = self._data.config.lr(self.step) if self._rate is None else self._rate
        for group in self._optimizer.param_groups:
            group["lr"] = rate * self._scale
        inputs, targets = self._data.batch(self.step)
        self._optimizer.zero_grad(set_to_none=True)
        logits = functional_call(self._model, self._effective(), (inputs,))
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        clip_grad_norm_(self.params.values(), 1.0, foreach=False)
        self._optimizer.step()
        self.loss = loss.item()

    def enter(self) -> None:
        """Begin the regime of the run, at the end of its pretraining."""
        regime = REGIMES[self._run.regime]
        self._rate = regime.rate
        if regime.rank:
            self._frozen = {name: value.detach() for name, value in self.params.items()}
            self.params = self._adapters(regime.rank)
        if regime.fresh:
            self._optimizer, self._scale = make_optimizer(
                self._run.optimizer, self.params, regime.rate or self._data.config.peak_lr
            )

    def pretrain(self, cache: Path) -> None:
        """Train up to the base, or take from ``cache`` what an earlier run with the same pretraining came to."""
        kept = cache / f"pretrained-{_digest(self._run.pretraining)}.pt"
        if not kept.exists():
            while self.step < self._run.base:
                self.train_step()
            cache.mkdir(parents=True, exist_ok=True)
            part = kept.with_suffix(f".{os.getpid()}")
            torch.save({"params": self.params, "optim": self._optimizer.state_dict(), "loss": self.loss}, part)
            part.replace(kept)
            return
        state = torch.load(kept, weights_only=True)
        with torch.no_grad():
            for name, value in self.params.items():
                value.copy_(state["params"][name])
        self._optimizer.load_state_dict(state["optim"])
        self.step, self.loss = self._run.base, state["loss"]

    def _adapters(self, rank: int) -> dict[str, Tensor]:
        """Hu et al., 2021: of each matrix of the blocks, A is random and B zero."""
        random = torch.Generator().manual_seed(self._run.seed)
        found = {}
        for name, value in self._frozen.items():
            if name.startswith("blocks.") and value.dim() == 2:
                stem = name.removesuffix(".weight")
                first = torch.randn(rank, value.shape[1], generator=random) / rank
                found[f"{stem}.lora_A.weight"] = first.to(value.dtype).requires_grad_()
                found[f"{stem}.lora_B.weight"] = torch.zeros(value.shape[0], rank, dtype=value.dtype).requires_grad_()
        return found

    def _effective(self) -> dict[str, Tensor]:
        """The weights that the forward pass uses, float32."""
        if not self._frozen:
            return {name: self._rounded(value).float() for name, value in self.params.items()}
        found = {}
        for name, value in self._frozen.items():
            found[name] = self._rounded(value).float()
            stem = name.removesuffix(".weight")
            if f"{stem}.lora_A.weight" in self.params:
                first, second = (self._rounded(self.params[f"{stem}.lora_{part}.weight"]).float() for part in "AB")
                found[name] = found[name] + second @ first
        return found

    def _rounded(self, value: Tensor) -> Tensor:
        return value.to(torch.bfloat16) if self._run.precision == "bf16+master" else value

    def state(self) -> dict[str, dict[str, Any]]:
        """What is saved: ``model``, ``optim`` (by names of parameters) and ``train``."""
        own = {**self._frozen, **self.params}
        model = {name: self._rounded(value.detach()) for name, value in own.items()}
        kept = {}
        for name, value in self.params.items():
            kept[name] = dict(self._optimizer.state[value])
        optim: dict[str, Any] = {"state": kept, "param_groups": [{"lr": self._optimizer.param_groups[0]["lr"]}]}
        if self._run.precision == "bf16+master":
            optim["master_params"] = {name: value.detach() for name, value in self.params.items()}
        return {"model": model, "optim": optim, "train": {"step": self.step, "loss": self.loss}}


def write_checkpoints(run: CheckpointRun, offsets: Sequence[int], cache: Path) -> dict[int, Path]:
    """The checkpoints of a run, trained at the first use: so many steps after its base.

    Args:
        offsets: rising, from 0.
        cache: runs are kept there, by the hash of their settings.

    Returns:
        By offset, the folder of the checkpoint: ``model.pt``, ``optim.pt``, ``train.pt`` and ``config.yaml``.
    """
    settings = json.dumps({"run": asdict(run), "offsets": list(offsets), "from": run.pretraining}, sort_keys=True)
    folder = cache / _digest(settings)
    found = {offset: folder / f"step{run.base + offset}-unsharded" for offset in offsets}
    if not (folder / "settings.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        trainer = RegimeTrainer(run)
        trainer.pretrain(cache)
        trainer.enter()
        # A fresh optimizer has no state before its first steps, as no checkpoint would.
        warm = run.base + (1 if REGIMES[run.regime].fresh else 0)
        for offset in offsets:
            while trainer.step < warm + offset:
                trainer.train_step()
            _write(trainer, found[offset], settings)
        (folder / "settings.json").write_text(settings)
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(trainer: RegimeTrainer, folder: Path, settings: str) -> None:
    folder.mkdir(parents=True)
    for name, part in trainer.state().items():
        torch.save(part, folder / f"{name}.pt")
    (folder / "config.yaml").write_text(settings + "\n")
