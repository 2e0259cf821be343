"""OLMo's legacy checkpointer: ``rankN.pt``, whose tensors are ``ShardedTensor``: rows of a whole tensor for each rank.

As in ``TorchLegacyShardedCheckpointer`` of ``olmo/checkpoint.py`` in https://github.com/allenai/OLMo.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from deltackpt.errors import DamagedFileError, UnsupportedDataError
from deltackpt.formats.joining.base import Files, Joined, Ranges, check_ranks
from deltackpt.formats.parsers.objects import counts_of, fields_of
from deltackpt.formats.parsers.pickles import Call, Global, Value
from deltackpt.formats.saved import saved_value
from deltackpt.formats.torch_image import StoredTensors

__all__ = ["join_sharded_tensors"]

_RANK: Final = re.compile(r"rank(\d+)\.pt")
# What each rank has of its own. OLMo's unsharding leaves it out, too.
_OF_RANKS: Final = frozenset({"rng"})


@dataclass(frozen=True, slots=True, eq=False)
class _Sharded:
    """What a rank has of a tensor: the shape of the whole, and parts of it with their offsets."""

    shape: tuple[int, ...]
    parts: Sequence[tuple[tuple[int, ...], torch.Tensor]]


def join_sharded_tensors(files: Files) -> Joined | None:
    """How ``rankN.pt`` are joined; None where there are no such files.

    Raises:
        IncompleteStepError: the file of a rank is missing.
    """
    found = {int(match[1]): path for path in files.images if (match := _RANK.fullmatch(path)) is not None}
    if not found:
        return None
    where = str(files.source.manifest.header.key)
    paths = check_ranks(found, where)

    def part(artifact: str) -> Callable[[StoredTensors], object]:
        return lambda stored: _join(files, paths, (artifact,), stored)[artifact]

    def train(stored: StoredTensors) -> object:
        return _join(files, paths[:1], None, stored)

    return Joined({"model": part("model"), "optim": part("optim"), "train": train}, frozenset(paths))


def _join(files: Files, paths: Sequence[str], keys: Sequence[str] | None, stored: StoredTensors) -> dict[str, Any]:
    """Some members of the state with whole tensors; None: all but the model and the optimizer, of the first rank."""

    def wanted(key: object) -> bool:
        return key in keys if keys is not None else key not in ("model", "optim") and key not in _OF_RANKS

    ranks = [saved_value(files.source, files.images[path], stored, _rebuild, wanted=wanted) for path in paths]
    first = ranks[0]
    if not isinstance(first, dict) or any(key not in first for key in keys or ()):
        raise UnsupportedDataError(
            f"it has no {' and '.join(keys or ())}", where=paths[0], hint="restore the step with the format original"
        )
    if not any(_shards(rank, ()) for rank in ranks) and len(paths) > 1 and keys is not None:
        raise UnsupportedDataError(
            "the ranks' tensors do not say what they are parts of",
            where=paths[0],
            hint="restore the step with the format original, and join it with the tools of its trainer",
        )
    whole = Ranges(stored, str(files.source.manifest.header.key))
    for path, rank in zip(paths, ranks, strict=True):
        for place, sharded in _shards(rank, ()).items():
            for offsets, tensor in sharded.parts:
                if tuple(tensor.shape[1:]) != sharded.shape[1:] or any(offsets[1:]) or len(offsets) != tensor.ndim:
                    raise UnsupportedDataError(
                        f"the rank's part of {'.'.join(map(str, place))!r} is not rows of the whole tensor",
                        where=path,
                        hint="restore the step with the format original, and join it with OLMo's own script",
                    )
                start = offsets[0] * math.prod(sharded.shape[1:]) if offsets else 0
                whole.add(place, sharded.shape, start, tensor)
    return dict(_filled(first, (), whole.tensors()))


def _shards(value: object, place: tuple[object, ...]) -> dict[tuple[object, ...], _Sharded]:
    """All sharded tensors of a nested state, by place."""
    if isinstance(value, _Sharded):
        return {place: value}
    members: Any = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    return {where: one for key, member in members for where, one in _shards(member, (*place, key)).items()}


def _filled(value: Any, place: tuple[object, ...], whole: Mapping[Any, torch.Tensor]) -> Any:
    """The state with whole tensors in place of sharded ones."""
    if isinstance(value, _Sharded):
        return whole[place]
    if isinstance(value, dict):
        return {key: _filled(member, (*place, key), whole) for key, member in value.items()}
    if isinstance(value, list):
        return [_filled(member, (*place, number), whole) for number, member in enumerate(value)]
    return value


def _rebuild(node: Call, value: Callable[[Value], object]) -> object:
    """What torch pickles a ShardedTensor as: a call with its state, ``(local shards, metadata, ...)``."""
    args = node.args if isinstance(node.args, (list, tuple)) else ()
    if not isinstance(node.function, Global) or node.function.name != "_rebuild_from_type_v2" or len(args) != 4:
        return None
    kind, state = args[1], args[3]
    if not isinstance(kind, Global) or kind.name != "ShardedTensor" or not isinstance(state, tuple) or len(state) < 2:
        return None
    shape = counts_of(fields_of(state[1]).get("size"))
    parts = []
    for shard in state[0] if isinstance(state[0], list) else ():
        fields = fields_of(shard)
        offsets = counts_of(fields_of(fields.get("metadata")).get("shard_offsets"))
        tensor = value(fields.get("tensor"))
        if offsets is None or not isinstance(tensor, torch.Tensor):
            raise DamagedFileError("a shard of a tensor lacks its place or its elements")
        parts.append((offsets, tensor))
    if shape is None:
        raise DamagedFileError("a sharded tensor lacks its shape")
    return _Sharded(shape, parts)
