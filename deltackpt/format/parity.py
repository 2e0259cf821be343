"""Parity objects: section 12 of ``docs/format.md``. What rebuilds a damaged object without a second copy of it.

A Reed-Solomon code over GF(2^8) (Reed and Solomon 1960; ``zfec``, the erasure code of Tahoe-LAFS) over sectors of the
object. Every sector has a checksum, so damage is found where it is, and as many sectors of a stripe as it has parity
can be rebuilt. Stripes are interleaved: damage in one place is shared among all of them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from deltackpt.errors import CorruptObjectError, InvalidArgumentError, MissingPackageError, TruncatedObjectError
from deltackpt.format.hashing import Buffer, blake3_digest, checksum64
from deltackpt.format.magic import check_magic

__all__ = ["Parity", "Rebuilt", "decode_parity", "encode_parity", "rebuild"]

MAGIC = b"DKPARI01"
SECTOR = 4096

# Of 256 sectors that the code allows in a stripe. More data sectors make finer shares and slower rebuilding.
_STRIPE = 128
_MAX_STRIPE = 256

_HEAD = struct.Struct("<8sQ32sIHHI")  # magic, size, digest, sector, data and parity sectors of a stripe, stripes
_CHECKSUM = 8


@dataclass(frozen=True, slots=True, eq=False)
class Parity:
    """The parity of one object.

    Attributes:
        size: length of the object in bytes.
        digest: BLAKE3 of the object.
        sector: bytes of a sector; the last one of the object is filled up with zeros.
        data, parity: sectors of a stripe that are the object's, and that are parity. Data sector ``i`` of the object is
            in stripe ``i % stripes``, at place ``i // stripes``; places past the end of the object hold zeros.
        stripes: number of stripes.
        checksums: XXH3-64 of each sector: those of the object, then the parity of each stripe.
        body: parity sectors, stripe after stripe; perhaps damaged, which the checksums tell.
    """

    size: int
    digest: bytes
    sector: int
    data: int
    parity: int
    stripes: int
    checksums: NDArray[np.uint64]
    body: memoryview

    @property
    def sectors(self) -> int:
        """How many sectors the object has."""
        return -(-self.size // self.sector)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """An object put together again.

    Attributes:
        data: its bytes, as they were when the parity was made.
        sectors: how many sectors of it were damaged.
    """

    data: bytes
    sectors: int


def encode_parity(data: Buffer, share: float) -> bytes:
    """The parity object of an object.

    Args:
        share: parity bytes for each byte of the object, above 0 and at most 1. At least one sector a stripe.

    Raises:
        InvalidArgumentError: the share makes no sense, or the object is empty.
        MissingPackageError: ``zfec`` is not installed.
    """
    if not 0 < share <= 1:
        raise InvalidArgumentError(f"the share of parity must be above 0 and at most 1, not {share}")
    size = memoryview(data).nbytes
    if size == 0:
        raise InvalidArgumentError("an empty object has no parity")
    sector = min(SECTOR, size)
    sectors = -(-size // sector)
    stripes = -(-sectors // _STRIPE)
    per_stripe = -(-sectors // stripes)
    extra = max(1, math.ceil(share * per_stripe))
    padded = _sectors(data, sector)
    encoder = _zfec().Encoder(per_stripe, per_stripe + extra)
    wanted = list(range(per_stripe, per_stripe + extra))
    body: list[bytes] = []
    for stripe in range(stripes):
        body += encoder.encode(_stripe(padded, stripe, stripes, per_stripe, sector), wanted)
    checksums = np.array([_checksum(piece) for piece in (*padded, *body)], dtype="<u8")
    head = _HEAD.pack(MAGIC, size, blake3_digest(data), sector, per_stripe, extra, stripes) + checksums.tobytes()
    return b"".join((head, struct.pack("<Q", checksum64(head)), *body))


def decode_parity(data: Buffer, *, source: str) -> Parity:
    """The parity object that ``data`` is. Its parity sectors may be damaged: their checksums are not looked at here.

    Raises:
        TruncatedObjectError: it ends before its parity sectors do.
        CorruptObjectError, UnknownVersionError: its head is not what was written.
    """
    view = memoryview(data)
    check_magic(view, MAGIC, "parity object", source=source)
    if len(view) < _HEAD.size:
        raise TruncatedObjectError(f"the parity object ends after {len(view)} bytes", where=source, offset=len(view))
    _, size, digest, sector, count, extra, stripes = _HEAD.unpack(view[: _HEAD.size])
    sectors = -(-size // sector) if sector else 0
    fits = 1 <= count <= count + extra <= _MAX_STRIPE and extra and 0 < sectors <= count * stripes
    if not fits or stripes > sectors or -(-sectors // stripes) != count:
        raise CorruptObjectError("its numbers of sectors do not fit each other", where=source, offset=8)
    end = _HEAD.size + _CHECKSUM * (sectors + stripes * extra)
    total = end + _CHECKSUM + stripes * extra * sector
    if len(view) < total:
        raise TruncatedObjectError(
            f"a parity object of {total} bytes ends after {len(view)}", where=source, offset=len(view)
        )
    if len(view) > total:
        raise CorruptObjectError("bytes follow the end of the parity object", where=source, offset=total)
    if checksum64(view[:end]) != int.from_bytes(view[end : end + _CHECKSUM], "little"):
        raise CorruptObjectError("the checksum of its head does not match", where=source, offset=end)
    checksums = np.frombuffer(view[_HEAD.size : end], dtype="<u8").astype(np.uint64)
    return Parity(size, digest, sector, count, extra, stripes, checksums, view[end + _CHECKSUM :])


def rebuild(parity: Parity, damaged: Buffer, *, source: str) -> Rebuilt:
    """The object as it was, from what is left of it.

    Args:
        damaged: what there is now, of any length; bytes that are missing count as damaged.
        source: the object, for messages.

    Raises:
        CorruptObjectError: more is damaged than the parity can rebuild.
        MissingPackageError: ``zfec`` is not installed.
    """
    whole = bytearray(parity.size)
    there = min(parity.size, memoryview(damaged).nbytes)
    whole[:there] = memoryview(damaged)[:there]
    pieces = _sectors(whole, parity.sector)
    bad = [n for n, piece in enumerate(pieces) if _checksum(piece) != parity.checksums[n]]
    decoder = _zfec().Decoder(parity.data, parity.data + parity.parity) if bad else None
    for stripe in sorted({n % parity.stripes for n in bad}):
        found = _decode_stripe(parity, decoder, pieces, {n for n in bad if n % parity.stripes == stripe}, stripe)
        if found is None:
            raise CorruptObjectError("more of it is damaged than its parity can rebuild", where=source)
        for place, piece in enumerate(found):
            number = place * parity.stripes + stripe
            if number < len(pieces):
                start = number * parity.sector
                end = min(start + parity.sector, parity.size)
                whole[start:end] = piece[: end - start]
    data = bytes(whole)
    if blake3_digest(data) != parity.digest:
        raise CorruptObjectError("what its parity rebuilds is not the object that the parity was made of", where=source)
    return Rebuilt(data, len(bad))


def _decode_stripe(
    parity: Parity, decoder: Any, pieces: Sequence[bytes], bad: set[int], stripe: int
) -> list[bytes] | None:
    """The data sectors of a stripe, from any ``parity.data`` sectors of it that are whole; None where fewer are."""
    blocks: list[bytes] = []
    numbers: list[int] = []
    for place, piece in enumerate(_stripe(pieces, stripe, parity.stripes, parity.data, parity.sector)):
        if place * parity.stripes + stripe not in bad:
            blocks.append(piece)
            numbers.append(place)
    for place in range(parity.parity):
        at = stripe * parity.parity + place
        piece = bytes(parity.body[at * parity.sector : (at + 1) * parity.sector])
        if len(blocks) < parity.data and _checksum(piece) == parity.checksums[len(pieces) + at]:
            blocks.append(piece)
            numbers.append(parity.data + place)
    if len(blocks) < parity.data:
        return None
    found: list[bytes] = decoder.decode(blocks, numbers)
    return found


def _sectors(data: Buffer, sector: int) -> list[bytes]:
    view = memoryview(data).cast("B")
    return [bytes(view[at : at + sector]).ljust(sector, b"\0") for at in range(0, len(view), sector)]


def _stripe(pieces: Sequence[bytes], stripe: int, stripes: int, count: int, sector: int) -> list[bytes]:
    """The data sectors of a stripe; zeros where the object has ended."""
    own = list(pieces[stripe::stripes])
    return own + [bytes(sector)] * (count - len(own))


def _checksum(piece: bytes) -> int:
    return xxhash.xxh3_64_intdigest(piece)


def _zfec() -> Any:
    try:
        import zfec
    except ImportError as error:
        raise MissingPackageError(
            "parity needs the package zfec", hint="install it: pip install 'deltackpt[parity]'"
        ) from error
    return zfec
