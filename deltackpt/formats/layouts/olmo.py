"""OLMo: ``step{N}-unsharded/``, and ``step{N}/`` in the four ways its sharded checkpointers write.

As in ``olmo/checkpoint.py`` of https://github.com/allenai/OLMo.
"""

from __future__ import annotations

import re
from typing import Final

import yaml

from deltackpt.formats.importing.naming import FileNaming
from deltackpt.formats.importing.source import Lack
from deltackpt.formats.layouts.base import (
    NO_RESUME,
    NO_WEIGHTS,
    Contents,
    Layout,
    by_name,
    lacks_of_ranks,
    no_metrics,
    ranks_of,
)
from deltackpt.formats.layouts.dcp_folder import lacks_of_dcp

__all__ = ["OLMO_SHARDED", "OLMO_UNSHARDED"]

_STEP: Final = re.compile(r"step(\d+)")
_NO_CONFIG: Final = "the model's and the run's settings are lost"
_NO_TRAIN: Final = "the place in the data and the state of schedulers and random numbers are lost"


def _lacks_unsharded(contents: Contents) -> list[Lack]:
    costs = {"config.yaml": _NO_CONFIG, "model.pt": NO_WEIGHTS, "optim.pt": NO_RESUME, "train.pt": _NO_TRAIN}
    if "other.pt" in contents.paths:  # an older name of train.pt, which OLMo still reads
        del costs["train.pt"]
    found = {path.replace(".safetensors", ".pt") for path in contents.paths}
    return [Lack(path, cost) for path, cost in costs.items() if path not in found]


def _is_unsharded(contents: Contents) -> bool:
    # A model in transformers' form, or a folder of DCP with the training state beside it.
    if "config.json" in contents.paths or ".metadata" in contents.paths:
        return False
    return contents.has(r"(?:model|optim|train)\.pt") or {"model.safetensors", "config.yaml"} <= contents.paths


OLMO_UNSHARDED: Final = Layout(
    "olmo", re.compile(r"step(\d+)-unsharded"), _is_unsharded, by_name, _lacks_unsharded, no_metrics
)


def _is_sharded(contents: Contents) -> bool:
    return contents.has(r"rank\d+\.pt") or contents.has(r"train/rank\d+\.pt") or contents.has(r"model/rank\d+\.pt")


def _naming_sharded(path: str) -> FileNaming:
    rank = re.fullmatch(r"(?:(model|optim|train)/)?(rank\d+)\.pt", path)
    if rank is None:
        return by_name(path) if "/" not in path else FileNaming()
    return FileNaming(rank[1], rank[2])


def _lacks_sharded(contents: Contents) -> list[Lack]:
    lacks = [] if "config.yaml" in contents.paths else [Lack("config.yaml", _NO_CONFIG)]
    lacks += lacks_of_dcp(contents)
    alone = ranks_of(contents, r"rank(\d+)\.pt")
    if alone:
        return lacks + lacks_of_ranks(alone, None, "rank{}.pt", "its parts of the weights and the optimizer are lost")
    costs = {"model": NO_WEIGHTS, "optim": NO_RESUME, "train": _NO_TRAIN}
    found = {kind: ranks_of(contents, rf"{kind}/rank(\d+)\.pt") for kind in costs}
    kinds = costs if found["model"] or found["optim"] else {"train": _NO_TRAIN}
    world = _world_size(contents) or 1 + max((max(ranks) for ranks in found.values() if ranks), default=0)
    for kind, cost in kinds.items():
        lacks += lacks_of_ranks(found[kind], world, kind + "/rank{}.pt", cost)
    return lacks


def _world_size(contents: Contents) -> int | None:
    """What the local checkpointer writes beside its folders."""
    if "metadata.yaml" not in contents.paths:
        return None
    try:
        found = yaml.safe_load((contents.folder / "metadata.yaml").read_bytes()[: 1 << 16])
    except (OSError, yaml.YAMLError, RecursionError):
        return None
    world = found.get("world_size") if isinstance(found, dict) else None
    return world if type(world) is int and 0 < world <= 1 << 20 else None


OLMO_SHARDED: Final = Layout("olmo-sharded", _STEP, _is_sharded, _naming_sharded, _lacks_sharded, no_metrics)
