"""OLMo's local checkpointer: each rank's piece of FSDP's flat parameters, and where in which parameter it lies.

As in ``LocalShardedCheckpointer`` of ``olmo/checkpoint.py`` in https://github.com/allenai/OLMo.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch

from deltackpt.errors import DamagedFileError
from deltackpt.formats.joining.base import Files, Joined, Ranges, check_ranks
from deltackpt.formats.parsers.pickles import Call, Global, Value
from deltackpt.formats.saved import saved_value
from deltackpt.formats.torch_image import StoredTensors

__all__ = ["join_flat_shards"]

_RANK: Final = re.compile(r"(model|optim|train)/rank(\d+)\.pt")
_WRAPPED: Final = "_fsdp_wrapped_module."

Spans = Mapping[str, tuple[tuple[int, ...], int]]
"""What a rank has of each parameter: the shape of the whole, and the first element (flat) that it has."""


def join_flat_shards(files: Files) -> Joined | None:
    """How ``model/rankN.pt`` and ``optim/rankN.pt`` are joined; None where there are no such files.

    Raises:
        IncompleteStepError: the file of a rank is missing.
    """
    found: dict[str, dict[int, str]] = {}
    for path in files.images:
        match = _RANK.fullmatch(path)
        if match is not None:
            found.setdefault(match[1], {})[int(match[2])] = path
    if "model" not in found:
        return None
    where = str(files.source.manifest.header.key)
    models = check_ranks(found["model"], where)
    optims = check_ranks(found["optim"], where) if "optim" in found else []

    def model(stored: StoredTensors) -> object:
        return _model(files, models, stored, where)[0]

    def optim(stored: StoredTensors) -> object:
        return _optim(files, optims, _model(files, models, stored, where)[1], stored, where)

    parts: dict[str, Callable[[StoredTensors], object]] = {"model": model}
    if optims:
        parts["optim"] = optim
    trains = found.get("train", {})
    renamed = {trains[0]: "train.pt"} if 0 in trains else {}
    joined = {*models, *optims, *trains.values(), "metadata.yaml"}
    return Joined(parts, frozenset(joined & files.images.keys()), renamed)


def _rebuild(node: Call, value: Callable[[Value], object]) -> object:
    """FSDP's tuple with names: (in_shard, offset_in_shard, numel_in_shard, first and last element in the parameter)."""
    if isinstance(node.function, Global) and node.function.name == "_ShardParamInfo":
        return value(node.args)
    return None


def _model(
    files: Files, paths: Sequence[str], stored: StoredTensors, where: str
) -> tuple[dict[str, torch.Tensor], list[Spans]]:
    """The whole parameters, and what each rank has of them."""
    whole = Ranges(stored, where)
    ranks: list[Spans] = []
    for path in paths:
        spans: dict[str, tuple[tuple[int, ...], int]] = {}
        try:
            for name, shape, start, data in _shards(saved_value(files.source, files.images[path], stored, _rebuild)):
                whole.add(name, shape, start, data)
                if data.numel():
                    spans[name] = (shape, start)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DamagedFileError(
                f"it does not describe flat parameters as OLMo does ({type(error).__name__}: {error})",
                where=path,
                hint="restore the step with the format original, and join it with OLMo's own script",
            ) from error
        ranks.append(spans)
    return whole.tensors(), ranks


def _shards(state: Any) -> Iterator[tuple[str, tuple[int, ...], int, torch.Tensor]]:
    """Name, shape of the whole, first element, and elements of each piece that a rank has."""
    for module in state["modules"]:
        prefix = module["name"].replace(_WRAPPED, "")
        for handle in module["handles"]:
            flat = handle["flat_param.data"]
            names, shapes = handle["flat_param._fqns"], handle["flat_param._shapes"]
            if "flat_param._shard_indices" in handle:  # torch before 2.1
                first, at = handle["flat_param._shard_indices"][0], 0
                ranges = handle["flat_param._shard_param_offsets"]
                for name, shape, (start, last) in zip(names[first:], shapes[first:], ranges, strict=False):
                    count = last - start + 1
                    yield _joined(prefix, name), tuple(shape), start, flat[at : at + count]
                    at += count
                continue
            for name, shape, info in zip(names, shapes, handle["flat_param._shard_param_infos"], strict=True):
                inside, at, count, start, _ = info
                # A rank without a part of it still knows its shape.
                part = flat[at : at + count] if inside else flat[:0]
                yield _joined(prefix, name), tuple(shape), start if inside else 0, part


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _optim(
    files: Files, paths: Sequence[str], ranks: Sequence[Spans], stored: StoredTensors, where: str
) -> dict[str, object]:
    """The whole state of the optimizer, with parameters by name, as OLMo has it in ``optim.pt``."""
    whole = Ranges(stored, where)
    scalars: dict[str, dict[str, object]] = {}
    groups: list[dict[str, Any]] = []
    for path, spans in zip(paths, ranks, strict=True):
        try:
            found: Any = saved_value(files.source, files.images[path], stored)
            groups = groups or [
                {**group, "param_names": [name.replace(_WRAPPED, "") for name in group["param_names"]]}
                for group in found["param_groups"]
            ]
            names = {
                key: name for group in groups for key, name in zip(group["params"], group["param_names"], strict=True)
            }
            for key, state in found["state"].items():
                name = names[key]
                for kind, value in state.items():
                    if not isinstance(value, torch.Tensor) or value.ndim == 0:
                        scalars.setdefault(name, {}).setdefault(kind, value)
                    elif name in spans:
                        whole.add((name, kind), *spans[name], value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedFileError(
                f"it is not the state of an optimizer as OLMo has it ({type(error).__name__}: {error})",
                where=path,
                hint="restore the step with the format original, and join it with OLMo's own script",
            ) from error
    states: dict[str, dict[str, object]] = {
        name: dict(scalars.get(name, {})) for group in groups for name in group["param_names"]
    }
    for (name, kind), tensor in whole.tensors().items():
        states[name][kind] = tensor
    named = [{**group, "params": list(group["param_names"])} for group in groups]
    return {"state": {name: state for name, state in states.items() if state}, "param_groups": named}
