"""Which blocks a load reads, and which part of each goes where. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import IncompleteStepError, InvalidArgumentError
from deltackpt.format.manifest import Manifest
from deltackpt.store.base import RecordRef
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import DType, by_code
from deltackpt.tensor.grid import cut

__all__ = ["BlockRead", "Copy", "Wanted", "plan_load"]


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """A box of an entry that somebody wants.

    Attributes:
        fqn: the entry.
        box: the part of it, in global coordinates.
        write: takes a box inside ``box`` (global coordinates) and its elements as an array of that shape; called from
            many threads.
    """

    fqn: str
    box: Box
    write: Callable[[Box, NDArray[np.generic]], None]


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """The part ``box`` (global coordinates) of a block at ``block`` goes to ``wanted``."""

    wanted: Wanted
    dtype: DType
    block: Box
    box: Box


@dataclass(frozen=True, slots=True, eq=False)
class BlockRead:
    """A record to decode once, and everything that is copied out of it."""

    ref: RecordRef
    copies: tuple[Copy, ...]


def plan_load(manifest: Manifest, wanted: Sequence[Wanted], *, in_order: bool = False) -> list[BlockRead]:
    """The records to decode, each once, in the order in which they are stored; or, ``in_order``, first wanted.

    Raises:
        TensorNotFoundError: the step has no such entry.
        InvalidArgumentError: a box lies outside its tensor.
        IncompleteStepError: a wanted element is in no shard.
    """
    reads: dict[RecordRef, list[Copy]] = {}
    for want in wanted:
        number = manifest.find(want.fqn)
        entry = manifest.entries[number]
        if not want.box.inside(entry.shape):
            raise InvalidArgumentError(f"{want.box} lies outside the shape {list(entry.shape)}", where=want.fqn)
        found = 0
        for shard, box in manifest.shards_in(number, want.box):
            for block, place in zip(cut(box, entry.block_elements), manifest.block_range(number, shard), strict=True):
                common = block.intersect(want.box)
                if common is not None:
                    found += common.numel
                    copy = Copy(want, by_code(entry.dtype), block, common)
                    reads.setdefault(_ref(manifest, place), []).append(copy)
        if found != want.box.numel:
            raise IncompleteStepError(f"only {found} of {want.box.numel} elements are in the step", where=want.fqn)
    refs = list(reads) if in_order else sorted(reads)
    return [BlockRead(ref, tuple(reads[ref])) for ref in refs]


def _ref(manifest: Manifest, block: int) -> RecordRef:
    return RecordRef(manifest.indexes[int(manifest.block_index[block])].identity, int(manifest.block_row[block]))
