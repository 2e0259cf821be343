"""The dtype table: what the format calls each element type and how its bytes are read as words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from deltackpt.errors import UnknownVersionError, UnsupportedDataError

__all__ = ["DTYPES", "DType", "by_code", "by_name"]

Kind = Literal["int", "float"]


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    Attributes:
        code: its number in the format; never changes meaning.
        name: torch's name for it, without ``torch.``.
        itemsize: bytes of one element.
        word_bytes: bytes of one word (a complex element is two words).
        kind: how words are ordered: sign and magnitude (``float``) or as integers (``int``).
    """

    code: int
    name: str
    itemsize: int
    word_bytes: int
    kind: Kind

    @property
    def word(self) -> np.dtype[np.unsignedinteger]:
        """The numpy dtype of one word, little-endian and unsigned."""
        return np.dtype(f"<u{self.word_bytes}")


DTYPES: tuple[DType, ...] = (
    DType(1, "bool", 1, 1, "int"),
    DType(2, "uint8", 1, 1, "int"),
    DType(3, "int8", 1, 1, "int"),
    DType(4, "int16", 2, 2, "int"),
    DType(5, "uint16", 2, 2, "int"),
    DType(6, "int32", 4, 4, "int"),
    DType(7, "uint32", 4, 4, "int"),
    DType(8, "int64", 8, 8, "int"),
    DType(9, "uint64", 8, 8, "int"),
    DType(10, "float16", 2, 2, "float"),
    DType(11, "bfloat16", 2, 2, "float"),
    DType(12, "float32", 4, 4, "float"),
    DType(13, "float64", 8, 8, "float"),
    DType(14, "complex32", 4, 2, "float"),
    DType(15, "complex64", 8, 4, "float"),
    DType(16, "complex128", 16, 8, "float"),
    DType(17, "float8_e4m3fn", 1, 1, "float"),
    DType(18, "float8_e4m3fnuz", 1, 1, "float"),
    DType(19, "float8_e5m2", 1, 1, "float"),
    DType(20, "float8_e5m2fnuz", 1, 1, "float"),
    DType(21, "float8_e8m0fnu", 1, 1, "int"),
    DType(22, "float4_e2m1fn_x2", 1, 1, "int"),
)

_BY_CODE = {d.code: d for d in DTYPES}
_BY_NAME = {d.name: d for d in DTYPES}


def by_code(code: int, *, where: str | None = None, offset: int | None = None) -> DType:
    """The dtype with this code.

    Raises:
        UnknownVersionError: no dtype of this version has the code.
    """
    found = _BY_CODE.get(code)
    if found is None:
        raise UnknownVersionError(
            f"unknown dtype code {code}", where=where, offset=offset, hint="was it written by a newer deltackpt?"
        )
    return found


def by_name(name: str, *, where: str | None = None) -> DType:
    """The dtype with torch's name for it, such as ``"bfloat16"``.

    Raises:
        UnsupportedDataError: the format has no such dtype.
    """
    found = _BY_NAME.get(name)
    if found is None:
        raise UnsupportedDataError(
            f"dtype {name} cannot be stored", where=where, hint=f"supported: {', '.join(_BY_NAME)}"
        )
    return found
