"""Unsigned LEB128 integers, and a reader that never leaves its bytes."""

from __future__ import annotations

from deltackpt.errors import CorruptObjectError, InvalidArgumentError
from deltackpt.format.hashing import Buffer

__all__ = ["Reader", "put_varint"]

_LIMIT = 1 << 64


def put_varint(out: bytearray, value: int) -> None:
    """Append ``value`` (0 to 2**64 - 1) to ``out`` in its shortest form.

    Raises:
        InvalidArgumentError: the value is out of range.
    """
    if not 0 <= value < _LIMIT:
        raise InvalidArgumentError(f"{value} is not a number that can be stored (0 to 2**64 - 1)")
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


class Reader:
    """Reads fields from the front of some bytes.

    Args:
        data: the bytes; kept, not copied.
        source: the object they are part of, for messages.
        offset: where they start in it, for messages.

    Every method raises ``CorruptObjectError`` where the bytes end inside the field.
    """

    __slots__ = ("_at", "_data", "_offset", "_source")

    def __init__(self, data: Buffer, *, source: str, offset: int = 0) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._source = source
        self._offset = offset

    @property
    def at(self) -> int:
        """How many bytes were read."""
        return self._at

    @property
    def left(self) -> int:
        """How many bytes were not read."""
        return len(self._data) - self._at

    def corrupt(self, message: str) -> CorruptObjectError:
        """An error at the present place."""
        return CorruptObjectError(
            message,
            where=self._source,
            offset=self._offset + self._at,
            hint="run `deltackpt verify --deep` to see what is affected",
        )

    def take(self, length: int, what: str) -> memoryview:
        """The next ``length`` bytes, as a view."""
        if length > self.left:
            raise self.corrupt(f"{what} needs {length} bytes where {self.left} are left")
        view = self._data[self._at : self._at + length]
        self._at += length
        return view

    def u8(self, what: str) -> int:
        """The next byte."""
        return self.take(1, what)[0]

    def varint(self, what: str) -> int:
        """The next LEB128 integer, below 2**64 and in its shortest form."""
        data, at = self._data, self._at
        value = shift = 0
        for byte in data[at : at + 10]:
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= _LIMIT or (byte == 0 and shift):
                    raise self.corrupt(f"{what} is not a shortest-form integer below 2**64")
                self._at = at
                return value
            shift += 7
        if self.left < 10:
            raise self.corrupt(f"the bytes end inside {what}")
        raise self.corrupt(f"{what} is not a shortest-form integer below 2**64")

    def varints(self, count: int, what: str) -> tuple[int, ...]:
        """The next ``count`` integers. ``count`` is checked against the bytes left before anything is kept."""
        if count > self.left:
            raise self.corrupt(f"{what}: {count} integers in {self.left} bytes")
        return tuple([self.varint(what) for _ in range(count)])

    def end(self, what: str) -> None:
        """Demand that everything was read."""
        if self.left:
            raise self.corrupt(f"{self.left} bytes are left over after {what}")
