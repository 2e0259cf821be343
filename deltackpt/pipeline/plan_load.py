"""Which blocks a load reads, and which part of each goes where. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import IncompleteStepError, InvalidArgumentError
from deltackpt.format.index import Index
from deltackpt.format.manifest import Manifest
from deltackpt.pipeline.decode import needs_of
from deltackpt.store.base import UNUSABLE, RecordRef
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import DType, by_code
from deltackpt.tensor.grid import cut

__all__ = ["BlockRead", "Copy", "Wanted", "group_reads", "plan_load"]

# A weight with its moments and copies; where records of other steps are wanted, too, groups could grow without end.
_MOST_TOGETHER = 8


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


def plan_load(manifest: Manifest, wanted: Sequence[Wanted]) -> list[BlockRead]:
    """The records to decode, each once, in the order in which they are stored.

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
    return [BlockRead(ref, tuple(copies)) for ref, copies in sorted(reads.items(), key=lambda item: item[0])]


def _ref(manifest: Manifest, block: int) -> RecordRef:
    return RecordRef(manifest.indexes[int(manifest.block_index[block])].identity, int(manifest.block_row[block]))


def group_reads(reads: Sequence[BlockRead], lookup: Callable[[bytes], Index]) -> list[list[BlockRead]]:
    """Reads of which one needs the other, such as a weight's and its moments', together: their chains share records.

    Decoded alone, the moments of every step of a chain would be decoded once more for each block that needs them. A
    record whose index cannot be read stays alone: decoding it says why.

    Args:
        reads: each record once, in the order in which they are stored.
        lookup: identity to index.

    Returns:
        Groups in the order in which the first of each is stored; each in the order of ``reads``.
    """
    number = {read.ref: position for position, read in enumerate(reads)}
    group = list(range(len(reads)))
    members = {position: [position] for position in group}
    for position, read in enumerate(reads):
        try:
            needs = needs_of(read.ref, lookup)
        except UNUSABLE:
            continue
        for need in needs:
            other = number.get(need)
            if other is None or group[other] == group[position]:
                continue
            first, second = sorted((group[other], group[position]))
            if len(members[first]) + len(members[second]) > _MOST_TOGETHER:
                continue
            for moved in members[second]:
                group[moved] = first
            members[first] = sorted(members[first] + members.pop(second))
    return [[reads[position] for position in found] for found in members.values()]
