"""Files that ``torch.save`` has written since torch 1.6: a zip file with a pickle and one member for each storage."""

from __future__ import annotations

from collections.abc import Mapping

from deltackpt.errors import DamagedFileError
from deltackpt.formats.parsers.calls import foreign_calls
from deltackpt.formats.parsers.found import Check, ParsedFile, Storage
from deltackpt.formats.parsers.pickles import MAX_PICKLE_BYTES, parse_pickle
from deltackpt.formats.parsers.source import Readable
from deltackpt.formats.parsers.torch_values import SavedValue, StoredStorage, find_tensors
from deltackpt.formats.parsers.zips import Member

__all__ = ["find_pickle", "parse_torch_zip", "read_torch_zip"]

_PICKLE = "data.pkl"


def find_pickle(members: Mapping[str, Member]) -> Member | None:
    """The pickle that makes a zip file one of torch's: ``ARCHIVE/data.pkl``."""
    return next((m for name, m in members.items() if name.split("/")[1:] == [_PICKLE]), None)


def parse_torch_zip(file: Readable, members: Mapping[str, Member], pickle: Member) -> ParsedFile:
    """Where the tensors lie.

    Raises:
        DamagedFileError: the pickle cannot be read, or a storage is missing or too short.
        UnsafeFileError: the pickle is built to do harm.
    """
    saved = read_torch_zip(file, members, pickle)
    if isinstance(saved, str):
        return ParsedFile("torch-zip", checks=_checks(members) if pickle.stored else (), note=saved)
    tensors = find_tensors(saved.value, saved.place_of, str(file.path))
    return ParsedFile("torch-zip", tensors, _checks(members), calls=foreign_calls(saved.value))


def read_torch_zip(file: Readable, members: Mapping[str, Member], pickle: Member) -> SavedValue | str:
    """The value that was saved, or why it cannot be read.

    Raises:
        DamagedFileError: the pickle cannot be read.
        UnsafeFileError: the pickle is built to do harm.
    """
    archive = pickle.name.removesuffix(_PICKLE)
    if not pickle.stored:
        return "its pickle is compressed"
    if pickle.length > MAX_PICKLE_BYTES:
        return "its pickle is too long to be read"
    order = members.get(archive + "byteorder")
    if order is not None and file.bytes(order.start, min(order.length, 16)).strip() != b"little":
        return "its numbers are big-endian"
    value, _ = parse_pickle(file.bytes(pickle.start, pickle.length), where=str(file.path), base=pickle.start)

    def place_of(storage: StoredStorage) -> Storage | None:
        member = members.get(f"{archive}data/{storage.key}")
        if member is None:
            raise DamagedFileError(
                f"storage {storage.key!r} is missing", where=str(file.path), hint="the file is damaged; copy it again"
            )
        return Storage(member.start, member.length) if member.stored else None

    return SavedValue(value, place_of)


def _checks(members: Mapping[str, Member]) -> list[Check]:
    """The checksums of all members. torch writes zeros where it was told not to compute them."""
    return [
        Check(member.start, member.length, member.crc32, f"member {member.name!r}")
        for member in members.values()
        if member.stored and member.length and member.crc32
    ]
