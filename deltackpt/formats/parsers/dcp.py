"""Folders that ``torch.distributed.checkpoint`` writes: ``.metadata``, a pickle of what lies where, and ``*.distcp``.

Each tensor in a ``.distcp`` file is a whole file of ``torch.save`` (or, in newer versions, may be one of safetensors),
one after another; ``.metadata`` has the place of each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from deltackpt.errors import DamagedFileError, InvalidNameError, UnsafeFileError
from deltackpt.formats.parsers.found import Check, FoundTensor, ParsedFile, PartOf, Storage
from deltackpt.formats.parsers.objects import counts_of, fields_of, pairs_of
from deltackpt.formats.parsers.pickles import MAX_PICKLE_BYTES, Pairs, Value, parse_pickle
from deltackpt.formats.parsers.safetensors import looks_like_safetensors, parse_safetensors
from deltackpt.formats.parsers.source import Readable, Window
from deltackpt.formats.parsers.torch_zip import find_pickle, parse_torch_zip
from deltackpt.formats.parsers.zips import looks_like_zip, read_zip
from deltackpt.formats.recipe import check_path

__all__ = ["DcpItem", "DcpMetadata", "DcpObject", "parse_distcp", "read_dcp_metadata"]

_FORMAT: Final = "dcp"
_HEAD: Final = 16


@dataclass(frozen=True, slots=True)
class DcpItem:
    """A part of a tensor in a ``.distcp`` file.

    Attributes:
        place: of the tensor in the nested state.
        part: which part of which tensor.
        start, length: its bytes in the file.
    """

    place: tuple[str | int, ...]
    part: PartOf
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class DcpObject:
    """A value that is no tensor.

    Attributes:
        name: as DCP calls it.
        place: in the nested state.
        file: the path of its file beside ``.metadata``.
        start, length: its bytes in that file.
    """

    name: str
    place: tuple[str | int, ...]
    file: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class DcpMetadata:
    """What ``.metadata`` says.

    Attributes:
        items: the tensors in each file, by the file's path beside ``.metadata``.
        objects: what is no tensor, each a file of ``torch.save`` in one of these files.
        files: all files that it names.
    """

    items: Mapping[str, Sequence[DcpItem]]
    objects: Sequence[DcpObject]
    files: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Stored:
    """An entry of ``storage_data``; one without offsets is an object."""

    fqn: str
    offsets: tuple[int, ...] | None
    file: str
    start: int
    length: int


def read_dcp_metadata(file: Readable) -> DcpMetadata:
    """Read ``.metadata``.

    Raises:
        DamagedFileError: it is no pickle, or not of DCP's metadata.
        UnsafeFileError: it names a file outside its folder.
    """
    where = str(file.path)
    if file.size > MAX_PICKLE_BYTES:
        raise UnsafeFileError(f"it has {file.size} bytes; at most {MAX_PICKLE_BYTES} are read", where=where)
    value, _ = parse_pickle(file.bytes(0, file.size), where=where)
    fields = fields_of(value)
    shapes = {
        name: counts_of(fields_of(described).get("size"))
        for name, described in pairs_of(fields.get("state_dict_metadata"))
    }
    if not isinstance(fields.get("storage_data"), Pairs):
        raise DamagedFileError("it is not the metadata of a checkpoint of torch.distributed", where=where)
    places = {name: place for name, place in pairs_of(fields.get("planner_data")) if _is_place(place)}
    stored = [_read_stored(key, value, where) for key, value in fields["storage_data"].items]
    joined = _joined(stored, shapes, _sizes(fields))
    items: dict[str, list[DcpItem]] = {}
    objects = []
    for one in stored:
        shape, place = shapes.get(one.fqn), places.get(one.fqn, (one.fqn,))
        if one.offsets is None:
            objects.append(DcpObject(one.fqn, place, one.file, one.start, one.length))
        elif shape is not None and len(shape) == len(one.offsets):
            part = PartOf(one.fqn, shape, one.offsets, one.fqn in joined)
            items.setdefault(one.file, []).append(DcpItem(place, part, one.start, one.length))
    return DcpMetadata(items, objects, frozenset(one.file for one in stored))


def parse_distcp(file: Readable, items: Sequence[DcpItem]) -> ParsedFile:
    """Where the tensors lie in a ``.distcp`` file.

    Raises:
        DamagedFileError: it is truncated or damaged.
        UnsafeFileError: tensors overlap.
    """
    tensors: list[FoundTensor] = []
    checks: list[Check] = []
    end = 0
    for item in sorted(items, key=lambda i: i.start):
        if item.start < end:
            raise UnsafeFileError(
                f"tensor {item.part.name!r} overlaps another", where=str(file.path), offset=item.start
            )
        end = item.start + item.length
        if end > file.size:
            raise DamagedFileError(
                f"the file has {file.size} bytes, but tensor {item.part.name!r} is said to end at {end}",
                where=str(file.path),
                hint="the file is truncated; copy it again",
            )
        parsed = _parse_item(Window(file, item.start, item.length))
        checks += [replace(check, start=check.start + item.start) for check in parsed.checks]
        if len(parsed.tensors) == 1:
            tensors.append(_shifted(parsed.tensors[0], item))
    return ParsedFile(_FORMAT, tensors, checks)


def _parse_item(window: Window) -> ParsedFile:
    head = window.bytes(0, min(window.size, _HEAD))
    if looks_like_zip(head):
        members = {member.name: member for member in read_zip(window)}
        pickle = find_pickle(members)
        if pickle is not None:
            return parse_torch_zip(window, members, pickle)
    elif looks_like_safetensors(head, ""):
        return parse_safetensors(window)
    # Compressed by an extension of DCP, for example.
    return ParsedFile(_FORMAT)


def _shifted(tensor: FoundTensor, item: DcpItem) -> FoundTensor:
    part = item.part
    fits = all(o + n <= whole for o, n, whole in zip(part.offsets, tensor.shape, part.shape, strict=False))
    if len(tensor.shape) != len(part.shape) or not fits or not tensor.is_contiguous:
        part = replace(part, joined=False)
    storage = Storage(tensor.storage.start + item.start, tensor.storage.length)
    return replace(tensor, place=item.place, storage=storage, part=part)


def _read_stored(key: Value, value: Value, where: str) -> _Stored:
    index, info = fields_of(key), fields_of(value)
    path, start, length = info.get("relative_path"), info.get("offset"), info.get("length")
    fqn, offsets = index.get("fqn"), counts_of(index.get("offset"))
    if not isinstance(path, str) or type(start) is not int or type(length) is not int or min(start, length) < 0:
        raise DamagedFileError("it has an entry without a place", where=where)
    try:
        check_path(path)
    except InvalidNameError as error:
        raise UnsafeFileError(f"it names the file {path[:200]!r}, outside its folder", where=where) from error
    if not isinstance(fqn, str) or not fqn:
        raise DamagedFileError("it has an entry without a name", where=where)
    return _Stored(fqn, offsets, path, start, length)


def _sizes(fields: Mapping[str, Value]) -> dict[tuple[str, tuple[int, ...]], tuple[int, ...]]:
    """The shape of each part of each tensor."""
    sizes = {}
    for name, described in pairs_of(fields.get("state_dict_metadata")):
        chunks = fields_of(described).get("chunks")
        for chunk in chunks if isinstance(chunks, (list, tuple)) else ():
            offsets, shape = counts_of(fields_of(chunk).get("offsets")), counts_of(fields_of(chunk).get("sizes"))
            if offsets is not None and shape is not None:
                sizes[name, offsets] = shape
    return sizes


def _joined(
    stored: Sequence[_Stored],
    shapes: Mapping[str, tuple[int, ...] | None],
    sizes: Mapping[tuple[str, tuple[int, ...]], tuple[int, ...]],
) -> frozenset[str]:
    """The tensors whose parts are all there, each consecutive elements of it, and together all of it."""
    ranges: dict[str, list[tuple[int, int]]] = {}
    broken = set()
    for one in stored:
        if one.offsets is None:
            continue
        shape, size = shapes.get(one.fqn), sizes.get((one.fqn, one.offsets))
        if shape is None or size is None or not _is_consecutive(one.offsets, size, shape):
            broken.add(one.fqn)
            continue
        start = sum(o * math.prod(shape[d + 1 :]) for d, o in enumerate(one.offsets))
        ranges.setdefault(one.fqn, []).append((start, start + math.prod(size)))
    whole = set()
    for fqn, parts in ranges.items():
        parts.sort()
        total = math.prod(shapes[fqn] or ())
        if parts[0][0] == 0 and parts[-1][1] == total and all(a[1] == b[0] for a, b in itertools.pairwise(parts)):
            whole.add(fqn)
    return frozenset(whole - broken)


def _is_consecutive(offsets: tuple[int, ...], size: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a part is whole rows of its tensor."""
    if len(offsets) != len(shape) or len(size) != len(shape):
        return False
    if any(o + n > whole for o, n, whole in zip(offsets, size, shape, strict=True)):
        return False
    return math.prod(size) > 0 and size[1:] == shape[1:] if math.prod(shape) else True


def _is_place(value: Value) -> bool:
    return isinstance(value, tuple) and all(type(part) in (str, int) for part in value)
