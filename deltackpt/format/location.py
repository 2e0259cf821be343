"""The location section of an index: where its records lie (section 7 of ``docs/format.md``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deltackpt.format.columns import DecodedTable, encode_table
from deltackpt.format.hashing import DIGEST_BYTES
from deltackpt.format.origin import Origin
from deltackpt.format.pack import PACK_FOOTER_BYTES, PACK_HEADER_BYTES
from deltackpt.format.record import RECORD_HEADER_BYTES
from deltackpt.format.vectors import Ints, digest_column, int_column, split_digests, within

__all__ = ["Location", "PackInfo", "check_location", "encode_location", "parse_location"]


@dataclass(frozen=True, slots=True)
class PackInfo:
    """One pack: its BLAKE3 (32 bytes), its size in bytes, and the artifact whose records it holds."""

    name: bytes
    size: int
    artifact: str


@dataclass(frozen=True, slots=True, eq=False)
class Location:
    """Where n records lie.

    Attributes:
        packs: each pack once.
        pack: number of the pack in ``packs``, int64 of shape (n,) as are the others.
        offset, length: of the record in its pack, in bytes.
    """

    packs: tuple[PackInfo, ...]
    pack: Ints
    offset: Ints
    length: Ints


def encode_location(location: Location) -> bytes:
    """The location section."""
    return encode_table(
        {
            "pack_name": digest_column([pack.name for pack in location.packs]),
            "pack_size": int_column((pack.size for pack in location.packs), "the size of a pack"),
            "pack_artifact": [pack.artifact for pack in location.packs],
            "pack": location.pack,
            "offset": location.offset,
            "length": location.length,
        }
    )


def parse_location(table: DecodedTable, rows: int) -> Location:
    """The location section of an index of ``rows`` records, before ``check_location``."""
    names = split_digests(table.bytes("pack_name", DIGEST_BYTES))
    sizes = table.ints("pack_size", len(names)).tolist()
    artifacts = table.strings("pack_artifact", len(names))
    return Location(
        packs=tuple(map(PackInfo, names, sizes, artifacts)),
        pack=table.ints("pack", rows),
        offset=table.ints("offset", rows),
        length=table.ints("length", rows),
    )


def check_location(location: Location, rows: int, origin: Origin) -> None:
    """Demand that every one of ``rows`` records lies inside a pack.

    Raises:
        CorruptObjectError, InvalidArgumentError: one does not; which of the two, ``origin`` knows.
    """
    if not len(location.pack) == len(location.offset) == len(location.length) == rows:
        raise origin.error(f"there is not one location for each of the {rows} records")
    if len({pack.name for pack in location.packs}) < len(location.packs):
        raise origin.error("a pack is listed twice")
    sizes = int_column((pack.size for pack in location.packs), "the size of a pack")
    within(sizes, PACK_HEADER_BYTES + PACK_FOOTER_BYTES, None, "the size of a pack", origin)
    within(location.pack, 0, len(sizes) - 1, "the number of a pack", origin)
    within(location.offset, PACK_HEADER_BYTES, None, "the offset of a record", origin)
    within(location.length, RECORD_HEADER_BYTES, None, "the length of a record", origin)
    # Subtracting keeps this in 64 bits whatever the numbers are.
    wrong = np.flatnonzero(location.offset > sizes[location.pack] - PACK_FOOTER_BYTES - location.length)
    if len(wrong):
        raise origin.error(f"record {wrong[0]} reaches past the end of its pack")
