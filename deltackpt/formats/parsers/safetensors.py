"""Safetensors files: ``u64`` length of a JSON header, the header, the tensors.

The format and its rules are those of https://github.com/huggingface/safetensors: at most 100 MB of header, tensors that
do not overlap.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn, TypeGuard

from deltackpt.errors import DamagedFileError, UnsafeFileError
from deltackpt.formats.parsers.found import FoundTensor, ParsedFile, Storage
from deltackpt.formats.parsers.source import Readable
from deltackpt.tensor.dtypes import by_name

__all__ = ["looks_like_safetensors", "parse_safetensors"]

_MAX_HEADER: Final = 100_000_000
_MAX_NDIM: Final = 64
_LENGTH_BYTES: Final = 8
_METADATA: Final = "__metadata__"

_DTYPES: Final = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "I32": "int32",
    "U32": "uint32",
    "I64": "int64",
    "U64": "uint64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}


def looks_like_safetensors(head: bytes, name: str) -> bool:
    """Whether a file that begins like this, or is called like this, is to be read as one."""
    if name.endswith(".safetensors"):
        return True
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    return 2 <= length <= _MAX_HEADER and head[_LENGTH_BYTES : _LENGTH_BYTES + 2] in (b'{"', b"{}")


def parse_safetensors(file: Readable) -> ParsedFile:
    """Where the tensors lie.

    Raises:
        DamagedFileError: the header is damaged, or tensors lie outside the file.
        UnsafeFileError: the header is longer than the format allows, or tensors overlap.
    """
    length = int.from_bytes(file.bytes(0, _LENGTH_BYTES), "little")
    where = str(file.path)
    if length > _MAX_HEADER:
        raise UnsafeFileError(
            f"its header is said to have {length} bytes; the format allows {_MAX_HEADER}", where=where, offset=0
        )
    start = _LENGTH_BYTES + length
    if start > file.size:
        raise DamagedFileError(
            "the file ends before its header does",
            where=where,
            offset=file.size,
            hint="the file is truncated; copy it again",
        )
    header = _parse_header(file.bytes(_LENGTH_BYTES, length), where)
    tensors = []
    end = start
    for name, described in header.items():
        if name == _METADATA:
            continue
        tensor = _parse_tensor(name, described, start, where)
        if tensor is not None:
            tensors.append(tensor)
        end = max(end, start + described["data_offsets"][1])
    if end != file.size:
        raise DamagedFileError(
            f"the file has {file.size} bytes, but its tensors end at {end}",
            where=where,
            hint="the file is truncated or damaged; copy it again",
        )
    _check_apart(tensors, where)
    return ParsedFile("safetensors", tensors)


def _parse_header(data: bytes, where: str) -> dict[str, Any]:
    try:
        header = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"its header is no JSON: {error}", where=where, hint="the file is damaged; copy it again"
        ) from error
    if not isinstance(header, dict):
        raise DamagedFileError("its header is no JSON object", where=where)
    return header


def _parse_tensor(name: str, described: Any, base: int, where: str) -> FoundTensor | None:
    """The tensor; None for a dtype that cannot be stored as one."""

    def fail(message: str) -> NoReturn:
        raise DamagedFileError(f"tensor {name[:200]!r}: {message}", where=where)

    fields = described if isinstance(described, dict) else {}
    shape, offsets, kind = fields.get("shape"), fields.get("data_offsets"), fields.get("dtype")
    if not _are_counts(shape) or len(shape) > _MAX_NDIM or not _are_counts(offsets) or len(offsets) != 2:
        fail("its shape or place makes no sense")
    start, end = offsets
    if start > end:
        fail("it ends before it begins")
    known = _DTYPES.get(kind) if isinstance(kind, str) else None
    if known is None:
        return None
    dtype = by_name(known)
    if math.prod(shape) * dtype.itemsize != end - start:
        fail(f"it has {end - start} bytes where its shape {shape} of {kind} takes another number")
    strides = tuple(math.prod(shape[d + 1 :]) for d in range(len(shape)))
    return FoundTensor((name,), dtype, Storage(base + start, end - start), 0, tuple(shape), strides)


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 62 for value in values)


def _check_apart(tensors: list[FoundTensor], where: str) -> None:
    end = 0
    for tensor in sorted((t for t in tensors if t.numel), key=lambda t: t.storage):
        if tensor.storage.start < end:
            raise UnsafeFileError(f"tensor {tensor.place[0]!r} overlaps another", where=where)
        end = tensor.storage.start + tensor.storage.length
