"""How the runs of :mod:`benchmarks.intervals` are called on its page and plots. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["OPTIMIZERS", "PRECISIONS", "REGIMES", "REST", "by_words", "main_size", "run_words"]

REGIMES: Final = {
    "early": "early pretraining",
    "late": "late, decayed rate",
    "finetune": "fine-tuning at 1e-5",
    "rl": "RL-like at 1e-6",
    "lora": "LoRA, frozen base",
}

PRECISIONS: Final = {"fp32": "fp32", "bf16+master": "bf16 + fp32 master", "bf16": "pure bf16"}

OPTIMIZERS: Final = {"adamw": "AdamW", "sgd": "SGD with momentum", "lion": "Lion"}

_ROLES: Final = {
    "weight": "weights",
    "master": "fp32 master",
    "exp_avg": "first moment",
    "exp_avg_sq": "second moment",
    "momentum": "momentum",
}
REST: Final = "all else"


def by_words(by_role: Mapping[str, int]) -> dict[str, int]:
    """Bytes by role, in words; index, manifest and the bytes of files around their tensors are all else."""
    found = {words: by_role[role] for role, words in _ROLES.items() if by_role.get(role)}
    return {**found, REST: sum(by_role.values()) - sum(found.values())}


def main_size(costs: Sequence[Mapping[str, Any]]) -> str:
    """The size of model that has most runs."""
    runs = {tuple(cost[name] for name in ("size", "optimizer", "precision", "regime")) for cost in costs}
    return str(Counter(sorted(run[0] for run in runs)).most_common(1)[0][0])


def run_words(cost: Mapping[str, Any]) -> str:
    """A run."""
    optimizer, precision = OPTIMIZERS[cost["optimizer"]], PRECISIONS[cost["precision"]]
    return f"{cost['size']}, {optimizer}, {precision}: {REGIMES[cost['regime']]}"
