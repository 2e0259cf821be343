"""The placement section of an index: which record stands for which saved block (section 7 of ``docs/format.md``)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from deltackpt.format.columns import DecodedTable, encode_table
from deltackpt.format.origin import Origin
from deltackpt.format.record_meta import MAX_NDIM
from deltackpt.format.vectors import Ints, int_column, starts_of, sums_to, within
from deltackpt.tensor.box import Box

__all__ = ["PlacedShard", "Placement", "check_placement", "encode_placement", "parse_placement"]


@dataclass(frozen=True, slots=True)
class PlacedShard:
    """A box of a tensor that the writer saved, and how many blocks the grid cut it into."""

    fqn: str
    box: Box
    blocks: int


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Which record stands for which block that this writer saved.

    Attributes:
        shards: what was saved.
        block_ref, block_row: int64, per block, shard by shard in the order of the grid: 0 for this index or k for
            ``refs[k - 1]``, and the row there.
    """

    shards: tuple[PlacedShard, ...]
    block_ref: Ints
    block_row: Ints


def encode_placement(placement: Placement) -> bytes:
    """The placement section."""
    shards = placement.shards
    return encode_table(
        {
            "fqn": [shard.fqn for shard in shards],
            "ndim": np.array([shard.box.ndim for shard in shards], np.int64),
            "offsets": int_column((o for shard in shards for o in shard.box.offsets), "the offset of a shard"),
            "sizes": int_column((s for shard in shards for s in shard.box.sizes), "the size of a shard"),
            "blocks": int_column((shard.blocks for shard in shards), "a number of blocks"),
            "block_ref": placement.block_ref,
            "block_row": placement.block_row,
        }
    )


def parse_placement(table: DecodedTable, origin: Origin) -> Placement:
    """The placement section, before ``check_placement``."""
    fqns = table.strings("fqn")
    ndim = table.ints("ndim", len(fqns))
    offsets = table.ints("offsets")
    sizes = table.ints("sizes", len(offsets))
    within(ndim, 0, MAX_NDIM, "a number of dimensions", origin)
    if not sums_to(ndim, len(offsets)):
        raise origin.error("the numbers of dimensions of the shards do not add up")
    at, flat_offsets, flat_sizes = starts_of(ndim).tolist(), offsets.tolist(), sizes.tolist()
    boxes = [Box(tuple(flat_offsets[a:b]), tuple(flat_sizes[a:b])) for a, b in itertools.pairwise(at)]
    block_ref = table.ints("block_ref")
    return Placement(
        shards=tuple(map(PlacedShard, fqns, boxes, table.ints("blocks", len(fqns)).tolist())),
        block_ref=block_ref,
        block_row=table.ints("block_row", len(block_ref)),
    )


def check_placement(placement: Placement, rows: int, refs: int, origin: Origin) -> None:
    """Demand that every shard has blocks and that every block names a record.

    Args:
        rows: how many records this index has.
        refs: how many other indexes it refers to.

    Raises:
        CorruptObjectError, InvalidArgumentError: a rule is broken; which of the two, ``origin`` knows.
    """
    for shard in placement.shards:
        box = shard.box
        if len(box.offsets) != box.ndim or box.ndim > MAX_NDIM:
            raise origin.error(f"a shard of {shard.fqn!r} is not a box of at most {MAX_NDIM} dimensions")
        if (shard.blocks == 0) != (0 in box.sizes):
            raise origin.error(f"a shard of {shard.fqn!r} has {shard.blocks} blocks for the sizes {box.sizes}")
    blocks = int_column((shard.blocks for shard in placement.shards), "a number of blocks")
    total = len(placement.block_ref)
    if len(placement.block_row) != total or not sums_to(blocks, total):
        raise origin.error("the numbers of blocks of the shards do not add up")
    within(placement.block_ref, 0, refs, "the index of a block", origin)
    within(placement.block_row, 0, None, "the row of a block", origin)
    if (placement.block_row[placement.block_ref == 0] >= rows).any():
        raise origin.error(f"a block names a row that an index of {rows} records does not have")
