"""Files that ``torch.save`` wrote before torch 1.6, or with ``_use_new_zipfile_serialization=False``.

Five pickles (a magic number, the protocol, facts about the machine, the value, the keys of the storages), then for each
key the number of elements as an int64, and the elements.
"""

from __future__ import annotations

from typing import Final

from deltackpt.errors import DamagedFileError
from deltackpt.formats.parsers.calls import foreign_calls
from deltackpt.formats.parsers.found import ParsedFile, Storage
from deltackpt.formats.parsers.pickles import MAX_PICKLE_BYTES, Pairs, Value, parse_pickle
from deltackpt.formats.parsers.source import Readable
from deltackpt.formats.parsers.torch_values import SavedValue, StoredStorage, find_tensors, storages_of

__all__ = ["looks_like_torch_legacy", "parse_torch_legacy", "read_torch_legacy"]

_FORMAT: Final = "torch-legacy"
_MAGIC: Final = bytes.fromhex("8a0a6cfc9c46f9206aa850192e")
_SIZE_BYTES: Final = 8


def looks_like_torch_legacy(head: bytes) -> bool:
    """Whether a file that begins like this was written by an old ``torch.save``: a pickle of its magic number."""
    return head[:1] == b"\x80" and head[2:].startswith(_MAGIC)


def parse_torch_legacy(file: Readable) -> ParsedFile:
    """Where the tensors lie.

    Raises:
        DamagedFileError: a pickle cannot be read, or the file ends before its storages do.
        UnsafeFileError: a pickle is built to do harm.
    """
    saved = read_torch_legacy(file)
    if isinstance(saved, str):
        return ParsedFile(_FORMAT, note=saved)
    tensors = find_tensors(saved.value, saved.place_of, str(file.path))
    return ParsedFile(_FORMAT, tensors, calls=foreign_calls(saved.value))


def read_torch_legacy(file: Readable) -> SavedValue | str:
    """The value that was saved, or why it cannot be read.

    Raises:
        DamagedFileError: a pickle cannot be read, or the file ends before its storages do.
        UnsafeFileError: a pickle is built to do harm.
    """
    where = str(file.path)
    head = file.bytes(0, min(file.size, MAX_PICKLE_BYTES))
    at = 0
    values: list[Value] = []
    for _ in range(5):
        value, length = parse_pickle(head[at:], where=where, base=at)
        values.append(value)
        at += length
    if not _is_little_endian(values[2]):
        return "its numbers are big-endian"
    keys = values[4]
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise DamagedFileError("its list of storages makes no sense", where=where, offset=at)
    storages = storages_of(values[3], where)
    places = {}
    for key in keys:
        storage = storages.get(key)
        if storage is None or storage.itemsize is None:
            return f"its storage {key!r} is of an unknown type"
        numel = int.from_bytes(file.bytes(at, _SIZE_BYTES), "little")
        if numel != storage.numel:
            raise DamagedFileError(
                f"storage {key!r} has {numel} elements where {storage.numel} were announced", where=where, offset=at
            )
        length = numel * storage.itemsize
        at += _SIZE_BYTES
        if at + length > file.size:
            raise DamagedFileError(
                f"storage {key!r} of {length} bytes ends outside the file",
                where=where,
                offset=at,
                hint="the file is truncated; copy it again",
            )
        places[key] = Storage(at, length)
        at += length

    def place_of(storage: StoredStorage) -> Storage | None:
        if storage.key not in places:
            raise DamagedFileError(f"storage {storage.key!r} is missing", where=where)
        return places[storage.key]

    return SavedValue(values[3], place_of)


def _is_little_endian(facts: Value) -> bool:
    said = [value for key, value in facts.items if key == "little_endian"] if isinstance(facts, Pairs) else []
    return said in ([], [True])
