"""Sharded checkpoints of trainers that call ``torch.distributed.checkpoint`` themselves: Accelerate, Lightning.

As in ``src/accelerate/utils/fsdp_utils.py`` of https://github.com/huggingface/accelerate and
``src/lightning/pytorch/strategies/fsdp.py`` of https://github.com/Lightning-AI/pytorch-lightning.
"""

from __future__ import annotations

import re
from typing import Final

from deltackpt.formats.importing.naming import FileNaming
from deltackpt.formats.importing.source import Lack
from deltackpt.formats.layouts.base import NO_RESUME, NO_WEIGHTS, Contents, Layout, by_name, no_metrics
from deltackpt.formats.layouts.dcp_folder import lacks_of_dcp

__all__ = ["ACCELERATE", "LIGHTNING_SHARDED"]


def _is_accelerate(contents: Contents) -> bool:
    return contents.has(r"(?:pytorch_model_fsdp|optimizer)_\d+/.*")


def _naming_accelerate(path: str) -> FileNaming:
    rank = re.fullmatch(r"random_states_(\d+)\.pkl", path)
    if rank is not None:
        return FileNaming("train", f"rank{rank[1]}")
    return by_name(path) if "/" not in path else FileNaming()


def _lacks_accelerate(contents: Contents) -> list[Lack]:
    lacks = lacks_of_dcp(contents)
    if not contents.has(r"pytorch_model_fsdp_\d+/.*"):
        lacks.append(Lack("pytorch_model_fsdp_0", NO_WEIGHTS))
    if not contents.has(r"optimizer_\d+/.*"):
        lacks.append(Lack("optimizer_0", NO_RESUME))
    return lacks


# The number counts saves, where the trainer does not name the folder.
ACCELERATE: Final = Layout(
    "accelerate",
    re.compile(r"(?:checkpoint|step|epoch)_(\d+)"),
    _is_accelerate,
    _naming_accelerate,
    _lacks_accelerate,
    no_metrics,
)


def _is_lightning(contents: Contents) -> bool:
    return contents.folder.name.endswith(".ckpt") and contents.has(r"\.metadata|[^/]+\.distcp")


def _lacks_lightning(contents: Contents) -> list[Lack]:
    lacks = lacks_of_dcp(contents)
    if "meta.pt" not in contents.paths:
        lacks.append(Lack("meta.pt", NO_RESUME))
    return lacks


LIGHTNING_SHARDED: Final = Layout(
    "lightning-sharded",
    re.compile(r"(?:.*\D)?step=(\d+)(?:-v\d+)?\.ckpt"),
    _is_lightning,
    lambda path: FileNaming("train") if path == "meta.pt" else FileNaming(),
    _lacks_lightning,
    no_metrics,
)
