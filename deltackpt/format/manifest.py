"""Manifests: section 8 of ``docs/format.md``. The object that makes a step exist."""

from __future__ import annotations

import difflib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deltackpt.errors import CorruptObjectError, TensorNotFoundError, TruncatedObjectError
from deltackpt.format.closure import ClosureIndex, ClosurePack, check_closure, encode_closure, parse_closure
from deltackpt.format.columns import decode_table, encode_table
from deltackpt.format.entries import Entry, check_entries, encode_entries, parse_entries, shapes_of
from deltackpt.format.hashing import Buffer, checksum64
from deltackpt.format.keys import StepKey
from deltackpt.format.layout import ShardColumns, check_layout
from deltackpt.format.magic import check_magic
from deltackpt.format.manifest_header import (
    MAX_HEADER_BYTES,
    ArtifactTotals,
    ManifestHeader,
    Metric,
    dump_header,
    parse_header,
)
from deltackpt.format.origin import Origin
from deltackpt.format.vectors import Ints, int_column, starts_of, within
from deltackpt.tensor.box import Box

__all__ = [
    "CHECKSUM_BYTES",
    "HEADER_PREFIX",
    "ArtifactTotals",
    "ClosureIndex",
    "ClosurePack",
    "Entry",
    "Manifest",
    "ManifestHeader",
    "Metric",
    "ShardColumns",
    "StepKey",
    "decode_closure",
    "decode_header",
    "decode_manifest",
    "encode_manifest",
    "header_length",
]

MAGIC = b"DKMANI01"
HEADER_PREFIX = 32
_PREFIX = struct.Struct("<8sII4I")
_SECTIONS = 4
CHECKSUM_BYTES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """Everything in a step.

    Attributes:
        entries: its tensors and objects.
        shards: their boxes, in the order of entries.
        block_index, block_row: int64, per block, in the order of shards and of the grid: the number of an index in
            ``indexes`` and the row there.
        indexes, packs: all that hold a record which some block needs, directly or not; each once.
    """

    header: ManifestHeader
    entries: tuple[Entry, ...]
    shards: ShardColumns
    block_index: Ints
    block_row: Ints
    indexes: tuple[ClosureIndex, ...]
    packs: tuple[ClosurePack, ...]
    _numbers: dict[str, int] = field(init=False, repr=False)
    _first_shard: list[int] = field(init=False, repr=False)
    _first_dim: list[int] = field(init=False, repr=False)
    _block_start: Ints = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shards = int_column((e.shards for e in self.entries), "a number of shards")
        ndim = np.array([len(e.shape) for e in self.entries], np.int64)
        object.__setattr__(self, "_numbers", {e.fqn: number for number, e in enumerate(self.entries)})
        object.__setattr__(self, "_first_shard", starts_of(shards).tolist())
        object.__setattr__(self, "_first_dim", starts_of(shards * ndim).tolist())
        object.__setattr__(self, "_block_start", starts_of(self.shards.blocks))

    def find(self, fqn: str) -> int:
        """The number of the entry with this name.

        Raises:
            TensorNotFoundError: there is none; the message has names like it.
        """
        number = self._numbers.get(fqn)
        if number is None:
            close = difflib.get_close_matches(fqn, self._numbers, n=3)
            raise TensorNotFoundError(
                f"the step has no tensor or object {fqn!r}",
                where=str(self.header.key),
                hint=f"did you mean {' or '.join(map(repr, close))}?" if close else "list them with `deltackpt show`",
            )
        return number

    def shard_boxes(self, entry_number: int) -> list[Box]:
        """The boxes of an entry's shards, in global coordinates."""
        entry = self.entries[entry_number]
        ndim, at = len(entry.shape), self._first_dim[entry_number]
        part = slice(at, at + ndim * entry.shards)
        offsets = self.shards.offsets[part].reshape(entry.shards, ndim).tolist()
        sizes = self.shards.sizes[part].reshape(entry.shards, ndim).tolist()
        return [Box(tuple(o), tuple(s)) for o, s in zip(offsets, sizes, strict=True)]

    def shards_in(self, entry_number: int, box: Box) -> list[tuple[int, Box]]:
        """The shards of an entry that share an element with a box: their numbers and boxes."""
        entry = self.entries[entry_number]
        ndim, at = len(entry.shape), self._first_dim[entry_number]
        if box.numel == 0:
            return []
        part = slice(at, at + ndim * entry.shards)
        offsets = self.shards.offsets[part].reshape(entry.shards, ndim)
        sizes = self.shards.sizes[part].reshape(entry.shards, ndim)
        low = np.array(box.offsets, dtype=np.int64)
        high = low + np.array(box.sizes, dtype=np.int64)
        # A shard without elements has no element in common.
        common = (np.maximum(offsets, low) < np.minimum(offsets + sizes, high)).all(axis=1)
        return [
            (shard, Box(tuple(offsets[shard].tolist()), tuple(sizes[shard].tolist())))
            for shard in np.flatnonzero(common).tolist()
        ]

    def block_range(self, entry_number: int, shard_number: int) -> range:
        """The numbers of the blocks of an entry's shard, for ``block_index`` and ``block_row``."""
        if not 0 <= shard_number < self.entries[entry_number].shards:
            raise IndexError(f"entry {entry_number} has no shard {shard_number}")
        shard = self._first_shard[entry_number] + shard_number
        return range(int(self._block_start[shard]), int(self._block_start[shard + 1]))


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of a manifest.

    Raises:
        InvalidArgumentError: section 8 does not allow such a manifest.
    """
    origin = Origin()
    _check(manifest, [origin] * _SECTIONS, origin)
    header = dump_header(manifest.header)
    sections = (
        encode_entries(manifest.entries),
        encode_table(
            {"offsets": manifest.shards.offsets, "sizes": manifest.shards.sizes, "blocks": manifest.shards.blocks}
        ),
        encode_table({"index": manifest.block_index, "row": manifest.block_row}),
        encode_closure(manifest.indexes, manifest.packs),
    )
    try:
        head = _PREFIX.pack(MAGIC, len(header), _SECTIONS, *map(len, sections)) + header
    except struct.error as error:
        raise origin.error("a section of the manifest has 4 GiB or more") from error
    body = b"".join((head, struct.pack("<Q", checksum64(head)), *sections))
    return body + struct.pack("<Q", checksum64(body))


def header_length(prefix: Buffer, *, source: str) -> int:
    """How many bytes from the start of a manifest ``decode_header`` needs, from the first ``HEADER_PREFIX``.

    Raises:
        TruncatedObjectError: fewer bytes than that.
        UnknownVersionError: a manifest of another version.
        CorruptObjectError: not a manifest.
    """
    view = memoryview(prefix)
    check_magic(view, MAGIC, "manifest", source=source)
    if len(view) < HEADER_PREFIX:
        raise TruncatedObjectError(f"the manifest ends after {len(view)} bytes", where=source, offset=len(view))
    _, length, sections, *_ = _PREFIX.unpack(view[:HEADER_PREFIX])
    if length > MAX_HEADER_BYTES:
        raise CorruptObjectError(f"the manifest's header claims to have {length} bytes", where=source, offset=8)
    if sections != _SECTIONS:
        raise CorruptObjectError(f"the manifest has {sections} sections, not {_SECTIONS}", where=source, offset=12)
    return HEADER_PREFIX + int(length) + CHECKSUM_BYTES


def decode_header(data: Buffer, *, source: str) -> ManifestHeader:
    """The header at the start of a manifest, after its checksum was verified. ``data`` may go on after it.

    Raises:
        TruncatedObjectError: fewer bytes than ``header_length`` says.
        UnknownVersionError: a version that this package does not know.
        CorruptObjectError: anything else that section 8 does not allow.
    """
    view = memoryview(data)
    end = header_length(view, source=source) - CHECKSUM_BYTES
    if len(view) < end + CHECKSUM_BYTES:
        raise TruncatedObjectError(
            f"a header of {end + CHECKSUM_BYTES} bytes ends after {len(view)}", where=source, offset=len(view)
        )
    if checksum64(view[:end]) != int.from_bytes(view[end : end + CHECKSUM_BYTES], "little"):
        raise CorruptObjectError(
            "the checksum of the manifest's header does not match its bytes",
            where=source,
            offset=end,
            hint="run `deltackpt verify --deep` to see what is affected",
        )
    return parse_header(view[HEADER_PREFIX:end], Origin(source, HEADER_PREFIX))


def decode_manifest(data: Buffer, *, source: str) -> Manifest:
    """The manifest that ``data`` is, exactly, after its checksums were verified.

    Raises:
        TruncatedObjectError: the object ends early.
        UnknownVersionError: a version, dtype or kind of column that this package does not know.
        CorruptObjectError: anything else that section 8 does not allow.
    """
    view = memoryview(data)
    at, lengths = _check_whole(view, source)
    header = decode_header(view, source=source)
    tables, origins = [], []
    for length in lengths:
        tables.append(decode_table(view[at : at + length], source=source, offset=at))
        origins.append(Origin(source, at))
        at += length
    blocks = tables[2].ints("index")
    shard_count = tables[1].ints("blocks")
    indexes, packs = parse_closure(tables[3])
    manifest = Manifest(
        header=header,
        entries=parse_entries(tables[0], origins[0]),
        shards=ShardColumns(tables[1].ints("offsets"), tables[1].ints("sizes"), shard_count),
        block_index=blocks,
        block_row=tables[2].ints("row", len(blocks)),
        indexes=indexes,
        packs=packs,
    )
    _check(manifest, origins, Origin(source, HEADER_PREFIX))
    return manifest


def decode_closure(data: Buffer, *, source: str) -> tuple[tuple[ClosureIndex, ...], tuple[ClosurePack, ...]]:
    """The index objects and packs that a manifest lists, after its checksum was verified; the rest is not looked at.

    Raises:
        As :func:`decode_manifest`.
    """
    view = memoryview(data)
    at, lengths = _check_whole(view, source)
    at += sum(lengths[:-1])
    closure = parse_closure(decode_table(view[at : at + lengths[-1]], source=source, offset=at))
    check_closure(*closure, Origin(source, at))
    return closure


def _check_whole(view: memoryview, source: str) -> tuple[int, tuple[int, ...]]:
    """Where the sections start, and their lengths, once the object's length and checksum are found right."""
    at = header_length(view, source=source)
    lengths = _PREFIX.unpack(view[:HEADER_PREFIX])[3:]
    end = at + sum(lengths)
    if len(view) < end + CHECKSUM_BYTES:
        raise TruncatedObjectError(
            f"a manifest of {end + CHECKSUM_BYTES} bytes ends after {len(view)}", where=source, offset=len(view)
        )
    if len(view) > end + CHECKSUM_BYTES:
        raise CorruptObjectError("bytes follow the end of the manifest", where=source, offset=end + CHECKSUM_BYTES)
    if checksum64(view[:end]) != int.from_bytes(view[end:], "little"):
        raise CorruptObjectError(
            "the manifest's checksum does not match its bytes",
            where=source,
            offset=end,
            hint="run `deltackpt verify --deep` to see what is affected",
        )
    return at, lengths


def _check(manifest: Manifest, sections: Sequence[Origin], header: Origin) -> None:
    """Demand what section 8 says. ``sections`` and ``header`` say where each part is, for messages."""
    entries, shards, blocks, closure = sections
    check_entries(manifest.entries, entries)
    raw = check_layout(shapes_of(manifest.entries), manifest.shards, len(manifest.block_index), shards)
    if len(manifest.block_row) != len(manifest.block_index):
        raise blocks.error("there is not one row for each block")
    within(manifest.block_index, 0, len(manifest.indexes) - 1, "the index of a block", blocks)
    within(manifest.block_row, 0, None, "the row of a block", blocks)
    check_closure(manifest.indexes, manifest.packs, closure)
    _check_totals(manifest, raw.tolist(), header)


def _check_totals(manifest: Manifest, raw: Sequence[int], origin: Origin) -> None:
    totals = {name: [0, 0] for name in manifest.header.artifacts}
    for entry, length in zip(manifest.entries, raw, strict=True):
        if entry.artifact not in totals:
            raise origin.error(f"artifact {entry.artifact!r} of entry {entry.fqn!r} is not in the header")
        totals[entry.artifact][0] += length
        totals[entry.artifact][1] += 1
    for name, (length, count) in totals.items():
        said = manifest.header.artifacts[name]
        if (said.raw_bytes, said.entries) != (length, count):
            raise origin.error(
                f"artifact {name!r} has {count} entries of {length} bytes where the header says "
                f"{said.entries} of {said.raw_bytes}"
            )
    if manifest.header.raw_bytes != sum(raw):
        raise origin.error(f"the entries have {sum(raw)} bytes where the header says {manifest.header.raw_bytes}")
