"""What damaged packs held, from where else the store has it: the same blocks, in packs of other steps and branches.

A block may be stored several times: on branches that began anew, or at steps without a base. A record that
is found again byte for byte puts a pack back as it was. Any other record of the same block lets a step be
read, and so be written anew.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import Workspace
from deltackpt.errors import CorruptObjectError, DeltackptError
from deltackpt.format.index import Index
from deltackpt.format.keys import pack_key
from deltackpt.format.manifest import Manifest
from deltackpt.format.pack import END_MAGIC, MAGIC, PACK_FOOTER_BYTES, PACK_HEADER_BYTES
from deltackpt.format.record import decode_record
from deltackpt.pipeline.chains import chain_of
from deltackpt.pipeline.damage import is_whole
from deltackpt.pipeline.decode import decode_listed
from deltackpt.pipeline.memo import BlockMemo
from deltackpt.pipeline.ranges import RecordPlace
from deltackpt.store.base import UNUSABLE, RecordRef
from deltackpt.store.opened import OpenStore

__all__ = ["Salvage"]

Bytes = NDArray[np.uint8]

# Decoded blocks that are kept, since one that is lost is asked for by every step that is built on it.
_MEMO_BYTES = 256 << 20


class Salvage:
    """Finds blocks of damaged packs elsewhere.

    Args:
        store: the store.
        manifests: those of all steps that can be read.
        lost: the names of the damaged packs.
    """

    def __init__(self, store: OpenStore, manifests: Iterable[Manifest], lost: Collection[bytes]) -> None:
        self._store = store
        self._indexes = _read_indexes(store, manifests)
        self._same = _same_blocks(self._indexes.values(), frozenset(lost))
        self._memo = BlockMemo(_MEMO_BYTES)
        self._workspace = Workspace()
        self._open: set[RecordRef] = set()

    def rebuild(self, name: bytes, damaged: bytes) -> bytes | None:
        """A pack as it was written, from what is left of it and equal records elsewhere; None where that fails."""
        rows = sorted(self._rows_of(name), key=lambda found: found[0])
        if not rows or rows[0][0] != PACK_HEADER_BYTES:
            return None
        end = rows[-1][0] + rows[-1][1]
        found = bytearray(damaged[:end].ljust(end, b"\0")) + struct.pack("<Q", len(rows)) + END_MAGIC
        found[: len(MAGIC)] = MAGIC
        for offset, length, ref in rows:
            if not self._is_record(ref, bytes(found[offset : offset + length])):
                record = self._equal_record(ref, length)
                if record is None:
                    return None
                found[offset : offset + length] = record
        whole = bytes(found)
        return whole if len(whole) == end + PACK_FOOTER_BYTES and is_whole(pack_key(name), whole) else None

    def decode(self, ref: RecordRef) -> Bytes:
        """The bytes of a block, not to be changed: from its own record, or from any other record of the same block.

        Raises:
            MissingObjectError, CorruptObjectError: neither can be read.
        """
        if (known := self._memo.get(ref)) is not None:
            return known
        held: dict[RecordRef, Bytes] = {}
        failed: dict[RecordRef, DeltackptError] = {}
        for step, needs in chain_of(ref, self._lookup).items():
            try:
                held[step] = self._recall(step, needs, held, failed)
            except UNUSABLE as error:
                failed[step] = error
        if ref in failed:
            raise failed[ref]
        return held[ref]

    def _recall(
        self,
        ref: RecordRef,
        needs: list[RecordRef],
        held: dict[RecordRef, Bytes],
        failed: dict[RecordRef, DeltackptError],
    ) -> Bytes:
        """One record, whose needs were tried."""
        if (known := self._memo.get(ref)) is not None:
            return known
        try:
            for need in needs:
                if need in failed:
                    raise failed[need]
            place = RecordPlace.of(ref, self._lookup)
            data = self._store.backend.get(place.pack, place.offset, place.length)
            block = decode_listed(ref, needs, held, data, place, self._lookup, self._workspace)
        except UNUSABLE:
            found = self._substitute(ref)
            if found is None:
                raise
            block = found
        self._memo.put(ref, block)
        return block

    def _substitute(self, ref: RecordRef) -> Bytes | None:
        """The same block by another record. One that is being looked for already is no help."""
        self._open.add(ref)
        try:
            for other in self._others(ref):
                if other not in self._open and self._raw(other) == self._raw(ref):
                    try:
                        return self.decode(other)
                    except UNUSABLE:
                        continue
            return None
        finally:
            self._open.discard(ref)

    def _equal_record(self, ref: RecordRef, length: int) -> bytes | None:
        """The bytes of a record of another pack that should be the same as this one's."""
        for other in self._others(ref):
            place = RecordPlace.of(other, self._lookup)
            if place.length == length:
                try:
                    data = self._store.backend.get(place.pack, place.offset, place.length)
                except UNUSABLE:
                    continue
                if self._is_record(ref, data):
                    return data
        return None

    def _is_record(self, ref: RecordRef, data: bytes) -> bool:
        """Whether bytes are a whole record of a block, coded as an index says."""
        columns = self._lookup(ref.identity).identity
        try:
            record = decode_record(data, source="a pack")
        except UNUSABLE:
            return False
        listed = (columns.address[ref.row].tobytes(), columns.predictor[ref.row], columns.coder[ref.row])
        return (record.address, record.predictor, record.coder) == listed

    def _others(self, ref: RecordRef) -> list[RecordRef]:
        address = self._lookup(ref.identity).identity.address[ref.row].tobytes()
        return [other for other in self._same.get(address, ()) if other != ref]

    def _raw(self, ref: RecordRef) -> int:
        return int(self._lookup(ref.identity).identity.raw[ref.row])

    def _rows_of(self, name: bytes) -> Iterator[tuple[int, int, RecordRef]]:
        """The records of a pack: where each begins, its length, and which it is."""
        for identity, index in self._indexes.items():
            location = index.location
            for number, pack in enumerate(location.packs):
                if pack.name == name:
                    for row in np.flatnonzero(location.pack == number).tolist():
                        yield int(location.offset[row]), int(location.length[row]), RecordRef(identity, row)

    def _lookup(self, identity: bytes) -> Index:
        if identity not in self._indexes:
            raise CorruptObjectError(f"index {identity.hex()} cannot be read")
        return self._indexes[identity]


def _read_indexes(store: OpenStore, manifests: Iterable[Manifest]) -> dict[bytes, Index]:
    """Every index that a step lists and that can be read, by identity."""
    found: dict[bytes, Index] = {}
    for manifest in manifests:
        for entry in manifest.indexes:
            if entry.identity not in found:
                try:
                    index = store.index(entry.object)
                except UNUSABLE:
                    continue
                if index.digest == entry.identity:
                    found[entry.identity] = index
    return found


def _same_blocks(indexes: Iterable[Index], lost: Collection[bytes]) -> dict[bytes, list[RecordRef]]:
    """By address, all records of the blocks that lost packs have a record of."""
    all_indexes = list(indexes)
    found: dict[bytes, list[RecordRef]] = {}
    for index in all_indexes:
        location = index.location
        for number, pack in enumerate(location.packs):
            if pack.name in lost:
                for row in np.flatnonzero(location.pack == number).tolist():
                    found.setdefault(index.identity.address[row].tobytes(), [])
    for index in all_indexes:
        for row, address in enumerate(index.identity.address):
            if (refs := found.get(address.tobytes())) is not None:
                refs.append(RecordRef(index.digest, row))
    return found
