"""The blocks of one step as columns: which record each one is, what it takes, and whether it is new. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.format.index import Index
from deltackpt.format.manifest import Manifest

__all__ = ["Flags", "Ints", "SeenRecords", "StepBlocks", "blocks_of"]

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Lookup = Callable[[bytes], Index]


@dataclass(frozen=True, slots=True, eq=False)
class StepBlocks:
    """One row a block, in the order of the manifest.

    Attributes:
        entry: the number of the entry, int64.
        raw, stored: decoded bytes, and the length of the record, int64.
        new: whether no step before, and no block before in this one, is the same record.
    """

    entry: Ints
    raw: Ints
    stored: Ints
    new: Flags


class SeenRecords:
    """The records that steps refer to directly, by the identity of their index."""

    def __init__(self) -> None:
        self._seen: dict[bytes, Flags] = {}

    def add(self, index: Index, rows: Ints) -> Flags:
        """Note rows of an index; for each whether it comes for the first time."""
        seen = self._seen.setdefault(index.digest, np.zeros(index.rows, dtype=np.bool_))
        first = np.zeros(len(rows), dtype=np.bool_)
        first[np.unique(rows, return_index=True)[1]] = True
        new = first & ~seen[rows]
        seen[rows] = True
        return new

    def rows(self) -> list[tuple[bytes, Ints]]:
        """Identity and rows of all that was seen."""
        return [(identity, np.flatnonzero(mask).astype(np.int64)) for identity, mask in self._seen.items()]


def blocks_of(manifest: Manifest, lookup: Lookup, seen: SeenRecords) -> StepBlocks:
    """The blocks of a step, of which ``seen`` takes note.

    Raises:
        CorruptObjectError, MissingObjectError: an index cannot be read; nothing was noted.
    """
    indexes = [lookup(entry.identity) for entry in manifest.indexes]
    count = len(manifest.block_index)
    raw, stored = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    new = np.zeros(count, dtype=np.bool_)
    for number, index in enumerate(indexes):
        blocks = np.flatnonzero(manifest.block_index == number)
        if len(blocks) == 0:
            continue
        rows = manifest.block_row[blocks]
        raw[blocks] = index.identity.raw[rows]
        stored[blocks] = index.location.length[rows]
        new[blocks] = seen.add(index, rows)
    shards = np.repeat(np.arange(len(manifest.entries)), [entry.shards for entry in manifest.entries])
    return StepBlocks(np.repeat(shards, manifest.shards.blocks).astype(np.int64), raw, stored, new)
