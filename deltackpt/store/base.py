"""The base of a save: which stored blocks cover a box of a tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import CorruptObjectError
from deltackpt.format.index import Index
from deltackpt.format.manifest import Entry, Manifest
from deltackpt.store.closure import key_rows
from deltackpt.store.opened import OpenStore
from deltackpt.tensor.box import Box
from deltackpt.tensor.grid import cut

__all__ = ["BaseBlock", "BaseView", "RecordRef", "index_lookup"]


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
                    where=f"step {manifest.header.key.branch}:{manifest.header.key.step}",
                )
            index = store.index(objects[identity])
            if index.digest != identity:
                raise CorruptObjectError(
                    "the index has another identity than the manifest says", where=objects[identity].hex()
                )
            loaded[identity] = index
        return loaded[identity]

    return lookup


class BaseView:
    """A step as something to build on: finds the blocks that overlap a box."""

    def __init__(self, store: OpenStore, manifest: Manifest) -> None:
        self.manifest = manifest
        self.lookup = index_lookup(store, manifest)
        self._entries = {entry.fqn: number for number, entry in enumerate(manifest.entries)}
        self._placed: dict[int, dict[Box, int]] = {}
        self._key_rows: dict[bytes, NDArray[np.bool_]] = {}

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
        placed = self._blocks_of(number, entry)
        if box in placed:
            return [self._block(placed[box], box)]
        return [self._block(found, other) for other, found in placed.items() if other.intersect(box) is not None]

    def _blocks_of(self, number: int, entry: Entry) -> dict[Box, int]:
        if number not in self._placed:
            placed: dict[Box, int] = {}
            for shard, box in enumerate(self.manifest.shard_boxes(number)):
                blocks = self.manifest.block_range(number, shard)
                placed.update(zip(cut(box, entry.block_elements), blocks, strict=True))
            self._placed[number] = placed
        return self._placed[number]

    def _block(self, number: int, box: Box) -> BaseBlock:
        identity = self.manifest.indexes[int(self.manifest.block_index[number])].identity
        row = int(self.manifest.block_row[number])
        columns = self.lookup(identity).identity
        if identity not in self._key_rows:
            self._key_rows[identity] = key_rows(columns)
        return BaseBlock(
            ref=RecordRef(identity, row),
            address=columns.address[row].tobytes(),
            box=box,
            depth=int(columns.depth[row]),
            is_key=bool(self._key_rows[identity][row]),
        )
