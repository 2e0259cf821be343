"""DeepSpeed: ``global_step{N}/`` with ``*_model_states.pt`` and ``*_optim_states.pt``, alone or in another checkpoint.

As in ``deepspeed/runtime/engine.py`` of https://github.com/microsoft/DeepSpeed.
"""

from __future__ import annotations

import re
from typing import Final

from deltackpt.formats.importing.naming import FileNaming
from deltackpt.formats.importing.source import Lack
from deltackpt.formats.layouts.base import NO_RESUME, NO_WEIGHTS, Contents, Layout, lacks_of_ranks, no_metrics

__all__ = ["DEEPSPEED", "lacks_of_deepspeed", "naming_deepspeed"]

_OPTIM: Final = r"(?:.*/)?((?:bf16_)?zero_pp_rank_)(\d+)(_mp_rank_(\d+))_optim_states\.pt"
_MODEL: Final = (
    r"(?:.*/)?(?:(zero_pp_rank_)(\d+)_)?mp_rank_(\d+)(?:_\d+)?_model_states\.pt|(?:.*/)?layer_\d+-model.*\.pt"
)


def naming_deepspeed(path: str) -> FileNaming:
    """What is known of a file: which rank's part it is."""
    if re.fullmatch(_OPTIM, path) or re.fullmatch(_MODEL, path):
        stem = path.rpartition("/")[2].removesuffix(".pt")
        rank = re.sub(r"_(?:optim|model)_states$", "", stem.removeprefix("bf16_"))
        # The one file of the weights without parallel parts: names without a part.
        return FileNaming() if stem == "mp_rank_00_model_states" else FileNaming(part=rank)
    return FileNaming()


def lacks_of_deepspeed(contents: Contents) -> list[Lack]:
    """The files of ranks that are not there."""
    lacks = []
    folders = sorted({path.rpartition("/")[0] for path in contents.paths if path.endswith("_states.pt")})
    if not contents.has(_MODEL):
        lacks.append(Lack("mp_rank_00_model_states.pt", NO_WEIGHTS))
    if not contents.has(_OPTIM) and not contents.has(r".*optim_states\.pt"):
        lacks.append(Lack("zero_pp_rank_0_mp_rank_00_optim_states.pt", NO_RESUME))
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        groups: dict[tuple[str, str], set[int]] = {}
        for match in contents.matching(re.escape(prefix) + _OPTIM.removeprefix("(?:.*/)?")):
            groups.setdefault((match[1], match[3]), set()).add(int(match[2]))
        for (start, end), ranks in sorted(groups.items()):
            world = 1 + max(max(found) for found in groups.values())
            lacks += lacks_of_ranks(ranks, world, f"{prefix}{start}{{}}{end}_optim_states.pt", NO_RESUME)
    return lacks


def _is_deepspeed(contents: Contents) -> bool:
    top = Contents(contents.folder, frozenset(path for path in contents.paths if "/" not in path))
    return top.has(_MODEL) or top.has(_OPTIM)


DEEPSPEED: Final = Layout(
    "deepspeed", re.compile(r"global_step(\d+)"), _is_deepspeed, naming_deepspeed, lacks_of_deepspeed, no_metrics
)
