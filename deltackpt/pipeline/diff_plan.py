"""Which stored blocks of two steps belong together. Pure but for looking addresses up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deltackpt.format.index import Index
from deltackpt.format.manifest import Manifest
from deltackpt.store.base import RecordRef
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import DType, by_code
from deltackpt.tensor.grid import cut

__all__ = ["BlockPair", "Side", "pairs_of"]

Lookup = Callable[[bytes], Index]


@dataclass(frozen=True, slots=True)
class BlockPair:
    """A block of the second step, and those of the first one that cover it.

    Attributes:
        box: where the block lies.
        after: its record.
        before: records of the first step and their boxes.
        same: whether the first step has these very bytes there.
    """

    dtype: DType
    box: Box
    after: RecordRef
    before: tuple[tuple[RecordRef, Box], ...]
    same: bool


class Side:
    """One of the two steps."""

    def __init__(self, manifest: Manifest, lookup: Lookup) -> None:
        self.manifest = manifest
        self.lookup = lookup

    def blocks(self, number: int) -> Iterator[tuple[RecordRef, Box]]:
        """The records of an entry and their boxes."""
        manifest = self.manifest
        entry = manifest.entries[number]
        for shard, whole in enumerate(manifest.shard_boxes(number)):
            for place, box in zip(manifest.block_range(number, shard), cut(whole, entry.block_elements), strict=True):
                identity = manifest.indexes[int(manifest.block_index[place])].identity
                yield RecordRef(identity, int(manifest.block_row[place])), box

    def address(self, ref: RecordRef) -> bytes:
        """The hash of a record's bytes."""
        address: bytes = self.lookup(ref.identity).identity.address[ref.row].tobytes()
        return address

    def stored_bytes(self, number: int) -> int:
        """The length of all records of an entry, each once."""
        return self.lengths({ref for ref, _ in self.blocks(number)})

    def lengths(self, refs: set[RecordRef]) -> int:
        """The length of some records together."""
        return sum(int(self.lookup(ref.identity).location.length[ref.row]) for ref in refs)


def pairs_of(a: Side, b: Side, before: int, after: int) -> tuple[list[BlockPair], int]:
    """The blocks of an entry of ``b`` (number ``after``), each with what covers it in an entry of ``a`` of that shape.

    Returns:
        also the length of the records that b has for the entry and a has not.
    """
    known = list(a.blocks(before))
    by_box = {box: ref for ref, box in known}
    addresses = {a.address(ref) for ref, _ in known}
    dtype = by_code(b.manifest.entries[after].dtype)
    pairs: list[BlockPair] = []
    new: set[RecordRef] = set()
    for ref, box in b.blocks(after):
        address = b.address(ref)
        if address not in addresses:
            new.add(ref)
        whole = by_box.get(box)
        if whole is not None:
            pairs.append(BlockPair(dtype, box, ref, ((whole, box),), a.address(whole) == address))
        else:
            parts = tuple((other, place) for other, place in known if place.intersect(box) is not None)
            pairs.append(BlockPair(dtype, box, ref, parts, False))
    return pairs, b.lengths(new)
