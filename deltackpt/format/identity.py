"""The identity section of an index: what its records are (section 7 of ``docs/format.md``)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deltackpt.format.columns import DecodedTable, encode_table
from deltackpt.format.hashing import ADDRESS_BYTES, DIGEST_BYTES
from deltackpt.format.origin import Origin
from deltackpt.format.record_meta import MAX_BLOCK_BYTES, MAX_NEEDS
from deltackpt.format.vectors import Ints, digest_column, itemsizes, split_digests, starts_of, sums_to, within

__all__ = ["Identity", "check_identity", "encode_identity", "parse_identity"]

_MAX_DEPTH = (1 << 31) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """What n records are. Never changes, whatever moves.

    Attributes:
        refs: identities (32 bytes each) of the other indexes that needs and placed blocks name, each once.
        address: uint8 of shape (n, 16).
        dtype, predictor, coder: codes of each record, int64 of shape (n,) as are the next three.
        raw: decoded bytes of each record.
        depth: how many records are decoded, one after another, to get each; 1 where nothing is needed.
        needs: how many needs each record has.
        need_ref, need_row: of all needs, record by record: 0 for this index or k for ``refs[k - 1]``, and the row
            there.
        need_start: int64 of shape (n + 1,), derived: the needs of record i are
            ``need_start[i]`` to ``need_start[i + 1] - 1``.
    """

    refs: tuple[bytes, ...]
    address: NDArray[np.uint8]
    dtype: Ints
    predictor: Ints
    coder: Ints
    raw: Ints
    depth: Ints
    needs: Ints
    need_ref: Ints
    need_row: Ints
    need_start: Ints = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "need_start", starts_of(self.needs))


def encode_identity(identity: Identity) -> bytes:
    """The identity section."""
    return encode_table(
        {
            "refs": digest_column(identity.refs),
            "address": identity.address,
            "dtype": identity.dtype,
            "predictor": identity.predictor,
            "coder": identity.coder,
            "raw": identity.raw,
            "depth": identity.depth,
            "needs": identity.needs,
            "need_ref": identity.need_ref,
            "need_row": identity.need_row,
        }
    )


def parse_identity(table: DecodedTable) -> Identity:
    """The identity section, before ``check_identity``."""
    address = table.bytes("address", ADDRESS_BYTES)
    n = len(address)
    need_ref = table.ints("need_ref")
    return Identity(
        refs=split_digests(table.bytes("refs", DIGEST_BYTES)),
        address=address,
        dtype=table.ints("dtype", n),
        predictor=table.ints("predictor", n),
        coder=table.ints("coder", n),
        raw=table.ints("raw", n),
        depth=table.ints("depth", n),
        needs=table.ints("needs", n),
        need_ref=need_ref,
        need_row=table.ints("need_row", len(need_ref)),
    )


def check_identity(identity: Identity, origin: Origin) -> None:
    """Demand what section 7 says of these columns.

    Raises:
        UnknownVersionError: a dtype code that this version does not know.
        CorruptObjectError, InvalidArgumentError: a rule is broken; which of the two, ``origin`` knows.
    """
    n = len(identity.address)
    if identity.address.shape != (n, ADDRESS_BYTES) or identity.address.dtype != np.uint8:
        raise origin.error(f"addresses are not {ADDRESS_BYTES} bytes each")
    for name in ("dtype", "predictor", "coder", "raw", "depth", "needs"):
        if getattr(identity, name).shape != (n,):
            raise origin.error(f"column {name!r} does not have one value for each of the {n} records")
    if len(identity.need_row) != len(identity.need_ref) or not sums_to(identity.needs, len(identity.need_ref)):
        raise origin.error("the numbers of needs do not add up")
    if len(set(identity.refs)) < len(identity.refs):
        raise origin.error("an index is referred to twice")
    within(identity.predictor, 0, 255, "a predictor id", origin)
    within(identity.coder, 0, 255, "a coder id", origin)
    within(identity.raw, 0, MAX_BLOCK_BYTES, "the length of a block", origin)
    if (identity.raw % itemsizes(identity.dtype, origin)).any():
        raise origin.error("the length of a block is not a multiple of its dtype's size")
    within(identity.needs, 0, MAX_NEEDS, "a number of needs", origin)
    within(identity.need_ref, 0, len(identity.refs), "the index of a need", origin)
    within(identity.need_row, 0, None, "the row of a need", origin)
    _check_order(identity, origin)


def _check_order(identity: Identity, origin: Origin) -> None:
    """Needs point backwards, and depths follow from them as far as they are in this index."""
    record = np.repeat(np.arange(len(identity.needs)), identity.needs)
    own = identity.need_ref == 0
    late = record[own][identity.need_row[own] >= record[own]]
    if len(late):
        raise origin.error(f"record {late[0]} needs a record that does not come before it")
    within(identity.depth, 1, _MAX_DEPTH, "a depth", origin)
    # Of a record of another index, only this is known: its depth is at least 1.
    below = np.ones(len(own), np.int64)
    below[own] = identity.depth[identity.need_row[own]]
    least = np.ones(len(identity.depth), np.int64)
    exact = np.ones(len(identity.depth), np.bool_)
    needy = np.flatnonzero(identity.needs)
    if len(needy):
        starts = identity.need_start[needy]
        least[needy] = 1 + np.maximum.reduceat(below, starts)
        exact[needy] = np.logical_and.reduceat(own, starts)
    wrong = np.flatnonzero((identity.depth < least) | (exact & (identity.depth > least)))
    if len(wrong):
        row = int(wrong[0])
        raise origin.error(f"record {row} has depth {identity.depth[row]}, which does not follow from its needs")
