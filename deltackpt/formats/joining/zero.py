"""DeepSpeed's ZeRO, stages 1 and 2: each rank's piece of the flat float32 weights and moments of a parameter group.

As ``deepspeed/utils/zero_to_fp32.py`` of https://github.com/microsoft/DeepSpeed joins the weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch

from deltackpt.errors import DamagedFileError, UnsupportedDataError
from deltackpt.formats.image import Piece, cut_pieces, pieces_length
from deltackpt.formats.joining.base import Files, Joined, check_ranks
from deltackpt.formats.parsers.pickles import Call, Global, Value
from deltackpt.formats.saved import saved_value
from deltackpt.formats.torch_image import StoredTensors
from deltackpt.tensor.torch_bridge import from_torch_dtype

__all__ = ["join_zero"]

_OPTIM: Final = re.compile(r"((?:.*/)?)(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
_FLAT: Final = "single_partition_of_fp32_groups"
_HINT: Final = "restore the step with the format original, and join it with DeepSpeed's zero_to_fp32.py"


def join_zero(files: Files) -> Joined | None:
    """How the files of ZeRO are joined; None where there are none.

    The weights are those in float32, as ``zero_to_fp32.py`` gives them, with the buffers of the model.

    Raises:
        IncompleteStepError: the file of a rank is missing.
        UnsupportedDataError: the model is also cut by tensor or pipeline parallelism.
    """
    found = {match: path for path in files.images if (match := _OPTIM.fullmatch(path)) is not None}
    if not found:
        return None
    where = str(files.source.manifest.header.key)
    folder = next(iter(found))[1]
    weights = f"{folder}mp_rank_00_model_states.pt"
    if {match[3] for match in found} != {"00"} or weights not in files.images:
        raise UnsupportedDataError(
            "only checkpoints of ZeRO 1 and 2 without other parallelism can be joined", where=where, hint=_HINT
        )
    paths = check_ranks({int(match[2]): path for match, path in found.items()}, where)

    def model(stored: StoredTensors) -> object:
        return _Zero(files, weights, paths, stored).model()

    def optim(stored: StoredTensors) -> object:
        return _Zero(files, weights, paths, stored).optim()

    return Joined({"model": model, "optim": optim}, frozenset({*paths, weights}))


def _rebuild(node: Call, value: Callable[[Value], object]) -> object:
    """Enumerations and scalers of DeepSpeed's own are nothing that is needed."""
    if isinstance(node.function, Global) and node.function.module.partition(".")[0] == "deepspeed":
        return f"{node.function.module}.{node.function.name}"
    return None


class _Zero:
    """The states of one checkpoint."""

    def __init__(self, files: Files, weights: str, paths: Sequence[str], stored: StoredTensors) -> None:
        self._stored = stored
        self._where = weights

        def read(path: str, *keys: str) -> Any:
            value = saved_value(files.source, files.images[path], stored, _rebuild, wanted=lambda key: key in keys)
            if not isinstance(value, dict):
                raise DamagedFileError("it is not what DeepSpeed writes", where=path, hint=_HINT)
            return value

        self._model = read(weights, "module", "param_shapes", "buffer_names", "shared_params")
        self._ranks = [read(path, "optimizer_state_dict").get("optimizer_state_dict") for path in paths]
        shapes = self._model.get("param_shapes")
        flat: Any = [rank.get(_FLAT) if isinstance(rank, Mapping) else None for rank in self._ranks]
        if (
            not isinstance(shapes, list)
            or not all(isinstance(group, Mapping) for group in shapes)
            or not all(isinstance(part, list) and len(part) == len(shapes) for part in flat)
        ):
            raise UnsupportedDataError(
                f"it lacks param_shapes, or a rank lacks {_FLAT} of each group", where=weights, hint=_HINT
            )
        self._shapes: list[Mapping[str, tuple[int, ...]]] = shapes
        self._flat: list[list[torch.Tensor]] = flat

    def model(self) -> dict[str, torch.Tensor]:
        """The float32 weights by name, and buffers."""
        module = self._model.get("module") or {}
        found = {name: module[name] for name in self._model.get("buffer_names") or () if name in module}
        for group in range(len(self._shapes)):
            found |= self._group(group, [rank[group] for rank in self._flat])
        for name, other in (self._model.get("shared_params") or {}).items():
            if other in found:
                found[name] = found[other]
        return {name: found[name] for name in module if name in found} | found

    def optim(self) -> dict[str, object]:
        """The state of the optimizer under it, by names."""
        base = [rank.get("base_optimizer_state") for rank in self._ranks]
        if not all(isinstance(one, Mapping) and "state" in one and "param_groups" in one for one in base):
            raise UnsupportedDataError(
                "the optimizer's state is not in the form of torch", where=self._where, hint=f"{_HINT}; or only='model'"
            )
        states: dict[str, dict[str, object]] = {}
        for group, shapes in enumerate(self._shapes):
            own = [one["state"].get(group, {}) for one in base]
            for kind, value in own[0].items():
                if (
                    isinstance(value, torch.Tensor)
                    and value.ndim == 1
                    and value.numel() == self._flat[0][group].numel()
                ):
                    for name, tensor in self._group(group, [one[kind] for one in own]).items():
                        states.setdefault(name, {})[kind] = tensor
                else:
                    for name in shapes:
                        states.setdefault(name, {})[kind] = value
        groups = [
            {**said, "params": list(shapes)}
            for said, shapes in zip(base[0]["param_groups"], self._shapes, strict=False)
        ]
        return {"state": states, "param_groups": groups}

    def _group(self, group: int, parts: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors of a group, one after another in the pieces of the ranks; what is left over is padding."""
        dtype = from_torch_dtype(parts[0].dtype, where=self._where)
        pieces: list[Piece] = [piece for part in parts for piece in self._stored.pieces(part, fqn=self._where)]
        found, at = {}, 0
        for name, shape in self._shapes[group].items():
            length = math.prod(shape) * dtype.itemsize
            found[name] = self._stored.add(cut_pieces(pieces, at, length), dtype, tuple(shape), fqn=name)
            at += length
        if at > pieces_length(pieces):
            raise DamagedFileError(
                f"the ranks have {pieces_length(pieces)} bytes of group {group}, which needs {at}",
                where=self._where,
                hint=_HINT,
            )
        return found
