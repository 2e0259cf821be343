"""The closure section of a manifest: the objects that a step is read from (section 8 of ``docs/format.md``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deltackpt.format.columns import DecodedTable, encode_table
from deltackpt.format.hashing import DIGEST_BYTES
from deltackpt.format.origin import Origin
from deltackpt.format.vectors import digest_column, int_column, split_digests

__all__ = ["ClosureIndex", "ClosurePack", "check_closure", "encode_closure", "parse_closure"]


@dataclass(frozen=True, slots=True)
class ClosureIndex:
    """An index object of the closure: its identity, its BLAKE3, which is its name (32 bytes each), and its size."""

    identity: bytes
    object: bytes
    size: int


@dataclass(frozen=True, slots=True)
class ClosurePack:
    """A pack of the closure: its BLAKE3, which is its name (32 bytes), and its size."""

    name: bytes
    size: int


def encode_closure(indexes: Sequence[ClosureIndex], packs: Sequence[ClosurePack]) -> bytes:
    """The closure section."""
    return encode_table(
        {
            "identity": digest_column([i.identity for i in indexes]),
            "object": digest_column([i.object for i in indexes]),
            "size": int_column((i.size for i in indexes), "the size of an index"),
            "pack_name": digest_column([p.name for p in packs]),
            "pack_size": int_column((p.size for p in packs), "the size of a pack"),
        }
    )


def parse_closure(table: DecodedTable) -> tuple[tuple[ClosureIndex, ...], tuple[ClosurePack, ...]]:
    """The closure section, before ``check_closure``."""
    identities = split_digests(table.bytes("identity", DIGEST_BYTES))
    objects = split_digests(table.bytes("object", DIGEST_BYTES, len(identities)))
    names = split_digests(table.bytes("pack_name", DIGEST_BYTES))
    return (
        tuple(map(ClosureIndex, identities, objects, table.ints("size", len(identities)).tolist())),
        tuple(map(ClosurePack, names, table.ints("pack_size", len(names)).tolist())),
    )


def check_closure(indexes: Sequence[ClosureIndex], packs: Sequence[ClosurePack], origin: Origin) -> None:
    """Demand that nothing is listed twice.

    Raises:
        CorruptObjectError, InvalidArgumentError: something is; which of the two, ``origin`` knows.
    """
    if len({i.identity for i in indexes}) < len(indexes):
        raise origin.error("an index is listed twice")
    if len({p.name for p in packs}) < len(packs):
        raise origin.error("a pack is listed twice")
