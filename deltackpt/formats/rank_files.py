"""A whole state as the files of ranks: ``rankN.pt`` of OLMo's legacy checkpointer, whose tensors are ``ShardedTensor``.

As ``TorchLegacyShardedCheckpointer`` of ``olmo/checkpoint.py`` in https://github.com/allenai/OLMo writes them: with
FSDP's sharded state dicts, in which each rank has a chunk of every tensor's rows, under the names of whole parameters.
Of OLMo's variants it is the one that any wrapping of modules can load; flat parameters fit one wrapping only. What is
pickled is what torch itself pickles, without a process group: one process writes the files of all ranks.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch._tensor import _rebuild_from_type_v2
from torch._utils import _rebuild_wrapper_subclass
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata, TensorProperties
from torch.distributed._shard.sharded_tensor.shard import Shard
from torch.distributed._shard.sharding_spec.api import _infer_sharding_spec_from_shards_metadata

from deltackpt.errors import InvalidArgumentError
from deltackpt.formats.image import FileImage
from deltackpt.formats.torch_image import StoredTensors, torch_image
from deltackpt.tensor.torch_bridge import from_torch_dtype

__all__ = ["rank_images"]

_MOST_RANKS = 1 << 16


def rank_images(
    model: object, optim: object, train: Mapping[Any, object], ranks: int, stored: StoredTensors
) -> list[FileImage]:
    """The files of all ranks.

    Args:
        model, optim: whole states, of the optimizer by names; tensors stand for stored ones.
        train: what else OLMo's trainer has in its state.
        ranks: how many files.

    Raises:
        InvalidArgumentError: there cannot be so many.
        UnsupportedDataError: a tensor is not contiguous, or a value cannot be pickled.
    """
    if not 1 <= ranks <= _MOST_RANKS:
        raise InvalidArgumentError(f"ranks must be from 1 to {_MOST_RANKS}, not {ranks}")
    images = []
    for rank in range(ranks):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that ShardedTensor is old
            state = {**train, "model": _cut(model, rank, ranks, stored), "optim": _cut(optim, rank, ranks, stored)}
            images.append(torch_image(f"rank{rank}.pt", state, stored))
    return images


def _cut(value: Any, rank: int, ranks: int, stored: StoredTensors) -> Any:
    """The state with a rank's part of each tensor that has rows."""
    if isinstance(value, torch.Tensor):
        return _Sharded(value, rank, ranks, stored) if value.ndim else value
    if isinstance(value, Mapping):
        return {key: _cut(member, rank, ranks, stored) for key, member in value.items()}
    if isinstance(value, list):
        return [_cut(member, rank, ranks, stored) for member in value]
    return value


class _Sharded:
    """Pickles as the ``ShardedTensor`` of a rank does: a call with its state (``Tensor.__reduce_ex__``)."""

    def __init__(self, whole: torch.Tensor, rank: int, ranks: int, stored: StoredTensors) -> None:
        self._whole = whole
        self._rank = rank
        self._ranks = ranks
        self._stored = stored

    def __reduce__(self) -> tuple[object, ...]:
        whole = self._whole
        # As torch.chunk, which FSDP cuts with: all but the last have equally many rows, and there may be fewer parts.
        chunks = whole.chunk(self._ranks)
        starts = itertools.accumulate((len(chunk) for chunk in chunks), initial=0)
        places = [
            ShardMetadata([start, *[0] * (whole.ndim - 1)], list(chunk.shape), f"rank:{number}/cpu")
            for number, (start, chunk) in enumerate(zip(starts, chunks, strict=False))
        ]
        own = [Shard(self._own(chunks[self._rank]), places[self._rank])] if self._rank < len(chunks) else []
        about = ShardedTensorMetadata(places, whole.shape, TensorProperties(whole.dtype))
        group = ShardedTensor.ProcessGroupState(self._rank, self._rank, self._ranks, self._ranks)
        spec = _infer_sharding_spec_from_shards_metadata(places)
        state = (own, about, group, spec, False)
        layout = (tuple(whole.shape), whole.stride(), 0, torch.strided, torch.device("cpu"), False)
        args = (ShardedTensor, whole.dtype, *layout)
        return _rebuild_from_type_v2, (_rebuild_wrapper_subclass, ShardedTensor, args, state)

    def _own(self, part: torch.Tensor) -> torch.Tensor:
        """A part by itself: a view would be saved with all of the storage that it is a view of."""
        if self._stored.find(part.untyped_storage()) is None:
            return part.clone()
        dtype = from_torch_dtype(part.dtype, where="a tensor of the state")
        pieces = self._stored.pieces(part, fqn="a tensor of the state")
        return self._stored.add(pieces, dtype, tuple(part.shape), fqn="a tensor of the state")
