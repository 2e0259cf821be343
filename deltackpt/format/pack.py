"""Packs: section 6 of ``docs/format.md``. Records one after another, between a magic with a random id and a count."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from deltackpt.errors import CorruptObjectError, InvalidArgumentError, TruncatedObjectError
from deltackpt.format.hashing import Buffer
from deltackpt.format.magic import check_magic
from deltackpt.format.record import Record, decode_record, parse_record_header

__all__ = ["END_MAGIC", "MAGIC", "PACK_FOOTER_BYTES", "PACK_HEADER_BYTES", "PackBuilder", "walk_pack"]

MAGIC = b"DKPACK01"
END_MAGIC = b"DKPACKED"
PACK_HEADER_BYTES = 24
PACK_FOOTER_BYTES = 16

_LEAST_MEMORY = 1 << 16


class PackBuilder:
    """Collects encoded records into the bytes of one pack. Not for several threads at once.

    Args:
        pack_id: the 16 bytes that make the pack unlike any other; random by default.
        memory: where to put the pack together, with anything in it; the pack moves elsewhere where that is too small.
    """

    def __init__(self, pack_id: bytes | None = None, memory: memoryview | None = None) -> None:
        chosen = os.urandom(16) if pack_id is None else pack_id
        if len(chosen) != 16:
            raise InvalidArgumentError(f"a pack's id has 16 bytes, not {len(chosen)}")
        self._memory = memoryview(bytearray(_LEAST_MEMORY)) if memory is None else memory
        self._end = 0
        self._append(MAGIC + chosen)
        self._count = 0

    @property
    def count(self) -> int:
        """How many records were added."""
        return self._count

    @property
    def size(self) -> int:
        """How many bytes the pack would have if it were finished now."""
        return self._end + PACK_FOOTER_BYTES

    def add(self, record: Buffer) -> int:
        """Append a copy of one encoded record and return its offset in the pack."""
        offset = self._end
        self._append(record)
        self._count += 1
        return offset

    def finish(self) -> memoryview:
        """The pack: a view of the memory, as a rule. The builder must not be used again."""
        self._append(struct.pack("<Q", self._count) + END_MAGIC)
        return self._memory[: self._end]

    def _append(self, data: Buffer) -> None:
        start, self._end = self._end, self._end + len(data)
        if self._end > len(self._memory):
            grown = memoryview(bytearray(max(2 * len(self._memory), self._end)))
            grown[:start] = self._memory[:start]
            self._memory = grown
        self._memory[start : self._end] = data


def walk_pack(data: Buffer, *, source: str) -> Iterator[tuple[int, Record]]:
    """The records of a whole pack with their offsets, in order, each checked against its checksum. Needs no index.

    Payloads are views of ``data``.

    Raises:
        TruncatedObjectError: the pack ends early.
        UnknownVersionError: a pack or record of another version.
        CorruptObjectError: anything else that is not as section 6 says. Records before the damage were yielded.
    """
    view = memoryview(data)
    check_magic(view, MAGIC, "pack", source=source)
    end = len(view) - PACK_FOOTER_BYTES
    if end < PACK_HEADER_BYTES or view[-8:] != END_MAGIC:
        raise TruncatedObjectError(
            f"the pack's end mark is missing after {len(view)} bytes: it is cut short or damaged",
            where=source,
            offset=max(0, len(view) - 8),
        )
    (promised,) = struct.unpack("<Q", view[end : end + 8])
    offset = PACK_HEADER_BYTES
    count = 0
    while offset < end:
        header = parse_record_header(view[offset:end], source=source, offset=offset)
        record = decode_record(view[offset : min(end, offset + header.length)], source=source, offset=offset)
        yield offset, record
        offset += header.length
        count += 1
    if count != promised:
        raise CorruptObjectError(f"the pack has {count} records and counts {promised}", where=source, offset=end)
