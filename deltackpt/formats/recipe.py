"""How a file is put together again: literal bytes around the tensors of its step. Section 10 of ``docs/format.md``.

A file of a step has two entries: an object ``file:PATH``, what is known of the file as a whole (:class:`FileInfo`), and
a tensor of bytes ``body:PATH``: the file's :class:`Structure`, then its literal bytes. They are apart because structure
and literals rarely change from step to step, so that their blocks are stored once. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deltackpt.errors import DeltackptError, InvalidNameError
from deltackpt.format.json_fields import MAX_COUNT, Fields, dump_json, load_fields
from deltackpt.format.origin import Origin
from deltackpt.tensor.dtypes import by_code

__all__ = [
    "BODY_PREFIX",
    "FILE",
    "FILE_PREFIX",
    "FILE_ROLE",
    "FileInfo",
    "Segment",
    "Structure",
    "View",
    "check_path",
    "encode_info",
    "encode_structure",
    "parse_info",
    "parse_structure",
]

FILE: Final = "file"
"""The encoding of an object that describes a file."""

FILE_ROLE: Final = "file"
"""The role of both entries of a file, which no other entry has."""

FILE_PREFIX: Final = "file:"
BODY_PREFIX: Final = "body:"

_MAX_PART_BYTES: Final = 255
_MAX_PATH_BYTES: Final = 4096
_SHA256: Final = re.compile("[0-9a-f]{64}")
_MAX_MODE: Final = 0o7777
_MAX_NDIM: Final = 64


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What is known of a file as a whole.

    Attributes:
        path: where it lay in the folder of its step; ``/`` between folders.
        size: in bytes.
        mode: its permission bits.
        mtime_ns: when it was last changed, in nanoseconds since 1970, UTC.
        sha256: of its bytes, in hexadecimal digits.
        format: what it was recognised as, such as ``torch-zip``; ``bytes`` for a file that was not.
        structure: the length of its structure, with which its body begins.
    """

    path: str
    size: int
    mode: int
    mtime_ns: int
    sha256: str
    format: str
    structure: int

    @property
    def fqn(self) -> str:
        """The name of the object that has this."""
        return FILE_PREFIX + self.path

    @property
    def body(self) -> str:
        """The name of the tensor of bytes that has the structure and the literals."""
        return BODY_PREFIX + self.path


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive bytes of a file.

    Attributes:
        fqn: the tensor they are in; empty for literal bytes.
        start: where they begin in the tensor's bytes (C order), or in the body behind the structure.
        length: how many, at least one.
    """

    fqn: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class View:
    """A tensor of the file that is no entry by itself, but a part of one: a slice, a transposed or a tied tensor.

    Attributes:
        name: what it would be called as an entry.
        fqn: the entry whose elements, flat in C order, it is a view of.
        dtype: its code; elements of the view's dtype.
        offset: of its first element, in elements of its dtype.
        shape, strides: as in torch; strides in elements.
    """

    name: str
    fqn: str
    dtype: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Structure:
    """What a file is made of.

    Attributes:
        segments: in the order of the file, without gaps.
        views: its tensors that are no entries by themselves.
    """

    segments: tuple[Segment, ...]
    views: tuple[View, ...] = ()

    @property
    def literals(self) -> int:
        """How many bytes of the file are literal."""
        return sum(segment.length for segment in self.segments if not segment.fqn)


def check_path(path: str) -> str:
    """The path, if a file may have it in the folder of its step.

    Raises:
        InvalidNameError: it would leave the folder, or is none that every system can write.
    """
    parts = path.split("/")
    try:
        raw = path.encode()
    except UnicodeEncodeError as error:
        raise InvalidNameError(
            f"{path!r} is not text", hint="rename the file so that its name is valid UTF-8"
        ) from error
    if (
        len(raw) > _MAX_PATH_BYTES
        or any(part in ("", ".", "..") or len(part.encode()) > _MAX_PART_BYTES for part in parts)
        or any(ord(character) < 32 or character == "\x7f" for character in path)
    ):
        raise InvalidNameError(
            f"{path[:200]!r} is not the path of a file inside a folder",
            hint="a path is relative and has no empty part, no . or .., and no control characters",
        )
    return path


def encode_info(info: FileInfo) -> bytes:
    """The bytes of the object ``file:PATH``.

    Raises:
        InvalidArgumentError: a field is not what the format allows.
    """
    data = dump_json(
        {
            "path": info.path,
            "size": info.size,
            "mode": info.mode,
            "mtime_ns": info.mtime_ns,
            "sha256": info.sha256,
            "format": info.format,
            "structure": info.structure,
        },
        Origin(),
    )
    _read_info(data, Origin())
    return data


def parse_info(data: bytes, source: str) -> FileInfo:
    """The file that an object describes.

    Args:
        source: the object's name, for errors.

    Raises:
        CorruptObjectError: it describes none.
    """
    info = _read_info(data, Origin(source))
    if source != info.fqn:
        raise Origin(source).error(f"it describes the file {info.path!r}")
    return info


def _read_info(data: bytes, origin: Origin) -> FileInfo:
    fields = load_fields(data, origin, "the description of a file")
    try:
        path = check_path(fields.text("path"))
    except InvalidNameError as error:
        raise origin.error(error.message) from error
    sha256 = fields.text("sha256")
    if _SHA256.fullmatch(sha256) is None:
        fields.wrong("sha256", "64 hexadecimal digits")
    return FileInfo(
        path=path,
        size=fields.integer("size"),
        mode=fields.integer("mode", 0, _MAX_MODE),
        mtime_ns=fields.integer("mtime_ns", -MAX_COUNT),
        sha256=sha256,
        format=fields.text("format"),
        structure=fields.integer("structure", 1),
    )


def encode_structure(structure: Structure) -> bytes:
    """The first bytes of a file's body.

    Raises:
        InvalidArgumentError: a field is not what the format allows.
    """
    names = [segment.fqn for segment in structure.segments] + [view.fqn for view in structure.views]
    numbers = {fqn: number for number, fqn in enumerate(dict.fromkeys(["", *names]))}
    data = dump_json(
        {
            "entries": list(numbers)[1:],
            "segments": [[numbers[s.fqn], s.start, s.length] for s in structure.segments],
            "views": [
                [v.name, numbers[v.fqn], v.dtype, v.offset, list(v.shape), list(v.strides)] for v in structure.views
            ],
        },
        Origin(),
    )
    parse = _read_structure(data, Origin())
    assert parse == structure
    return data


def parse_structure(data: bytes, info: FileInfo) -> Structure:
    """The structure of a file, whose segments add up to the file.

    Args:
        data: the first ``info.structure`` bytes of its body.

    Raises:
        CorruptObjectError: it is none of this file. Whether the entries exist and are long enough is for their reader
            to check.
    """
    origin = Origin(info.body)
    structure = _read_structure(data, origin)
    if sum(segment.length for segment in structure.segments) != info.size:
        raise origin.error(f"the segments do not add up to the file's {info.size} bytes")
    return structure


def _read_structure(data: bytes, origin: Origin) -> Structure:
    fields = load_fields(data, origin, "the structure of a file")
    names = fields.items("entries")
    if not all(isinstance(name, str) and name for name in names):
        fields.wrong("entries", "a list of names")
    segments = [_read_segment(value, names, fields) for value in fields.items("segments")]
    position = 0
    for segment in segments:
        if not segment.fqn and segment.start != position:
            raise origin.error("the literal bytes of a file do not follow one another")
        position += segment.length if not segment.fqn else 0
    return Structure(
        tuple(segments), tuple(_read_view(value, names, fields, origin) for value in fields.items("views"))
    )


def _read_segment(value: object, names: Sequence[str], fields: Fields) -> Segment:
    if not isinstance(value, list) or len(value) != 3 or not _are_counts(value):
        fields.wrong("segments", "a list of [entry, start, length]")
    number, start, length = value
    if number > len(names) or length < 1:
        fields.wrong("segments", "made of bytes of its entries")
    return Segment("" if number == 0 else names[number - 1], start, length)


def _read_view(value: object, names: Sequence[str], fields: Fields, origin: Origin) -> View:
    if not isinstance(value, list) or len(value) != 6:
        fields.wrong("views", "a list of [name, entry, dtype, offset, shape, strides]")
    name, number, dtype, offset, shape, strides = value
    if (
        not isinstance(name, str)
        or not isinstance(shape, list)
        or not isinstance(strides, list)
        or not _are_counts([number, dtype, offset, *shape, *strides])
        or not 1 <= number <= len(names)
        or not len(shape) == len(strides) <= _MAX_NDIM
    ):
        fields.wrong("views", "a list of [name, entry, dtype, offset, shape, strides]")
    try:
        by_code(dtype, where=origin.source)
    except DeltackptError as error:
        raise origin.error(f"view {name!r} has the unknown dtype {dtype}") from error
    return View(name, names[number - 1], dtype, offset, tuple(shape), tuple(strides))


def _are_counts(values: Sequence[object]) -> bool:
    return all(type(value) is int and 0 <= value <= MAX_COUNT for value in values)
