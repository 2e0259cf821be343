"""The base of a save: which stored blocks cover a box of a tensor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import CorruptObjectError, MissingObjectError, UnknownVersionError
from deltackpt.format.index import Index, PackInfo
from deltackpt.format.keys import index_key, manifest_key, pack_key
from deltackpt.format.manifest import Entry, Manifest
from deltackpt.store.closure import key_rows
from deltackpt.store.opened import OpenStore
from deltackpt.tensor.box import Box
from deltackpt.tensor.grid import cut

__all__ = ["UNUSABLE", "BaseBlock", "BaseView", "RecordRef", "index_lookup"]

_LOG = logging.getLogger("deltackpt")

# What a damaged or vanished base looks like. A save does without it: the new step must not fail for an old one.
UNUSABLE = (CorruptObjectError, MissingObjectError, UnknownVersionError)


@dataclass(frozen=True, slots=True, order=True)
class RecordRef:
    """A record, by the identity of its index and its row there."""

    identity: bytes
    row: int


@dataclass(frozen=True, slots=True)
class BaseBlock:
    """A stored block.

    Attributes:
        ref: its record.
        address: the hash of its bytes.
        box: where it lies in its tensor.
        depth: how many records are decoded to get it.
        is_key: whether that needs nothing from another step.
    """

    ref: RecordRef
    address: bytes
    box: Box
    depth: int
    is_key: bool


def index_lookup(store: OpenStore, manifest: Manifest) -> Callable[[bytes], Index]:
    """A function from identity to index, for the closure of a manifest.

    The function raises CorruptObjectError for an identity that the manifest does not list.
    """
    objects = {entry.identity: entry.object for entry in manifest.indexes}
    loaded: dict[bytes, Index] = {}

    def lookup(identity: bytes) -> Index:
        if identity not in loaded:
            if identity not in objects:
                raise CorruptObjectError(
                    f"index {identity.hex()} is needed but not in the step's closure",
                    where=manifest_key(manifest.header.key),
                )
            index = store.index(objects[identity])
            if index.digest != identity:
                raise CorruptObjectError(
                    "the index has another identity than the manifest says", where=index_key(objects[identity])
                )
            loaded[identity] = index
        return loaded[identity]

    return lookup


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    """The blocks of one entry.

    Attributes:
        boxes: where each of them lies.
        numbers: the same boxes to the numbers of the blocks in the manifest.
        starts, ends: int64 of shape (blocks, dimensions), in the order of ``boxes``.
    """

    boxes: list[Box]
    numbers: dict[Box, int]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def overlapping(self, box: Box) -> list[tuple[Box, int]]:
        """The block at ``box`` alone where there is one, else all that share an element with it."""
        if box in self.numbers:
            return [(box, self.numbers[box])]
        if box.numel == 0:
            return []
        first = np.array(box.offsets, dtype=np.int64)
        last = first + np.array(box.sizes, dtype=np.int64)
        common = np.flatnonzero(((self.starts < last) & (self.ends > first)).all(axis=1))
        return [(self.boxes[k], self.numbers[self.boxes[k]]) for k in common.tolist()]


class BaseView:
    """A step as something to build on: finds the blocks that overlap a box.

    Blocks whose records cannot all be read any more, because an index object is damaged or a pack is gone, are left
    out, and the reason is logged.
    """

    def __init__(self, store: OpenStore, manifest: Manifest) -> None:
        self._store = store
        self.manifest = manifest
        self.lookup = index_lookup(store, manifest)
        self._entries = {entry.fqn: number for number, entry in enumerate(manifest.entries)}
        self._placed: dict[int, _Placed] = {}
        self._closure = frozenset(entry.identity for entry in manifest.indexes)
        self._packs = frozenset(pack.name for pack in manifest.packs)
        self._by_address: dict[tuple[str, str, int, bool], Mapping[bytes, BaseBlock]] = {}
        self._key_rows: dict[bytes, NDArray[np.bool_]] = {}
        self._sound: set[bytes] = set()
        self._broken: set[bytes] = set()

    def lists(self, identity: bytes) -> bool:
        """Whether an index is in the closure of the step."""
        return identity in self._closure

    def blocks(self, fqn: str, kind: str, dtype: int, box: Box) -> list[BaseBlock]:
        """The blocks of an entry that overlap a box; the one that equals it alone where there is one.

        Empty where the step has no such entry, or has it with another kind, dtype or number of dimensions.
        """
        number = self._entries.get(fqn)
        if number is None:
            return []
        entry = self.manifest.entries[number]
        if entry.kind != kind or entry.dtype != dtype or len(entry.shape) != box.ndim:
            return []
        found = [self._block(place, other) for other, place in self._blocks_of(number, entry).overlapping(box)]
        return [block for block in found if block is not None]

    def by_address(self, fqn: str, kind: str, dtype: int, *, key_only: bool) -> Mapping[bytes, BaseBlock]:
        """All blocks of an entry by their address, wherever they lie in it; only those with key records if so asked."""
        place = (fqn, kind, dtype, key_only)
        if place not in self._by_address:
            number = self._entries.get(fqn)
            entry = None if number is None else self.manifest.entries[number]
            blocks = () if entry is None else self.blocks(fqn, kind, dtype, Box.whole(entry.shape))
            self._by_address[place] = {b.address: b for b in blocks if b.is_key or not key_only}
        return self._by_address[place]

    def _blocks_of(self, number: int, entry: Entry) -> _Placed:
        if number not in self._placed:
            numbers: dict[Box, int] = {}
            for shard, box in enumerate(self.manifest.shard_boxes(number)):
                blocks = self.manifest.block_range(number, shard)
                numbers.update(zip(cut(box, entry.block_elements), blocks, strict=True))
            boxes, shape = list(numbers), (len(numbers), len(entry.shape))
            starts = np.array([box.offsets for box in boxes], dtype=np.int64).reshape(shape)
            sizes = np.array([box.sizes for box in boxes], dtype=np.int64).reshape(shape)
            self._placed[number] = _Placed(boxes, numbers, starts, starts + sizes)
        return self._placed[number]

    def _block(self, number: int, box: Box) -> BaseBlock | None:
        identity = self.manifest.indexes[int(self.manifest.block_index[number])].identity
        if not self._is_sound(identity):
            return None
        row = int(self.manifest.block_row[number])
        columns = self.lookup(identity).identity
        if row >= len(columns.address):
            return None
        if identity not in self._key_rows:
            self._key_rows[identity] = key_rows(columns)
        return BaseBlock(
            ref=RecordRef(identity, row),
            address=columns.address[row].tobytes(),
            box=box,
            depth=int(columns.depth[row]),
            is_key=bool(self._key_rows[identity][row]),
        )

    def _is_sound(self, identity: bytes) -> bool:
        """Whether an index, and all of the closure that its records may need, can be read, and the packs are there."""
        if identity in self._sound or identity in self._broken:
            return identity in self._sound
        todo, reached = [identity], {identity}
        while todo:
            refs = self._refs(todo.pop())
            if refs is None:
                self._broken.add(identity)
                return False
            new = [ref for ref in refs if ref not in self._sound and ref not in reached]
            reached.update(new)
            todo += new
        self._sound |= reached
        return True

    def _refs(self, identity: bytes) -> list[bytes] | None:
        """The indexes of the closure that an index refers to; None where it cannot be read."""
        if identity in self._broken:
            return None
        try:
            index = self.lookup(identity)
            for pack in index.location.packs:
                # Rows that nothing needs any more may lie in packs that are gone.
                if pack.name in self._packs:
                    self._check_pack(pack)
        except UNUSABLE as error:
            self._broken.add(identity)
            _LOG.warning("blocks are stored whole because something that their base needs is not there: %s", error)
            return None
        return [ref for ref in index.identity.refs if ref in self._closure]

    def _check_pack(self, pack: PackInfo) -> None:
        """A base may be in memory while its pack is gone: a delta on it would be one on nothing."""
        key = pack_key(pack.name)
        size = next((found.size for found in self._store.backend.list(key) if found.key == key), None)
        if size is None:
            raise MissingObjectError("the pack is gone", where=key, hint="run `deltackpt verify --deep`")
        if size != pack.size:
            raise CorruptObjectError(
                f"{size} bytes instead of {pack.size}", where=key, hint="run `deltackpt verify --deep`"
            )
