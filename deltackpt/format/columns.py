"""Column tables: section 9 of ``docs/format.md``.

Integers, byte strings of one length and text, column by column, in one zstd frame.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import zstandard
from numpy.typing import NDArray

from deltackpt.errors import CorruptObjectError, InvalidArgumentError, TruncatedObjectError, UnknownVersionError
from deltackpt.format.hashing import Buffer
from deltackpt.format.int_column import decode_ints, encode_ints
from deltackpt.format.varint import Reader, put_varint

__all__ = ["MAX_TABLE_BYTES", "DecodedTable", "decode_table", "encode_table"]

MAX_TABLE_BYTES = 1 << 31
# A zstd block takes at least 4 bytes and gives at most 2**17, so no frame decodes to more than 2**15 times its length.
_MAX_RATIO = 1 << 15
_LEVEL = 3
_INT, _BYTES, _STR = 0, 1, 2

Column: TypeAlias = "NDArray[Any] | Sequence[str]"
Decoded: TypeAlias = "NDArray[np.int64] | NDArray[np.uint8] | list[str]"


def encode_table(columns: Mapping[str, Column]) -> bytes:
    """One table.

    Args:
        columns: by name: a 1-dimensional array of integers (0 to 2**63 - 1), a uint8 array of shape (n, L) for n byte
            strings of L >= 1 bytes, or a sequence of str.

    Raises:
        InvalidArgumentError: a column of another type, a negative number, text that UTF-8 cannot hold, or too much.
    """
    plain = bytearray()
    put_varint(plain, len(columns))
    for name, values in columns.items():
        encoded_name = name.encode()
        put_varint(plain, len(encoded_name))
        plain += encoded_name
        if not isinstance(values, np.ndarray):
            _put_strings(plain, name, values)
        elif values.ndim == 1 and values.dtype.kind in "iu":
            plain.append(_INT)
            put_varint(plain, len(values))
            plain += encode_ints(name, values)
        elif values.ndim == 2 and values.dtype == np.uint8 and values.shape[1] > 0:
            plain.append(_BYTES)
            put_varint(plain, values.shape[0])
            put_varint(plain, values.shape[1])
            plain += values.tobytes()
        else:
            raise InvalidArgumentError(
                f"column {name!r} is an array of {values.dtype} of shape {values.shape}, which tables do not hold"
            )
    if len(plain) > MAX_TABLE_BYTES:
        raise InvalidArgumentError(f"a table of {len(plain)} bytes is too large", hint=f"at most {MAX_TABLE_BYTES}")
    frame = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True).compress(plain)
    return struct.pack("<II", len(plain), len(frame)) + frame


def _put_strings(plain: bytearray, name: str, values: Sequence[str]) -> None:
    try:
        encoded = [value.encode() for value in values]
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"column {name!r} has text that is not valid Unicode: {error}") from error
    plain.append(_STR)
    put_varint(plain, len(encoded))
    for text in encoded:
        put_varint(plain, len(text))
    plain += b"".join(encoded)


class DecodedTable:
    """A decoded table; every accessor checks that the column is there and of its kind.

    The accessors raise ``CorruptObjectError`` otherwise. Columns that nobody asks for are ignored.
    """

    def __init__(self, columns: dict[str, Decoded], *, source: str, offset: int) -> None:
        self._columns = columns
        self._source = source
        self._offset = offset

    def ints(self, name: str, count: int | None = None) -> NDArray[np.int64]:
        """An integer column, int64 of shape (n,), nothing negative. ``count``, if given, is the length it must have."""
        values = self._columns.get(name)
        if not isinstance(values, np.ndarray) or values.ndim != 1:
            raise self._error(f"the table has no integer column {name!r}")
        self._check_count(name, len(values), count)
        return values.view(np.int64)

    def bytes(self, name: str, length: int, count: int | None = None) -> NDArray[np.uint8]:
        """A column of byte strings of this length, uint8 of shape (n, length)."""
        values = self._columns.get(name)
        if not isinstance(values, np.ndarray) or values.ndim != 2 or values.shape[1] != length:
            raise self._error(f"the table has no column {name!r} of {length}-byte strings")
        self._check_count(name, len(values), count)
        return values.view(np.uint8)

    def strings(self, name: str, count: int | None = None) -> list[str]:
        """A column of text."""
        values = self._columns.get(name)
        if not isinstance(values, list):
            raise self._error(f"the table has no text column {name!r}")
        self._check_count(name, len(values), count)
        return values

    def _check_count(self, name: str, got: int, want: int | None) -> None:
        if want is not None and got != want:
            raise self._error(f"column {name!r} has {got} values, not {want}")

    def _error(self, message: str) -> CorruptObjectError:
        return CorruptObjectError(message, where=self._source, offset=self._offset)


def decode_table(data: Buffer, *, source: str, offset: int) -> DecodedTable:
    """The table that ``data`` is, exactly.

    Args:
        source: the object it is part of, for messages.
        offset: where it starts there, for messages.

    Raises:
        TruncatedObjectError: the table ends early.
        UnknownVersionError: a column of a kind or mode that this version does not know.
        CorruptObjectError: anything else that section 9 does not allow.
    """
    plain = _decompress(data, source=source, offset=offset)
    reader = _TableReader(plain, source=source, offset=offset)
    columns: dict[str, Decoded] = {}
    for _ in range(reader.varint("the number of columns")):
        name = reader.text(reader.varint("the length of a column's name"), "a column's name")
        if name in columns:
            raise reader.corrupt(f"column {name!r} occurs twice")
        columns[name] = _column(reader, name)
    reader.end("the last column")
    return DecodedTable(columns, source=source, offset=offset)


def _decompress(data: Buffer, *, source: str, offset: int) -> bytes:
    view = memoryview(data)
    if len(view) < 8:
        raise TruncatedObjectError("the table's lengths are cut off", where=source, offset=offset)
    plain_length, length = struct.unpack("<II", view[:8])
    if len(view) - 8 < length:
        raise TruncatedObjectError(f"a table of {length} bytes ends after {len(view) - 8}", where=source, offset=offset)
    if len(view) - 8 > length:
        raise CorruptObjectError(f"{len(view) - 8 - length} bytes follow the table", where=source, offset=offset)
    if plain_length > min(MAX_TABLE_BYTES, length * _MAX_RATIO):
        raise CorruptObjectError(
            f"a table of {length} bytes claims to hold {plain_length}", where=source, offset=offset
        )
    frame = view[8:]
    try:
        if zstandard.frame_content_size(frame) != plain_length:
            raise CorruptObjectError("the table's frame holds another length than it says", where=source, offset=offset)
        plain = zstandard.ZstdDecompressor().decompress(frame, max_output_size=plain_length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptObjectError(f"the table does not decompress: {error}", where=source, offset=offset) from error
    if len(plain) != plain_length:
        raise CorruptObjectError("the table decompresses to another length", where=source, offset=offset)
    return plain


class _TableReader(Reader):
    """A reader of a table's decoded bytes, whose errors name the start of the table in its object."""

    __slots__ = ()

    def corrupt(self, message: str) -> CorruptObjectError:
        return CorruptObjectError(f"table: {message}", where=self._source, offset=self._offset)

    def unknown(self, message: str) -> UnknownVersionError:
        return UnknownVersionError(
            f"table: {message}", where=self._source, offset=self._offset, hint="was it written by a newer deltackpt?"
        )

    def text(self, length: int, what: str) -> str:
        try:
            return str(self.take(length, what), "utf-8")
        except UnicodeDecodeError as error:
            raise self.corrupt(f"{what} is not UTF-8") from error


def _column(reader: _TableReader, name: str) -> Decoded:
    what = f"column {name!r}"
    kind = reader.u8(f"the kind of {what}")
    count = reader.varint(f"the length of {what}")
    if kind == _INT:
        mode, width = reader.take(2, what)
        if mode > 1:
            raise reader.unknown(f"{what} has the unknown mode {mode}")
        if width not in (1, 2, 4, 8):
            raise reader.corrupt(f"{what} has integers of {width} bytes")
        ints = decode_ints(reader.take(count * width, what), mode, width)
        if ints is None:
            raise reader.corrupt(f"{what} has a number that is negative or above 2**63 - 1")
        return ints
    if kind == _BYTES:
        length = reader.varint(f"the width of {what}")
        if length == 0:
            raise reader.corrupt(f"{what} has strings of 0 bytes")
        return np.frombuffer(reader.take(count * length, what), np.uint8).reshape(count, length)
    if kind == _STR:
        lengths = reader.varints(count, f"the lengths of {what}")
        return [reader.text(length, what) for length in lengths]
    raise reader.unknown(f"{what} has the unknown kind {kind}")
