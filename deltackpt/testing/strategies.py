"""Hypothesis strategies for valid values of the store format: steps, records, indexes, manifests.

Everything drawn is small, and every rule of ``docs/format.md`` that can be kept without decoding payloads is kept.
"""

from __future__ import annotations

import math
import string
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st

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
from deltackpt.format.keys import MAX_GENERATION, MAX_STEP, StepKey
from deltackpt.format.manifest import (
    ArtifactTotals,
    ClosureIndex,
    ClosurePack,
    Entry,
    Manifest,
    ManifestHeader,
    Metric,
    ShardColumns,
)
from deltackpt.format.record import Need, Record, Tile
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import DTYPES, by_code
from deltackpt.tensor.grid import block_count

__all__ = ["branches", "indexes", "manifests", "metrics", "records", "shapes", "step_keys", "tilings"]

_INT64_MAX = (1 << 63) - 1
_ADDRESSES = st.binary(min_size=16, max_size=16)
_DIGESTS = st.binary(min_size=32, max_size=32)
_DTYPE_CODES = st.sampled_from([dtype.code for dtype in DTYPES])
_TIMES = st.datetimes().map(lambda time: time.isoformat() + "Z")
_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
_SIZES = st.integers(0, _INT64_MAX)
_ARTIFACTS = ("model", "optim", "train")


def branches() -> st.SearchStrategy[str]:
    """Names of branches."""
    first = string.ascii_letters + string.digits + "_"
    return st.builds(str.__add__, st.sampled_from(first), st.text(first + ".-", max_size=8))


def step_keys() -> st.SearchStrategy[StepKey]:
    """Generations of steps."""
    return st.builds(StepKey, branches(), st.integers(0, MAX_STEP), st.integers(1, MAX_GENERATION))


def shapes(max_dims: int = 3, max_size: int = 6) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes, some with 0 dimensions and some without elements."""
    return st.lists(st.integers(0, max_size), max_size=max_dims).map(tuple)


def metrics() -> st.SearchStrategy[dict[str, Metric]]:
    """Metrics of every type, also floats that are not finite."""
    values: st.SearchStrategy[Any] = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _TEXT)
    return st.dictionaries(_TEXT, values, max_size=4)


@st.composite
def tilings(draw: st.DrawFn, shape: tuple[int, ...], max_cuts: int = 3) -> list[Box]:
    """Boxes, in any order, that cover a shape without overlap."""
    boxes = [Box.whole(shape)]
    for _ in range(draw(st.integers(0, max_cuts))):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        long = [d for d, size in enumerate(box.sizes) if size > 1]
        if not long:
            boxes.append(box)
            continue
        d = draw(st.sampled_from(long))
        at = draw(st.integers(1, box.sizes[d] - 1))
        for start, size in ((0, at), (at, box.sizes[d] - at)):
            offsets = (*box.offsets[:d], box.offsets[d] + start, *box.offsets[d + 1 :])
            boxes.append(Box(offsets, (*box.sizes[:d], size, *box.sizes[d + 1 :])))
    return draw(st.permutations(boxes))


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Records as section 5 allows them. Their payloads decode only where they are raw; their addresses are random."""
    dtype = draw(_DTYPE_CODES)
    shape = draw(shapes())
    address = draw(_ADDRESSES)
    if draw(st.booleans()):
        length = math.prod(shape) * by_code(dtype).itemsize
        return Record(dtype, 0, 0, address, shape, (), b"", draw(st.binary(min_size=length, max_size=length)))
    payload = draw(st.binary(max_size=40))
    predictor = draw(st.integers(0, 255))
    if predictor == 0:
        return Record(dtype, 0, draw(st.integers(1, 255)), address, shape, (), b"", payload)
    needs = [need for slot in range(draw(st.integers(0, 2))) for need in draw(_slots(slot, shape, address))]
    coder = draw(st.integers(1, 255))
    return Record(dtype, predictor, coder, address, shape, tuple(needs), draw(st.binary(max_size=8)), payload)


@st.composite
def _slots(draw: st.DrawFn, slot: int, shape: tuple[int, ...], address: bytes) -> list[Need]:
    sources = _ADDRESSES.filter(lambda source: source != address)
    dtype = draw(_DTYPE_CODES)
    if 0 in shape or draw(st.booleans()):
        return [Need(slot, dtype, draw(sources), None)]
    needs = []
    for box in draw(tilings(shape)):
        before = [draw(st.integers(0, 3)) for _ in shape]
        source_shape = [a + size + draw(st.integers(0, 3)) for a, size in zip(before, box.sizes, strict=True)]
        tile = Tile(tuple(source_shape), tuple(before), box.sizes, box.offsets)
        needs.append(Need(slot, dtype, draw(sources), tile))
    return needs[: draw(st.integers(1, len(needs)))]


@st.composite
def indexes(draw: st.DrawFn) -> Index:
    """Indexes with a few records, packs and placed shards."""
    header = IndexHeader(
        draw(branches()),
        draw(st.integers(0, MAX_STEP)),
        draw(st.integers(0, 1 << 20)),
        tuple(draw(st.lists(step_keys(), max_size=2))),
        draw(st.sampled_from(["", "0123456789abcdef" * 2])),
    )
    identity = draw(_identities())
    rows = len(identity.address)
    return make_index(header, identity, draw(_locations(rows)), draw(_placements(rows, len(identity.refs))))


@st.composite
def _identities(draw: st.DrawFn) -> Identity:
    refs = draw(st.lists(_DIGESTS, max_size=2, unique=True))
    rows = draw(st.integers(0, 6))
    depth: list[int] = []
    needs: list[list[tuple[int, int]]] = []
    for row in range(rows):
        own = [(0, before) for before in range(row)]
        foreign = [(ref + 1, draw(_SIZES)) for ref in range(len(refs))]
        chosen = draw(st.lists(st.sampled_from(own + foreign), max_size=3)) if own or foreign else []
        below = [depth[at] if ref == 0 else draw(st.integers(1, 9)) for ref, at in chosen]
        depth.append(1 + max(below, default=0))
        needs.append(chosen)
    dtypes = [draw(st.sampled_from(DTYPES)) for _ in range(rows)]
    ids = st.lists(st.integers(0, 255), min_size=rows, max_size=rows)
    flat = [need for chosen in needs for need in chosen]
    return Identity(
        refs=tuple(refs),
        address=np.frombuffer(b"".join(draw(_ADDRESSES) for _ in range(rows)), np.uint8).reshape(rows, 16),
        dtype=np.array([dtype.code for dtype in dtypes], np.int64),
        predictor=np.array(draw(ids), np.int64),
        coder=np.array(draw(ids), np.int64),
        raw=np.array([dtype.itemsize * draw(st.integers(0, 1 << 20)) for dtype in dtypes], np.int64),
        depth=np.array(depth, np.int64),
        needs=np.array([len(chosen) for chosen in needs], np.int64),
        need_ref=np.array([ref for ref, _ in flat], np.int64),
        need_row=np.array([row for _, row in flat], np.int64),
    )


@st.composite
def _locations(draw: st.DrawFn, rows: int) -> Location:
    names = draw(st.lists(_DIGESTS, min_size=min(rows, 1), max_size=3, unique=True))
    pack = [draw(st.integers(0, len(names) - 1)) for _ in range(rows)]
    offset = [draw(st.integers(24, 1 << 40)) for _ in range(rows)]
    length = [draw(st.integers(40, 1 << 33)) for _ in range(rows)]
    ends = [24] * len(names)
    for number, start, size in zip(pack, offset, length, strict=True):
        ends[number] = max(ends[number], start + size)
    packs = [PackInfo(name, end + 16, draw(st.sampled_from(_ARTIFACTS))) for name, end in zip(names, ends, strict=True)]
    return Location(tuple(packs), np.array(pack, np.int64), np.array(offset, np.int64), np.array(length, np.int64))


@st.composite
def _placements(draw: st.DrawFn, rows: int, refs: int) -> Placement:
    shards = []
    for _ in range(draw(st.integers(0, 3))):
        box = draw(st.sampled_from(draw(tilings(draw(shapes())))))
        shards.append(PlacedShard(draw(_TEXT), box, block_count(box, draw(st.integers(1, 8)))))
    if rows == refs == 0:
        shards = [shard for shard in shards if shard.blocks == 0]
    total = sum(shard.blocks for shard in shards)
    block_ref = [draw(st.integers(0 if rows else 1, refs)) for _ in range(total)]
    block_row = [draw(_SIZES if ref else st.integers(0, rows - 1)) for ref in block_ref]
    return Placement(tuple(shards), np.array(block_ref, np.int64), np.array(block_row, np.int64))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Manifests with a few tensors and objects, sharded in every way."""
    entries, shards = [], []
    for fqn in draw(st.lists(_TEXT, max_size=4, unique=True)):
        entry, boxes = draw(_entries(fqn))
        entries.append(entry)
        shards += [(box, block_count(box, entry.block_elements)) for box in boxes]
    blocks = sum(count for _, count in shards)
    identities = draw(st.lists(_DIGESTS, min_size=min(blocks, 1), max_size=3, unique=True))
    packs = draw(st.lists(_DIGESTS, max_size=3, unique=True))
    last = max(len(identities) - 1, 0)
    return Manifest(
        header=draw(_headers(entries)),
        entries=tuple(entries),
        shards=ShardColumns(
            np.array([o for box, _ in shards for o in box.offsets], np.int64),
            np.array([s for box, _ in shards for s in box.sizes], np.int64),
            np.array([count for _, count in shards], np.int64),
        ),
        block_index=np.array(draw(st.lists(st.integers(0, last), min_size=blocks, max_size=blocks)), np.int64),
        block_row=np.array(draw(st.lists(_SIZES, min_size=blocks, max_size=blocks)), np.int64),
        indexes=tuple(ClosureIndex(identity, draw(_DIGESTS), draw(_SIZES)) for identity in identities),
        packs=tuple(ClosurePack(name, draw(_SIZES)) for name in packs),
    )


@st.composite
def _entries(draw: st.DrawFn, fqn: str) -> tuple[Entry, list[Box]]:
    kind: Literal["tensor", "object"] = draw(st.sampled_from(("tensor", "object")))
    shape = draw(shapes()) if kind == "tensor" else (draw(st.integers(0, 40)),)
    boxes = draw(tilings(shape)) if kind == "tensor" else [Box.whole(shape)]
    path = draw(st.none() | st.lists(_TEXT | st.integers(0, 99), max_size=3).map(tuple))
    entry = Entry(
        fqn=fqn,
        kind=kind,
        artifact=draw(st.sampled_from(_ARTIFACTS)),
        role=draw(_TEXT),
        dtype=draw(_DTYPE_CODES) if kind == "tensor" else 2,
        block_elements=draw(st.integers(1, 12)),
        requires_grad=draw(st.booleans()),
        pinned=draw(st.booleans()),
        shape=shape,
        shards=len(boxes),
        path=path,
        encoding="" if kind == "tensor" else draw(st.sampled_from(("tree", "torch"))),
    )
    return entry, boxes


@st.composite
def _headers(draw: st.DrawFn, entries: list[Entry]) -> ManifestHeader:
    key = draw(step_keys())
    distance = draw(st.integers(0, 20))
    raw = dict.fromkeys(_ARTIFACTS, 0)
    for entry in entries:
        raw[entry.artifact] += math.prod(entry.shape) * by_code(entry.dtype).itemsize
    counts = {name: sum(entry.artifact == name for entry in entries) for name in _ARTIFACTS}
    return ManifestHeader(
        key=key,
        created=draw(_TIMES),
        parent=draw(st.none() | step_keys()),
        chain_key=(key.branch, key.step) if distance == 0 else (draw(branches()), draw(st.integers(0, MAX_STEP))),
        distance=distance,
        depth=draw(st.integers(0, 1 << 20)),
        raw_bytes=sum(raw.values()),
        stored_bytes=draw(_SIZES),
        restore_bytes=draw(_SIZES),
        metrics=draw(metrics()),
        artifacts={name: ArtifactTotals(raw[name], draw(_SIZES), counts[name]) for name in _ARTIFACTS},
        writer=draw(st.dictionaries(_TEXT, _TEXT | st.integers() | st.floats(allow_nan=False, allow_infinity=False))),
    )
