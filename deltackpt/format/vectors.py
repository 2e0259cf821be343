"""Small checks and conversions of whole columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import InvalidArgumentError, UnknownVersionError
from deltackpt.format.hashing import DIGEST_BYTES
from deltackpt.format.origin import Origin
from deltackpt.tensor.dtypes import DTYPES

__all__ = ["Ints", "digest_column", "int_column", "itemsizes", "split_digests", "starts_of", "sums_to", "within"]

Ints: TypeAlias = NDArray[np.int64]

_ITEMSIZE = np.zeros(256, np.int64)
_ITEMSIZE[[d.code for d in DTYPES]] = [d.itemsize for d in DTYPES]


def int_column(values: Iterable[int], what: str) -> Ints:
    """Python integers as a column.

    Raises:
        InvalidArgumentError: one does not fit; ``what`` is one of them, for the message.
    """
    try:
        return np.array(list(values), np.int64)
    except OverflowError as error:
        raise InvalidArgumentError(f"{what} is not below 2**63") from error


def starts_of(counts: Ints) -> Ints:
    """Where each group starts when groups of these lengths follow one another; the last of n + 1 is the total."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def sums_to(counts: Ints, total: int) -> bool:
    """Whether the counts are not negative and add up to ``total``; no sum overflows on the way."""
    if len(counts) == 0:
        return total == 0
    return int(counts.min()) >= 0 and int(counts.max()) <= total and int(counts.sum()) == total


def within(values: Ints, low: int, high: int | None, what: str, origin: Origin) -> None:
    """Demand ``low <= value`` and, unless ``high`` is None, ``value <= high``; ``what`` names a value."""
    if len(values) == 0:
        return
    least, most = int(values.min()), int(values.max())
    if least < low:
        raise origin.error(f"{what} is {least}, below {low}")
    if high is not None and most > high:
        raise origin.error(f"{what} is {most}, above {high}")


def itemsizes(codes: Ints, origin: Origin) -> Ints:
    """Bytes of one element for each dtype code.

    Raises:
        UnknownVersionError: a code that this version does not know.
    """
    within(codes, 0, 255, "a dtype code", origin)
    sizes = _ITEMSIZE[codes]
    if not sizes.all():
        raise UnknownVersionError(
            f"unknown dtype code {int(codes[sizes == 0][0])}",
            where=origin.source,
            offset=origin.offset,
            hint="was it written by a newer deltackpt?",
        )
    return sizes


def digest_column(digests: Sequence[bytes]) -> NDArray[np.uint8]:
    """BLAKE3 digests as a column, uint8 of shape (n, 32)."""
    if any(len(digest) != DIGEST_BYTES for digest in digests):
        raise InvalidArgumentError(f"a BLAKE3 digest has {DIGEST_BYTES} bytes")
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)


def split_digests(column: NDArray[np.uint8]) -> tuple[bytes, ...]:
    """The digests of a column of shape (n, 32)."""
    data = column.tobytes()
    return tuple([data[at : at + DIGEST_BYTES] for at in range(0, len(data), DIGEST_BYTES)])
