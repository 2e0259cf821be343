"""How entries are made of shards and shards of blocks (section 8 of ``docs/format.md``), checked for a step at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deltackpt.format.boxes import disjoint
from deltackpt.format.origin import Origin
from deltackpt.format.record_meta import MAX_NDIM
from deltackpt.format.vectors import Ints, itemsizes, starts_of, sums_to, within

__all__ = ["EntryShapes", "ShardColumns", "check_layout", "grid_counts"]

# An exact bound is 2**63; products are first taken in float64, whose error this leaves room for.
_MAX_TENSOR_BYTES = 1 << 62


@dataclass(frozen=True, slots=True, eq=False)
class ShardColumns:
    """The shards of all entries, in the order of entries.

    Attributes:
        offsets, sizes: int64, per dimension of each shard, concatenated; in global coordinates.
        blocks: int64, per shard: how many blocks the grid cuts it into.
    """

    offsets: Ints
    sizes: Ints
    blocks: Ints


@dataclass(frozen=True, slots=True, eq=False)
class EntryShapes:
    """What the layout of entries follows from.

    Attributes:
        names: of the entries, for messages.
        dtype, block_elements, ndim, shards: int64, per entry.
        shape: int64, per dimension of each entry, concatenated.
    """

    names: Sequence[str]
    dtype: Ints
    block_elements: Ints
    ndim: Ints
    shards: Ints
    shape: Ints


def check_layout(entries: EntryShapes, shards: ShardColumns, blocks: int, origin: Origin) -> Ints:
    """Demand that the shards of every entry lie in its shape, cover it, do not overlap, and have the grid's blocks.

    Args:
        blocks: how many blocks there are in all.

    Returns:
        the bytes of each entry's elements, int64.

    Raises:
        UnknownVersionError: a dtype code that this version does not know.
        CorruptObjectError, InvalidArgumentError: a rule is broken; which of the two, ``origin`` knows.
    """
    itemsize = itemsizes(entries.dtype, origin)
    within(entries.block_elements, 1, None, "the size of blocks", origin)
    within(entries.ndim, 0, MAX_NDIM, "a number of dimensions", origin)
    within(entries.shape, 0, None, "the size of a dimension", origin)
    within(shards.offsets, 0, None, "the offset of a shard", origin)
    within(shards.sizes, 0, None, "the size of a shard", origin)
    if not sums_to(entries.ndim, len(entries.shape)):
        raise origin.error("the numbers of dimensions of the entries do not add up")
    if not sums_to(entries.shards, len(shards.blocks)):
        raise origin.error("the numbers of shards of the entries do not add up")
    if not sums_to(shards.blocks, blocks):
        raise origin.error("the numbers of blocks of the shards do not add up")
    owner = np.repeat(np.arange(len(entries.ndim)), entries.shards)
    ndim = entries.ndim[owner]
    if not len(shards.offsets) == len(shards.sizes) == int(ndim.sum()):
        raise origin.error("the numbers of dimensions of the shards do not add up")
    shape_at, box_at = starts_of(entries.ndim), starts_of(ndim)
    numel = np.ones(len(entries.ndim), np.int64)
    for d in np.unique(entries.ndim).tolist():
        members = np.flatnonzero(entries.ndim == d)
        shapes = entries.shape[shape_at[members][:, None] + np.arange(d)]
        # An infinity is large; a NaN is infinity times 0, a tensor without elements.
        with np.errstate(over="ignore", invalid="ignore"):
            large = shapes.prod(axis=1, dtype=np.float64) * itemsize[members] > _MAX_TENSOR_BYTES
        if large.any():
            raise _wrong(entries, int(members[large][0]), "has more than 2**62 bytes", origin)
        numel[members] = shapes.prod(axis=1)
        chosen = np.flatnonzero(ndim == d)
        at = box_at[chosen][:, None] + np.arange(d)
        offsets, sizes = shards.offsets[at], shards.sizes[at]
        # Each shard's place in ``members``, for its shape.
        place = np.searchsorted(members, owner[chosen])
        outside = (offsets > shapes[place] - sizes).any(axis=1)
        if outside.any():
            raise _wrong(entries, int(owner[chosen][outside][0]), "has a shard that is not inside its shape", origin)
        counts = grid_counts(offsets, sizes, entries.block_elements[owner[chosen]])
        if (counts != shards.blocks[chosen]).any():
            first = int(owner[chosen][counts != shards.blocks[chosen]][0])
            raise _wrong(entries, first, "has a shard whose number of blocks is not that of the grid", origin)
        bad = _first_not_tiled(shapes, offsets, sizes, place)
        if bad is not None:
            raise _wrong(entries, int(members[bad]), "has shards that overlap or do not cover its shape", origin)
    return numel * itemsize


def grid_counts(offsets: Ints, sizes: Ints, block_elements: Ints) -> Ints:
    """``tensor.grid.block_count`` for k shards of d dimensions at once.

    Args:
        offsets, sizes: int64 of shape (k, d); the product of a row of ``sizes`` without a 0 must be below 2**63.
        block_elements: int64 of shape (k,), each at least 1.
    """
    k, d = sizes.shape
    counts = np.zeros(k, np.int64)
    filled = np.flatnonzero((sizes > 0).all(axis=1))
    if d == 0 or len(filled) == 0:
        counts[filled] = 1
        return counts
    offsets, sizes, limit = offsets[filled], sizes[filled], block_elements[filled]
    # Column j: elements of the dimensions from j on; the last column is 1.
    inner = np.ones((len(filled), d + 1), np.int64)
    inner[:, :d] = np.cumprod(sizes[:, ::-1], axis=1)[:, ::-1]
    axis = (inner[:, 1:] <= limit[:, None]).argmax(axis=1)
    each = np.arange(len(filled))
    rows = np.maximum(1, limit // inner[each, axis + 1])
    start, size = offsets[each, axis], sizes[each, axis]
    counts[filled] = inner[:, 0] // inner[each, axis] * ((start + size - 1) // rows - start // rows + 1)
    return counts


def _first_not_tiled(shapes: Ints, offsets: Ints, sizes: Ints, place: Ints) -> int | None:
    """The first entry whose shards do not tile its shape exactly, or None.

    Args:
        shapes: (entries, d).
        offsets, sizes: (shards, d), inside their shapes.
        place: (shards,), ascending: the entry of each shard.
    """
    filled = (sizes > 0).all(axis=1)
    offsets, sizes, place = offsets[filled], sizes[filled], place[filled]
    count = np.bincount(place, minlength=len(shapes))
    missing = np.flatnonzero((shapes > 0).all(axis=1) & (count == 0))
    if len(missing):
        return int(missing[0])
    if len(place) == 0:
        return None
    first = np.flatnonzero(np.diff(place, prepend=-1))
    # The dimensions along which an entry is cut at all. Nearly every sharded tensor is cut along one.
    cut = np.logical_or.reduceat(sizes != shapes[place], first, axis=0)
    cuts = cut.sum(axis=1)
    entry, group = place[first], np.repeat(np.arange(len(first)), np.diff(np.append(first, len(place))))
    bad = [int(e) for e in entry[(cuts == 0) & (count[entry] != 1)]]
    one = np.flatnonzero(cuts[group] == 1)
    if len(one):
        bad += _broken_chains(shapes, offsets[one], sizes[one], place[one], cut.argmax(axis=1)[group[one]])
    # The layers of a model are mostly cut alike: each way to cut is looked at once.
    known: dict[tuple[bytes, bytes, bytes], bool] = {}
    for g in np.flatnonzero(cuts > 1).tolist():
        shape, part = shapes[entry[g]], slice(first[g], first[g] + count[entry[g]])
        way = (shape.tobytes(), offsets[part].tobytes(), sizes[part].tobytes())
        if way not in known:
            whole = int(sizes[part].prod(axis=1).sum()) == int(shape.prod())
            known[way] = whole and disjoint(offsets[part][:, cut[g]], sizes[part][:, cut[g]])
        if not known[way]:
            bad.append(int(entry[g]))
    return min(bad, default=None)


def _broken_chains(shapes: Ints, offsets: Ints, sizes: Ints, place: Ints, axis: Ints) -> list[int]:
    """Entries whose shards do not follow one another, without a gap, along the one dimension in which they are cut.

    Args:
        place, axis: (shards,): the entry of each shard, and the dimension of its entry.
    """
    each = np.arange(len(place))
    start, size = offsets[each, axis], sizes[each, axis]
    order = np.lexsort((start, place))
    place, start, end, extent = place[order], start[order], (start + size)[order], shapes[place, axis][order]
    begins = np.diff(place, prepend=-1) != 0
    ends = np.append(begins[1:], True)
    wanted = np.where(begins, 0, np.append(0, end[:-1]))
    return [int(e) for e in place[(start != wanted) | (ends & (end != extent))]]


def _wrong(entries: EntryShapes, number: int, what: str, origin: Origin) -> Exception:
    return origin.error(f"entry {entries.names[number]!r} {what}")
