"""Hugging Face: the Trainer's ``checkpoint-{N}/``, and folders of a model alone.

File names as in ``src/transformers/trainer.py`` and ``src/transformers/utils`` of
https://github.com/huggingface/transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from deltackpt.errors import InvalidNameError, UnsafeFileError
from deltackpt.format.manifest import Metric
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
from deltackpt.formats.layouts.deepspeed import lacks_of_deepspeed, naming_deepspeed
from deltackpt.formats.recipe import check_path

__all__ = ["HF_MODEL", "HF_TRAINER"]

_WEIGHTS: Final = (
    r"(?:model|adapter_model|diffusion_pytorch_model)(?:-\d+-of-\d+)?\.safetensors"
    r"|(?:pytorch_model|adapter_model)(?:-\d+-of-\d+)?\.bin|pytorch_model_fsdp(?:_0)?/.*|pytorch_model_fsdp\.bin"
)
_MAX_JSON: Final = 64 << 20


def _read_json(contents: Contents, path: str) -> Any:
    """The content of a small JSON file; None where it is none."""
    try:
        file = contents.folder / path
        return json.loads(file.read_bytes()) if file.stat().st_size <= _MAX_JSON else None
    except (OSError, ValueError, RecursionError):
        return None


def _lacks_weights(contents: Contents) -> list[Lack]:
    lacks = []
    indexes = [match[0] for match in contents.matching(r".*\.(?:safetensors|bin)\.index\.json")]
    for index in indexes:
        described = _read_json(contents, index)
        named = described.get("weight_map") if isinstance(described, dict) else None
        files = {file for file in named.values() if isinstance(file, str)} if isinstance(named, dict) else set()
        for file in sorted(files):
            try:
                check_path(file)
            except InvalidNameError as error:
                raise UnsafeFileError(
                    f"it names the file {file[:200]!r}, outside its folder", where=str(contents.folder / index)
                ) from error
            if file not in contents.paths:
                lacks.append(Lack(file, NO_WEIGHTS))
    if not indexes and not contents.has(_WEIGHTS) and not contents.has(r"global_step\d+/.*model_states\.pt"):
        lacks.append(Lack("model.safetensors", NO_WEIGHTS))
    return lacks


def _lacks_trainer(contents: Contents) -> list[Lack]:
    lacks = _lacks_weights(contents)
    deepspeed = contents.has(r"global_step\d+/.*")
    if deepspeed:
        lacks += lacks_of_deepspeed(contents)
    elif not contents.has(r"optimizer(?:_\d+)?\.(?:pt|bin)|optimizer_0/.*|pytorch_model_fsdp_0/.*"):
        lacks.append(Lack("optimizer.pt", NO_RESUME))
    if not deepspeed and not contents.has(r"scheduler\.pt"):
        lacks.append(Lack("scheduler.pt", "the learning rate starts anew"))
    if "trainer_state.json" not in contents.paths:
        lacks.append(Lack("trainer_state.json", NO_RESUME))
    ranks = ranks_of(contents, r"rng_state_(\d+)\.pth")
    if not ranks and "rng_state.pth" not in contents.paths:
        lacks.append(Lack("rng_state.pth", "random numbers go on differently"))
    return lacks + lacks_of_ranks(ranks, None, "rng_state_{}.pth", "random numbers go on differently")


def _naming(path: str) -> FileNaming:
    if path.startswith("global_step"):
        return naming_deepspeed(path)
    return by_name(path) if "/" not in path else FileNaming()


def _metrics(contents: Contents) -> Mapping[str, Metric]:
    """The last numbers in the Trainer's log, such as the loss."""
    state = _read_json(contents, "trainer_state.json")
    log = state.get("log_history") if isinstance(state, dict) else None
    found: dict[str, Metric] = {}
    for entry in log if isinstance(log, Sequence) else ():
        if isinstance(entry, dict):
            found.update({k: v for k, v in entry.items() if k != "step" and type(v) in (int, float) and abs(v) < 1e300})
    return found


def _is_trainer(contents: Contents) -> bool:
    if "trainer_state.json" in contents.paths:
        return True
    is_named = contents.folder.name.startswith("checkpoint-")
    return is_named and (contents.has(_WEIGHTS) or contents.has(r"optimizer\.(?:pt|bin)"))


HF_TRAINER: Final = Layout(
    "hf-trainer", re.compile(r"checkpoint-(\d+)"), _is_trainer, _naming, _lacks_trainer, _metrics
)


def _is_model(contents: Contents) -> bool:
    return contents.has(_WEIGHTS) or contents.has(r"[^/]*\.(?:safetensors|bin)\.index\.json")


def _lacks_model(contents: Contents) -> list[Lack]:
    config = () if contents.has(r"(?:adapter_)?config\.json") else (Lack("config.json", "the model cannot be built"),)
    return [*_lacks_weights(contents), *config]


HF_MODEL: Final = Layout("hf-model", re.compile(r"(?:.*\D)?(\d+)"), _is_model, _naming, _lacks_model, no_metrics)
