"""Zip files as torch and numpy write them: where members lie. Nothing is inflated, and no name is used as a path.

The structures are those of PKWARE's APPNOTE.TXT, sections 4.3.7 (local header), 4.3.12 (central directory) and 4.3.14
to 4.3.16 (its end, also in the Zip64 form).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NoReturn

from deltackpt.errors import DamagedFileError, UnsafeFileError
from deltackpt.formats.parsers.source import Readable

__all__ = ["Member", "looks_like_zip", "read_zip"]

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_END64_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_MAGIC: Final = b"PK\x03\x04"
_ALL32: Final = 0xFFFFFFFF
_ALL16: Final = 0xFFFF
_MAX_COMMENT: Final = 0xFFFF
_MAX_DIRECTORY: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a zip file.

    Attributes:
        name: as the file has it.
        start, length: where its data lies in the file, in bytes.
        crc32: of its content.
        stored: whether its data is its content, not compressed or encrypted.
    """

    name: str
    start: int
    length: int
    crc32: int
    stored: bool


def looks_like_zip(head: bytes) -> bool:
    """Whether a file that begins like this is a zip file."""
    return head.startswith(_MAGIC)


def read_zip(file: Readable) -> list[Member]:
    """The members of a zip file, in the order of their data.

    Raises:
        DamagedFileError: it is truncated or damaged.
        UnsafeFileError: members overlap or have names that leave their folder, or there are too many.
    """
    start, length, count = _find_directory(file)
    if length > _MAX_DIRECTORY:
        raise UnsafeFileError(
            f"its list of members has {length} bytes; at most {_MAX_DIRECTORY} are read", where=str(file.path)
        )
    entries = _read_directory(file, file.bytes(start, length), start)
    if len(entries) != count:
        _fail(file, start, f"its list of members has {len(entries)} entries where {count} were announced")
    if not entries:
        return []
    entries.sort()
    members = [_locate(file, *entry) for entry in entries]
    names = {member.name for member in members}
    if len(names) != len(members):
        raise UnsafeFileError("two members have the same name", where=str(file.path), offset=start)
    ends = [at for at, *_ in entries[1:]] + [start]
    for member, end in zip(members, ends, strict=True):
        if member.start + member.length > end:
            raise UnsafeFileError(
                f"member {member.name!r} overlaps what follows it", where=str(file.path), offset=member.start
            )
    return members


def _fail(file: Readable, offset: int | None, message: str) -> NoReturn:
    raise DamagedFileError(
        message, where=str(file.path), offset=offset, hint="the file is truncated or damaged; copy it again"
    )


def _find_directory(file: Readable) -> tuple[int, int, int]:
    """Start, length and number of entries of the central directory."""
    length = min(file.size, _END.size + _MAX_COMMENT)
    tail = file.bytes(file.size - length, length)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        _fail(file, file.size, "a zip file ends before its list of members")
    _, disk, first, _, count, size, start, comment = _END.unpack_from(tail, at)
    end_at = file.size - length + at
    if at + _END.size + comment != len(tail):
        _fail(file, end_at, "bytes follow the end of a zip file")
    if _ALL32 in (start, size) or count == _ALL16:
        return _find_directory64(file, end_at)
    if disk or first:
        _fail(file, end_at, "a zip file in several parts")
    if start + size > end_at:
        _fail(file, end_at, "its list of members lies outside the file")
    return start, size, count


def _find_directory64(file: Readable, end_at: int) -> tuple[int, int, int]:
    at = end_at - _END64_LOCATOR.size
    magic, _, place, _ = _END64_LOCATOR.unpack(file.bytes(at, _END64_LOCATOR.size))
    if magic != b"PK\x06\x07" or place + _END64.size > at:
        _fail(file, at, "the end of a large zip file is damaged")
    found = _END64.unpack(file.bytes(place, _END64.size))
    count, size, start = found[7], found[8], found[9]
    if found[0] != b"PK\x06\x06" or start + size > place:
        _fail(file, place, "the end of a large zip file is damaged")
    return start, size, count


_Entry = tuple[int, str, int, int, bool]  # place of the local header, name, length, CRC-32, stored


def _read_directory(file: Readable, data: bytes, start: int) -> list[_Entry]:
    entries: list[_Entry] = []
    at = 0
    while at < len(data):
        if at + _CENTRAL.size > len(data) or not data.startswith(b"PK\x01\x02", at):
            _fail(file, start + at, "its list of members is damaged")
        fields = _CENTRAL.unpack_from(data, at)
        flags, method, crc, packed, size = fields[3], fields[4], fields[7], fields[8], fields[9]
        name_length, extra_length, comment_length, place = fields[10], fields[11], fields[12], fields[16]
        after = at + _CENTRAL.size
        name = data[after : after + name_length].decode("utf-8", "replace")
        extra = data[after + name_length : after + name_length + extra_length]
        size, packed, place = _widen(extra, size, packed, place)
        if name.startswith("/") or ".." in name.replace("\\", "/").split("/"):
            raise UnsafeFileError(f"member {name!r} would leave its folder", where=str(file.path), offset=start + at)
        stored = method == 0 and not flags & 1
        if stored and packed != size:
            _fail(file, start + at, f"member {name!r} has two lengths")
        entries.append((place, name, packed, crc, stored))
        at = after + name_length + extra_length + comment_length
    return entries


def _widen(extra: bytes, size: int, packed: int, place: int) -> tuple[int, int, int]:
    """The three numbers, read from the Zip64 extra field where they do not fit into 32 bits."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            numbers = extra[at + 4 : at + 4 + length]
            wide = iter(struct.unpack_from(f"<{len(numbers) // 8}Q", numbers))
            return tuple(next(wide, v) if v == _ALL32 else v for v in (size, packed, place))  # type: ignore[return-value]
        at += 4 + length
    return size, packed, place


def _locate(file: Readable, place: int, name: str, length: int, crc: int, stored: bool) -> Member:
    """The member, whose data begins behind its local header."""
    if place + _LOCAL.size > file.size:
        _fail(file, place, f"member {name!r} lies outside the file")
    header = _LOCAL.unpack(file.bytes(place, _LOCAL.size))
    if header[0] != _MAGIC:
        _fail(file, place, f"member {name!r} is not where the list of members says")
    start = place + _LOCAL.size + header[9] + header[10]
    if start + length > file.size:
        _fail(file, place, f"member {name!r} ends outside the file")
    return Member(name, start, length, crc, stored)
