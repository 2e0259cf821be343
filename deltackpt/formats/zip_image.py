"""A zip archive of uncompressed members, laid out as torch lays out its files. Pure.

Members start at multiples of 64 bytes, so that they can be mapped into memory; a data descriptor with the checksum
follows each, so that an archive can be read whose checksums nobody has computed (torch does not look at them).
The format is PKWARE's APPNOTE 6.3, sections 4.3 to 4.5.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deltackpt.formats.image import Crc32, FileImage, Piece, join_pieces, pieces_length

__all__ = ["ALIGNMENT", "zip_image"]

ALIGNMENT: Final = 64
"""Where members start, in bytes: what torch.save uses."""

_LOCAL = struct.Struct("<IHHHHHIIIHH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_END64 = struct.Struct("<IQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<IIQI")
_END = struct.Struct("<IHHHHIIH")
_DESCRIPTOR_FLAG, _UTF8_FLAG = 0x0008, 0x0800
_MAX32, _MAX16 = 0xFFFFFFFF, 0xFFFF
_ZIP64 = 45


@dataclass(slots=True)
class _Member:
    """One member, once its place is known."""

    name: bytes
    header: int
    start: int
    size: int
    crc: int | None
    descriptor: int = 0
    central: int = 0


def zip_image(path: str, members: Sequence[tuple[str, Sequence[Piece]]]) -> FileImage:
    """The image of an archive.

    Args:
        path: of the file.
        members: names and contents. Checksums of what is stored are left to be filled in.
    """
    pieces: list[Piece] = []
    placed: list[_Member] = []
    at = 0
    for name, content in members:
        member = _Member(name.encode(), at, 0, pieces_length(content), None)
        literals = [piece for piece in content if isinstance(piece, bytes)]
        if len(literals) == len(content):
            member.crc = zlib.crc32(b"".join(literals))
        header = _local_header(member, at)
        member.start = at + len(header)
        member.descriptor = member.start + member.size + 4
        descriptor = _descriptor(member)
        pieces += [header, *content, descriptor]
        at = member.start + member.size + len(descriptor)
        placed.append(member)
    directory = at
    for member in placed:
        member.central = at + 16
        record = _central_record(member)
        pieces.append(record)
        at += len(record)
    pieces.append(_end(len(placed), directory, at))
    checksums = tuple(Crc32(m.start, m.size, (m.descriptor, m.central)) for m in placed if m.crc is None and m.size > 0)
    return FileImage(path, join_pieces(pieces), checksums=checksums)


def _local_header(member: _Member, at: int) -> bytes:
    """Sizes stand in the descriptor too; here they are 0, as the flag demands, and the rest is padding ("FB")."""
    fixed = _LOCAL.size + len(member.name) + 4
    padding = -(at + fixed) % ALIGNMENT
    extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    return (
        _LOCAL.pack(0x04034B50, _ZIP64, _DESCRIPTOR_FLAG | _UTF8_FLAG, 0, 0, 0, 0, 0, 0, len(member.name), len(extra))
        + member.name
        + extra
    )


def _descriptor(member: _Member) -> bytes:
    # Sizes have eight bytes where either of them needs them.
    sizes = "<IIQQ" if member.size >= _MAX32 else "<IIII"
    return struct.pack(sizes, 0x08074B50, member.crc or 0, member.size, member.size)


def _central_record(member: _Member) -> bytes:
    large = member.size >= _MAX32
    wide = ([member.size, member.size] if large else []) + ([member.header] if member.header >= _MAX32 else [])
    extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    size = _MAX32 if large else member.size
    return (
        _CENTRAL.pack(
            0x02014B50,
            _ZIP64,
            _ZIP64,
            _DESCRIPTOR_FLAG | _UTF8_FLAG,
            0,
            0,
            0,
            member.crc or 0,
            size,
            size,
            len(member.name),
            len(extra),
            0,
            0,
            0,
            0,
            min(member.header, _MAX32),
        )
        + member.name
        + extra
    )


def _end(count: int, directory: int, at: int) -> bytes:
    size = at - directory
    end = _END.pack(
        0x06054B50, 0, 0, min(count, _MAX16), min(count, _MAX16), min(size, _MAX32), min(directory, _MAX32), 0
    )
    if count < _MAX16 and size < _MAX32 and directory < _MAX32:
        return end
    return (
        _END64.pack(0x06064B50, 44, _ZIP64, _ZIP64, 0, 0, count, count, size, directory)
        + _LOCATOR64.pack(0x07064B50, 0, at, 1)
        + end
    )
