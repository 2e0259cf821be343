"""What a file is, by its content."""

from __future__ import annotations

from typing import Final

from deltackpt.errors import DamagedFileError, UnsafeFileError
from deltackpt.formats.parsers.calls import foreign_calls
from deltackpt.formats.parsers.found import ParsedFile
from deltackpt.formats.parsers.numpy_files import is_npz, looks_like_npy, parse_npy, parse_npz
from deltackpt.formats.parsers.pickles import MAX_PICKLE_BYTES, parse_pickle
from deltackpt.formats.parsers.safetensors import looks_like_safetensors, parse_safetensors
from deltackpt.formats.parsers.source import Readable
from deltackpt.formats.parsers.torch_legacy import looks_like_torch_legacy, parse_torch_legacy, read_torch_legacy
from deltackpt.formats.parsers.torch_values import SavedValue
from deltackpt.formats.parsers.torch_zip import find_pickle, parse_torch_zip, read_torch_zip
from deltackpt.formats.parsers.zips import looks_like_zip, read_zip

__all__ = ["parse_as_bytes", "parse_file", "read_saved"]

_HEAD: Final = 64
# Many files in one, which only the ``.metadata`` beside it can tell apart.
_PARTS: Final = ".distcp"
# What has such a name and is empty, or begins with zeros, was cut short by a crash or a full disk.
_NEVER_BLANK: Final = (".pt", ".pth", ".ckpt", ".npy", ".npz", ".safetensors")


def parse_file(file: Readable) -> ParsedFile:
    """Recognise a file and find its tensors. What is not recognised is bytes.

    Raises:
        DamagedFileError: it is truncated or damaged.
        UnsafeFileError: it is built to do harm.
    """
    head = file.bytes(0, min(file.size, _HEAD))
    if file.path.name.endswith(_NEVER_BLANK) and not any(head):
        raise DamagedFileError(
            "the file begins with zeros" if head else "the file is empty",
            where=str(file.path),
            hint="it was probably cut short by a crash or a full disk; copy it again",
        )
    if file.path.name.endswith(_PARTS):
        return parse_as_bytes(file)
    if looks_like_zip(head):
        return _parse_zip(file)
    if looks_like_torch_legacy(head):
        return parse_torch_legacy(file)
    if looks_like_npy(head):
        return parse_npy(file)
    if looks_like_safetensors(head, file.path.name):
        return parse_safetensors(file)
    return _parse_pickle(file) if looks_like_pickle(head, file.path.name) else parse_as_bytes(file)


def looks_like_pickle(head: bytes, name: str) -> bool:
    """Whether a file may be a bare pickle: of protocol 2 or later by its first bytes, of an older one by its name."""
    return (head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")) or name.endswith((".pkl", ".pickle"))


def _parse_pickle(file: Readable) -> ParsedFile:
    """A pickle by itself is kept as bytes, but what it calls is looked at. What cannot be read is no pickle."""
    if file.size > MAX_PICKLE_BYTES:
        return parse_as_bytes(file)
    try:
        value, length = parse_pickle(file.bytes(0, file.size), where=str(file.path))
    except (DamagedFileError, UnsafeFileError):
        return parse_as_bytes(file)
    return ParsedFile("pickle", calls=foreign_calls(value)) if length == file.size else parse_as_bytes(file)


def read_saved(file: Readable) -> SavedValue | str:
    """The value in a file of ``torch.save``, or why it has none that can be read.

    Raises:
        DamagedFileError: it is truncated or damaged.
        UnsafeFileError: it is built to do harm.
    """
    head = file.bytes(0, min(file.size, _HEAD))
    if looks_like_torch_legacy(head):
        return read_torch_legacy(file)
    if looks_like_zip(head):
        members = {member.name: member for member in read_zip(file)}
        pickle = find_pickle(members)
        if pickle is not None:
            return read_torch_zip(file, members, pickle)
    return "it is no file of torch.save"


def parse_as_bytes(_: Readable) -> ParsedFile:
    """The file as its bytes, whatever it is."""
    return ParsedFile("bytes")


def _parse_zip(file: Readable) -> ParsedFile:
    members = {member.name: member for member in read_zip(file)}
    pickle = find_pickle(members)
    if pickle is not None:
        return parse_torch_zip(file, members, pickle)
    if is_npz(members):
        return parse_npz(file, members.values())
    return parse_as_bytes(file)
