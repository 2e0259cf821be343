"""Which records a set of blocks needs, directly or not. Pure: indexes come from a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import CorruptObjectError
from deltackpt.format.index import Identity, Index

__all__ = ["Closure", "find_closure", "key_rows"]

Lookup = Callable[[bytes], Index]


@dataclass(frozen=True, slots=True, eq=False)
class Closure:
    """For each index (by identity) that is needed, which of its rows are, in rising order."""

    rows: Mapping[bytes, NDArray[np.int64]]

    def stored_bytes(self, lookup: Lookup) -> int:
        """The length of all records together."""
        return sum(int(lookup(identity).location.length[rows].sum()) for identity, rows in self.rows.items())

    def packs(self, lookup: Lookup) -> dict[bytes, int]:
        """Name to size of every pack that holds one of the records."""
        found: dict[bytes, int] = {}
        for identity, rows in self.rows.items():
            location = lookup(identity).location
            for number in np.unique(location.pack[rows]).tolist():
                found[location.packs[number].name] = location.packs[number].size
        return found


def find_closure(blocks: Iterable[tuple[bytes, NDArray[np.int64]]], lookup: Lookup) -> Closure:
    """Follow the needs of blocks until nothing new is found.

    Args:
        blocks: pairs of an index's identity and the rows that blocks refer to there.
        lookup: gives the index of an identity; raises where the store does not have it.

    Raises:
        CorruptObjectError: a row lies outside its index.
    """
    wanted: dict[bytes, NDArray[np.bool_]] = {}
    fresh: dict[bytes, NDArray[np.int64]] = {}

    def want(identity: bytes, rows: NDArray[np.int64]) -> None:
        if rows.size == 0:
            return
        index = lookup(identity)
        if int(rows.min()) < 0 or int(rows.max()) >= index.rows:
            raise CorruptObjectError(f"row {int(rows.max())} of an index with {index.rows} rows", where=identity.hex())
        mask = wanted.setdefault(identity, np.zeros(index.rows, dtype=np.bool_))
        new = np.unique(rows[~mask[rows]])
        if new.size:
            mask[new] = True
            fresh[identity] = np.concatenate([fresh[identity], new]) if identity in fresh else new

    for identity, rows in blocks:
        want(identity, rows)
    while fresh:
        identity, rows = fresh.popitem()
        columns = lookup(identity).identity
        needs = _ranges(columns.need_start[rows], columns.needs[rows])
        refs, targets = columns.need_ref[needs], columns.need_row[needs]
        for ref in np.unique(refs).tolist():
            want(identity if ref == 0 else columns.refs[ref - 1], targets[refs == ref])
    return Closure({identity: np.flatnonzero(mask).astype(np.int64) for identity, mask in sorted(wanted.items())})


def key_rows(columns: Identity) -> NDArray[np.bool_]:
    """For each record of an index, whether it is a key record: all it needs, directly or not, is in the same index."""
    own = columns.need_ref == 0
    owner = np.repeat(np.arange(len(columns.needs)), columns.needs)
    is_key = np.ones(len(columns.needs), dtype=np.bool_)
    is_key[owner[~own]] = False
    # One pass is enough: needs stand in the order of their records, and point to rows before these.
    for row, needed in zip(owner[own].tolist(), columns.need_row[own].tolist(), strict=True):
        if not is_key[needed]:
            is_key[row] = False
    return is_key


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[start, start + count)`` of each pair, one after another."""
    total = int(counts.sum())
    ends = np.cumsum(counts)
    shifts: NDArray[np.int64] = np.repeat(starts - (ends - counts), counts)
    return np.arange(total, dtype=np.int64) + shifts
