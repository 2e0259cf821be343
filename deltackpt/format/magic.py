"""The first bytes of every object and record: what it is, and which version wrote it."""

from __future__ import annotations

from deltackpt.errors import CorruptObjectError, TruncatedObjectError, UnknownVersionError
from deltackpt.format.hashing import Buffer

__all__ = ["check_magic"]


def check_magic(data: Buffer, magic: bytes, what: str, *, source: str, offset: int = 0) -> None:
    """Demand that ``data`` starts with ``magic``, whose last digits are the version.

    Args:
        what: the kind of object, for messages.
        source: the object, for messages.
        offset: where ``data`` starts in it, for messages.

    Raises:
        TruncatedObjectError: there are fewer bytes than the magic has.
        UnknownVersionError: the same kind, with another version.
        CorruptObjectError: anything else.
    """
    start = bytes(memoryview(data)[: len(magic)])
    if start == magic:
        return
    if len(start) < len(magic):
        raise TruncatedObjectError(f"the {what} ends after {len(start)} bytes", where=source, offset=offset)
    word = magic.rstrip(b"0123456789")
    digits = start[len(word) :]
    if start.startswith(word) and digits.isdigit():
        raise UnknownVersionError(
            f"the {what} has version {int(digits)}; this package knows {int(magic[len(word) :])}",
            where=source,
            offset=offset,
            hint="read it with a newer deltackpt",
        )
    raise CorruptObjectError(f"this is no {what}: it starts with {start!r}", where=source, offset=offset)
