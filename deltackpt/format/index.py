"""Index objects: section 7 of ``docs/format.md``. One writer's records of one step."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace

from deltackpt.errors import CorruptObjectError, TruncatedObjectError
from deltackpt.format.columns import decode_table
from deltackpt.format.hashing import Buffer, blake3_digest, checksum64
from deltackpt.format.identity import Identity, check_identity, encode_identity, parse_identity
from deltackpt.format.json_fields import Fields, dump_json, load_fields
from deltackpt.format.keys import MAX_STEP, StepKey
from deltackpt.format.location import Location, PackInfo, check_location, encode_location, parse_location
from deltackpt.format.magic import check_magic
from deltackpt.format.origin import Origin
from deltackpt.format.placement import PlacedShard, Placement, check_placement, encode_placement, parse_placement

__all__ = [
    "Identity",
    "Index",
    "IndexHeader",
    "Location",
    "PackInfo",
    "PlacedShard",
    "Placement",
    "decode_index",
    "encode_index",
    "make_index",
    "relocate",
]

MAGIC = b"DKINDX01"
_LENGTHS = struct.Struct("<4I")
_PREFIX = 24
_CHECKSUM = 8


@dataclass(frozen=True, slots=True)
class IndexHeader:
    """Who wrote the index, and what for.

    Attributes:
        branch, step: the step that was being saved.
        writer: number of the writer among those of the step.
        bases: every manifest through which this index names other indexes.
        pending: the announcement of its writer, 32 hex digits; so no two index objects are the same. Empty where the
            index was written without.
    """

    branch: str
    step: int
    writer: int
    bases: tuple[StepKey, ...]
    pending: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """One index. Made by ``make_index``, ``relocate`` or ``decode_index``, which check it.

    Attributes:
        digest: BLAKE3 of the identity section: the identity by which records of this index are referred to.
        identity_section: these bytes, kept because another version of zstd may compress the same columns differently.
    """

    header: IndexHeader
    identity: Identity
    location: Location
    placement: Placement
    digest: bytes
    identity_section: bytes = field(repr=False)

    @property
    def rows(self) -> int:
        """How many records it lists."""
        return len(self.identity.address)


def make_index(header: IndexHeader, identity: Identity, location: Location, placement: Placement) -> Index:
    """A new index, with its digest.

    Raises:
        InvalidArgumentError: section 7 does not allow such an index.
    """
    origin = Origin()
    check_identity(identity, origin)
    rows = len(identity.address)
    check_location(location, rows, origin)
    check_placement(placement, rows, len(identity.refs), origin)
    _parse_header(load_fields(_dump_header(header), origin, "the index's header"))
    section = encode_identity(identity)
    return Index(header, identity, location, placement, blake3_digest(section), section)


def relocate(index: Index, location: Location) -> Index:
    """The same records elsewhere. The digest stays, so every reference to them holds.

    Raises:
        InvalidArgumentError: the location does not fit the records.
    """
    check_location(location, index.rows, Origin())
    return replace(index, location=location)


def encode_index(index: Index) -> bytes:
    """The bytes of an index object; its name in a store is their BLAKE3."""
    sections = (
        _dump_header(index.header),
        index.identity_section,
        encode_location(index.location),
        encode_placement(index.placement),
    )
    try:
        lengths = _LENGTHS.pack(*map(len, sections))
    except struct.error as error:
        raise Origin().error("a section of the index has 4 GiB or more") from error
    body = b"".join((MAGIC, lengths, *sections))
    return body + struct.pack("<Q", checksum64(body))


def decode_index(data: Buffer, *, source: str) -> Index:
    """The index object that ``data`` is, exactly, after its checksum was verified.

    Raises:
        TruncatedObjectError: the object ends early.
        UnknownVersionError: a version, dtype or kind of column that this package does not know.
        CorruptObjectError: anything else that section 7 does not allow.
    """
    view = memoryview(data)
    check_magic(view, MAGIC, "index", source=source)
    if len(view) < _PREFIX + _CHECKSUM:
        raise TruncatedObjectError(f"the index ends after {len(view)} bytes", where=source, offset=len(view))
    lengths = _LENGTHS.unpack(view[8:_PREFIX])
    end = _PREFIX + sum(lengths)
    if len(view) < end + _CHECKSUM:
        raise TruncatedObjectError(
            f"an index of {end + _CHECKSUM} bytes ends after {len(view)}", where=source, offset=len(view)
        )
    if len(view) > end + _CHECKSUM:
        raise CorruptObjectError("bytes follow the end of the index", where=source, offset=end + _CHECKSUM)
    if checksum64(view[:end]) != int.from_bytes(view[end:], "little"):
        raise CorruptObjectError(
            "the index's checksum does not match its bytes",
            where=source,
            offset=end,
            hint="run `deltackpt verify --deep` to see what is affected",
        )
    parts, origins, at = [], [], _PREFIX
    for length in lengths:
        parts.append(view[at : at + length])
        origins.append(Origin(source, at))
        at += length
    header = _parse_header(load_fields(parts[0], origins[0], "the index's header"))
    tables = [decode_table(p, source=source, offset=o.offset or 0) for p, o in zip(parts[1:], origins[1:], strict=True)]
    identity = parse_identity(tables[0])
    check_identity(identity, origins[1])
    rows = len(identity.address)
    location = parse_location(tables[1], rows)
    check_location(location, rows, origins[2])
    placement = parse_placement(tables[2], origins[3])
    check_placement(placement, rows, len(identity.refs), origins[3])
    return Index(header, identity, location, placement, blake3_digest(parts[1]), bytes(parts[1]))


def _dump_header(header: IndexHeader) -> bytes:
    value: dict[str, object] = {
        "branch": header.branch,
        "step": header.step,
        "writer": header.writer,
        "bases": [[key.branch, key.step, key.generation] for key in header.bases],
    }
    if header.pending:
        value["pending"] = header.pending
    return dump_json(value, Origin())


def _parse_header(fields: Fields) -> IndexHeader:
    return IndexHeader(
        branch=fields.branch("branch"),
        step=fields.integer("step", 0, MAX_STEP),
        writer=fields.integer("writer"),
        bases=fields.step_keys("bases"),
        pending=fields.text("pending") if "pending" in fields else "",
    )
