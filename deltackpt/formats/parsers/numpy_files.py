"""Numpy's files: ``.npy`` (one array) and ``.npz`` (a zip file of them), as ``numpy.lib.format`` describes them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Final

from deltackpt.errors import DamagedFileError
from deltackpt.formats.parsers.found import Check, FoundTensor, ParsedFile, Storage
from deltackpt.formats.parsers.source import Readable
from deltackpt.formats.parsers.zips import Member
from deltackpt.tensor.dtypes import by_name

__all__ = ["is_npz", "looks_like_npy", "parse_npy", "parse_npz"]

_MAGIC: Final = b"\x93NUMPY"
_MAX_HEADER: Final = 1 << 16
_HEADER: Final = re.compile(
    rb"\{'descr': '([<>|=][a-zA-Z]\d*)', 'fortran_order': (True|False), 'shape': \(([\d, ]*)\), \}\s*"
)
_DTYPES: Final = {
    "|b1": "bool",
    "|u1": "uint8",
    "|i1": "int8",
    "<i2": "int16",
    "<u2": "uint16",
    "<i4": "int32",
    "<u4": "uint32",
    "<i8": "int64",
    "<u8": "uint64",
    "<f2": "float16",
    "<f4": "float32",
    "<f8": "float64",
    "<c8": "complex64",
    "<c16": "complex128",
}


def looks_like_npy(head: bytes) -> bool:
    """Whether a file that begins like this is an ``.npy`` file."""
    return head.startswith(_MAGIC)


def is_npz(members: Iterable[str]) -> bool:
    """Whether a zip file with members of these names is an ``.npz`` file."""
    names = list(members)
    return bool(names) and all(name.endswith(".npy") for name in names)


def parse_npy(file: Readable) -> ParsedFile:
    """Where the array lies.

    Raises:
        DamagedFileError: the file is truncated.
    """
    tensor = _read_array(file, 0, file.size, ())
    return ParsedFile("npy", [] if tensor is None else [tensor], note="" if tensor else "an array of an unknown type")


def parse_npz(file: Readable, members: Iterable[Member]) -> ParsedFile:
    """Where the arrays lie. Compressed ones are left as they are.

    Raises:
        DamagedFileError: an array is truncated.
    """
    stored = [member for member in members if member.stored]
    found = (_read_array(file, m.start, m.length, (m.name.removesuffix(".npy"),)) for m in stored)
    checks = [Check(m.start, m.length, m.crc32, f"member {m.name!r}") for m in stored if m.length]
    return ParsedFile("npz", [tensor for tensor in found if tensor is not None], checks)


def _read_array(file: Readable, start: int, length: int, place: tuple[str, ...]) -> FoundTensor | None:
    """The array in ``[start, start + length)``; None for one that cannot be stored as a tensor."""
    head = file.bytes(start, min(length, 12))
    wide = len(head) > 6 and head[6] >= 2
    at = 12 if wide else 10
    size = int.from_bytes(head[8:at], "little")
    if not head.startswith(_MAGIC) or length < at + size:
        raise DamagedFileError(
            "an array ends before its header does",
            where=str(file.path),
            offset=start,
            hint="the file is truncated or damaged; copy it again",
        )
    if size > _MAX_HEADER:
        return None
    header = _HEADER.fullmatch(file.bytes(start + at, size))
    name = _DTYPES.get(header[1].decode()) if header is not None else None
    if header is None or name is None:
        return None
    dtype = by_name(name)
    shape = tuple(int(part) for part in header[3].decode().replace(" ", "").split(",") if part)
    if len(shape) > 64 or any(size >= 1 << 62 for size in shape):
        return None
    storage = Storage(start + at + size, math.prod(shape) * dtype.itemsize)
    if at + size + storage.length != length:
        raise DamagedFileError(
            f"an array of shape {list(shape)} takes {storage.length} bytes, but {length - at - size} follow its header",
            where=str(file.path),
            offset=start,
            hint="the file is truncated or damaged; copy it again",
        )
    fortran = header[2] == b"True"
    strides = tuple(math.prod(shape[:d]) if fortran else math.prod(shape[d + 1 :]) for d in range(len(shape)))
    return FoundTensor(place, dtype, storage, 0, shape, strides)
