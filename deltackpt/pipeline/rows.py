"""The index of a save while it grows: records, where they lie, and which block they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deltackpt.format.index import (
    Identity,
    Index,
    IndexHeader,
    Location,
    PackInfo,
    PlacedShard,
    Placement,
    make_index,
)
from deltackpt.store.base import RecordRef
from deltackpt.tensor.box import Box

__all__ = ["IndexBuilder", "NewRecord"]


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record that was just put into a pack.

    Attributes:
        needs: what it is decoded from, in the order of the record's own list; a number is an earlier row of this index.
        depth: 1, or one more than the deepest of them.
        raw: the block's bytes.
        pack: the number of the pack, ``offset`` and ``length`` its bytes there.
    """

    address: bytes
    dtype: int
    predictor: int
    coder: int
    raw: int
    depth: int
    needs: tuple[RecordRef | int, ...]
    pack: int
    offset: int
    length: int


@dataclass(slots=True)
class IndexBuilder:
    """Collects rows in the order in which records are resolved."""

    _refs: dict[bytes, int] = field(default_factory=dict)
    _records: list[NewRecord] = field(default_factory=list)
    _shards: list[PlacedShard] = field(default_factory=list)
    _blocks: list[tuple[int, int]] = field(default_factory=list)

    def add(self, record: NewRecord) -> int:
        """Append a record; gives its row."""
        self._records.append(record)
        return len(self._records) - 1

    def place_shard(self, fqn: str, box: Box, blocks: int) -> None:
        """Start a shard; its blocks follow through :meth:`place_block`."""
        self._shards.append(PlacedShard(fqn, box, blocks))

    def place_block(self, place: RecordRef | int) -> None:
        """The next block is this record: a row of this index, or one stored before."""
        self._blocks.append(self._locate(place))

    def build(self, header: IndexHeader, packs: Sequence[PackInfo]) -> Index:
        """The finished index."""
        records = self._records
        needs = [self._locate(need) for record in records for need in record.needs]
        identity = Identity(
            refs=tuple(self._refs),
            address=np.frombuffer(b"".join(r.address for r in records), dtype=np.uint8).reshape(-1, 16),
            dtype=_ints([r.dtype for r in records]),
            predictor=_ints([r.predictor for r in records]),
            coder=_ints([r.coder for r in records]),
            raw=_ints([r.raw for r in records]),
            depth=_ints([r.depth for r in records]),
            needs=_ints([len(r.needs) for r in records]),
            need_ref=_ints([number for number, _ in needs]),
            need_row=_ints([row for _, row in needs]),
        )
        location = Location(
            packs=tuple(packs),
            pack=_ints([r.pack for r in records]),
            offset=_ints([r.offset for r in records]),
            length=_ints([r.length for r in records]),
        )
        placement = Placement(
            shards=tuple(self._shards),
            block_ref=_ints([number for number, _ in self._blocks]),
            block_row=_ints([row for _, row in self._blocks]),
        )
        return make_index(header, identity, location, placement)

    def _locate(self, place: RecordRef | int) -> tuple[int, int]:
        """0 and the row, for a record of this index; else the number of its index in ``refs``, from 1, and the row."""
        if isinstance(place, int):
            return 0, place
        return self._refs.setdefault(place.identity, len(self._refs) + 1), place.row


def _ints(values: Sequence[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)
