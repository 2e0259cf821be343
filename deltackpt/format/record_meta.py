"""The meta part of a record: shape, needs and parameters, and their rules (section 5 of ``docs/format.md``)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deltackpt.errors import UnknownVersionError
from deltackpt.format.boxes import disjoint
from deltackpt.format.hashing import ADDRESS_BYTES, Buffer
from deltackpt.format.origin import Origin
from deltackpt.format.varint import Reader, put_varint
from deltackpt.tensor import dtypes

__all__ = ["MAX_BLOCK_BYTES", "MAX_NDIM", "MAX_NEEDS", "Need", "Tile", "check_meta", "parse_meta", "put_meta"]

MAX_NDIM = 64
MAX_NEEDS = 65535
MAX_BLOCK_BYTES = (1 << 32) - 1
_WHOLE = 1


@dataclass(frozen=True, slots=True)
class Tile:
    """Which box of a source goes where. All four have as many numbers as the block has dimensions.

    Attributes:
        source_shape: shape of the source block.
        source_offsets, sizes: the box of it that is copied; every size is at least 1.
        offsets: where it goes in the block that is being predicted.
    """

    source_shape: tuple[int, ...]
    source_offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Need:
    """One record that another one is decoded from.

    Attributes:
        slot: the predictor's input that it is part of.
        dtype: code of the dtype as which the source's bytes are read.
        address: of the source.
        tile: the part that is used, or None for all of it, with as many elements as the block.
    """

    slot: int
    dtype: int
    address: bytes
    tile: Tile | None


def put_meta(out: bytearray, shape: Sequence[int], needs: Sequence[Need], params: bytes) -> None:
    """Append the encoded meta to ``out``. Nothing is checked but that numbers fit (see ``check_meta``)."""
    put_varint(out, len(shape))
    for size in shape:
        put_varint(out, size)
    put_varint(out, len(needs))
    for need in needs:
        put_varint(out, need.slot)
        out.append(_WHOLE if need.tile is None else 0)
        out.append(need.dtype)
        out += need.address
        if need.tile is not None:
            tile = need.tile
            put_varint(out, len(tile.sizes))
            for number in (*tile.source_shape, *tile.source_offsets, *tile.sizes, *tile.offsets):
                put_varint(out, number)
    put_varint(out, len(params))
    out += params


def parse_meta(data: Buffer, *, source: str, offset: int) -> tuple[tuple[int, ...], tuple[Need, ...], bytes]:
    """Shape, needs and parameters; every byte is accounted for. ``check_meta`` has the rules on their values.

    Raises:
        UnknownVersionError: a need has flags that this version does not know.
        CorruptObjectError: the bytes are no meta.
    """
    reader = Reader(data, source=source, offset=offset)
    ndim = reader.varint("the number of dimensions")
    shape = reader.varints(ndim, "the shape")
    count = reader.varint("the number of needs")
    if count > MAX_NEEDS:
        raise reader.corrupt(f"a record with {count} needs; at most {MAX_NEEDS} are allowed")
    needs = tuple([_parse_need(reader, source, offset) for _ in range(count)])
    params = bytes(reader.take(reader.varint("the length of the parameters"), "the parameters"))
    reader.end("the meta")
    return shape, needs, params


def _parse_need(reader: Reader, source: str, offset: int) -> Need:
    slot = reader.varint("the slot of a need")
    flags = reader.u8("the flags of a need")
    if flags & ~_WHOLE:
        raise UnknownVersionError(
            f"a need has the unknown flags {flags:#04x}",
            where=source,
            offset=offset + reader.at - 1,
            hint="read it with a newer deltackpt",
        )
    dtype = reader.u8("the dtype of a need")
    address = bytes(reader.take(ADDRESS_BYTES, "the address of a need"))
    if flags & _WHOLE:
        return Need(slot, dtype, address, None)
    n = reader.varint("the number of dimensions of a need")
    numbers = reader.varints(4 * n, "the boxes of a need")
    return Need(slot, dtype, address, Tile(numbers[:n], numbers[n : 2 * n], numbers[2 * n : 3 * n], numbers[3 * n :]))


def check_meta(dtype: int, address: bytes, shape: Sequence[int], needs: Sequence[Need], origin: Origin) -> int:
    """Demand what section 5 says of shape and needs, and return the block's decoded length in bytes.

    Raises:
        UnknownVersionError: an unknown dtype code.
        CorruptObjectError, InvalidArgumentError: a rule is broken; which of the two, ``origin`` knows.
    """
    length = _check_array(dtype, shape, "the block", origin)
    if len(address) != ADDRESS_BYTES:
        raise origin.error(f"an address has {ADDRESS_BYTES} bytes, not {len(address)}")
    if len(needs) > MAX_NEEDS:
        raise origin.error(f"a record with {len(needs)} needs; at most {MAX_NEEDS} are allowed")
    slots: defaultdict[int, list[Need]] = defaultdict(list)
    for need in needs:
        if need.slot < 0 or len(need.address) != ADDRESS_BYTES:
            raise origin.error("a need has a negative slot or an address of a wrong length")
        if need.address == address:
            raise origin.error("the record needs itself")
        if need.tile is None:
            _check_array(need.dtype, shape, "a needed array", origin)
        else:
            _check_tile(need.dtype, need.tile, shape, origin)
        slots[need.slot].append(need)
    for slot, members in slots.items():
        if len(members) > 1:
            _check_slot(slot, members, origin)
    return length


def _check_array(dtype: int, shape: Sequence[int], what: str, origin: Origin) -> int:
    itemsize = dtypes.by_code(dtype, where=origin.source, offset=origin.offset).itemsize
    if len(shape) > MAX_NDIM:
        raise origin.error(f"{what} has {len(shape)} dimensions; at most {MAX_NDIM} are allowed")
    if any(not 0 <= size <= MAX_BLOCK_BYTES for size in shape):
        raise origin.error(f"{what} has the shape {tuple(shape)}, with a dimension that is negative or above 2**32 - 1")
    length = math.prod(shape) * itemsize
    if length > MAX_BLOCK_BYTES:
        raise origin.error(f"{what} has {length} bytes; at most {MAX_BLOCK_BYTES} are allowed")
    return length


def _check_tile(dtype: int, tile: Tile, shape: Sequence[int], origin: Origin) -> None:
    ndim = len(shape)
    if not ndim == len(tile.source_shape) == len(tile.source_offsets) == len(tile.sizes) == len(tile.offsets):
        raise origin.error(f"a need of a block of {ndim} dimensions is a box of another number of dimensions")
    _check_array(dtype, tile.source_shape, "a needed block", origin)
    for at, size, extent in zip(tile.source_offsets, tile.sizes, tile.source_shape, strict=True):
        if at < 0 or size < 1 or at + size > extent:
            raise origin.error("a need's box is empty or not inside its source block")
    for at, size, extent in zip(tile.offsets, tile.sizes, shape, strict=True):
        if at < 0 or at + size > extent:
            raise origin.error("a need's box is not inside the block that needs it")


def _check_slot(slot: int, members: Sequence[Need], origin: Origin) -> None:
    if len({need.dtype for need in members}) > 1:
        raise origin.error(f"the needs of slot {slot} have more than one dtype")
    tiles = [need.tile for need in members if need.tile is not None]
    if len(tiles) < len(members):
        raise origin.error(f"the needs of slot {slot} overlap")
    shape = (len(tiles), len(tiles[0].sizes))
    offsets = np.array([tile.offsets for tile in tiles], np.int64).reshape(shape)
    sizes = np.array([tile.sizes for tile in tiles], np.int64).reshape(shape)
    if not disjoint(offsets, sizes):
        raise origin.error(f"the needs of slot {slot} overlap")
