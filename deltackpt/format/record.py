"""Records: section 5 of ``docs/format.md``. One encoded block that describes itself."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from deltackpt.errors import CorruptObjectError, TruncatedObjectError, UnknownVersionError
from deltackpt.format.hashing import Buffer, checksum64
from deltackpt.format.magic import check_magic
from deltackpt.format.origin import Origin
from deltackpt.format.record_meta import Need, Tile, check_meta, parse_meta, put_meta

__all__ = [
    "RECORD_HEADER_BYTES",
    "Need",
    "Record",
    "RecordHeader",
    "Tile",
    "decode_record",
    "encode_record",
    "frame_record",
    "parse_record_header",
]

MAGIC = b"DKR1"
RECORD_HEADER_BYTES = 40
_HEADER = struct.Struct("<4sBBBBII16sQ")
_CHECKSUMMED = 32
_U32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """The fixed part of a record.

    Attributes:
        dtype, predictor, coder: codes, not checked yet.
        address: XXH3-128 of the decoded bytes.
        meta_length, payload_length: bytes after the header.
        checksum: XXH3-64 of the header before it, meta and payload.
    """

    dtype: int
    predictor: int
    coder: int
    address: bytes
    meta_length: int
    payload_length: int
    checksum: int

    @property
    def length(self) -> int:
        """Bytes of the whole record."""
        return RECORD_HEADER_BYTES + self.meta_length + self.payload_length


@dataclass(frozen=True, slots=True)
class Record:
    """One encoded block.

    Attributes:
        dtype: code of the block's dtype.
        predictor, coder: ids; that the decoder knows them is the codec's business.
        address: XXH3-128 of the decoded bytes, 16 bytes.
        shape: of the block, in elements.
        needs: what the prediction is made from, in the order in which the index lists them too.
        params: the predictor's parameters.
        payload: what the coder wrote; a view of the record's bytes after decoding.
    """

    dtype: int
    predictor: int
    coder: int
    address: bytes
    shape: tuple[int, ...]
    needs: tuple[Need, ...]
    params: bytes
    payload: Buffer


def parse_record_header(data: Buffer, *, source: str, offset: int = 0) -> RecordHeader:
    """The header at the start of ``data``, which may go on after the record. Nothing is checked but the magic.

    Args:
        source: the object that holds the record, for messages.
        offset: where ``data`` starts in it, for messages.

    Raises:
        TruncatedObjectError: fewer than ``RECORD_HEADER_BYTES`` bytes.
        UnknownVersionError: a record of another version.
        CorruptObjectError: not a record.
    """
    view = memoryview(data)
    check_magic(view, MAGIC, "record", source=source, offset=offset)
    if len(view) < RECORD_HEADER_BYTES:
        raise TruncatedObjectError(f"the record ends after {len(view)} bytes", where=source, offset=offset)
    _, dtype, predictor, coder, _, meta, payload, address, checksum = _HEADER.unpack(view[:RECORD_HEADER_BYTES])
    return RecordHeader(dtype, predictor, coder, address, meta, payload, checksum)


def encode_record(record: Record) -> bytes:
    """The bytes of a record.

    Raises:
        InvalidArgumentError: section 5 does not allow such a record.
    """
    front = _front(record)
    return b"".join((front, record.payload))


def frame_record(record: Record, buffer: bytearray | memoryview, at: int) -> Buffer:
    """The bytes of a record, made around a payload that lies in ``buffer`` from ``at`` on: without a copy of it, as a
    view of the buffer, where there is room enough before it.

    Raises:
        InvalidArgumentError: as :func:`encode_record`.
    """
    front = _front(record)
    if len(front) > at:
        return b"".join((front, record.payload))
    start = at - len(front)
    buffer[start:at] = front
    return memoryview(buffer)[start : at + len(record.payload)]


def _front(record: Record) -> bytes:
    """What a record has before its payload."""
    origin = Origin()
    _check(record, origin)
    meta = bytearray()
    put_meta(meta, record.shape, record.needs, record.params)
    if len(meta) > _U32 or len(record.payload) > _U32:
        raise origin.error("a record's meta and payload must each be below 2**32 bytes")
    head = _HEADER.pack(
        MAGIC, record.dtype, record.predictor, record.coder, 0, len(meta), len(record.payload), record.address, 0
    )[:_CHECKSUMMED]
    checksum = checksum64(head, meta, record.payload)
    return b"".join((head, struct.pack("<Q", checksum), meta))


def decode_record(data: Buffer, *, source: str, offset: int = 0, check: bool = True) -> Record:
    """The record that ``data`` is, exactly, after its checksum was verified.

    Whether the payload decodes, and to its address, is for the codec to find out. So is whether needs and parameters
    suit the predictor, except that predictor 0 (zero) takes neither, and coder 0 (raw) keeps the block's bytes and goes
    with predictor 0 only.

    Args:
        source: the object that holds the record, for messages.
        offset: where the record starts in it, for messages.
        check: whether the checksum is verified. Who does without checks addresses, and asks again with it to know which
            record is damaged.

    Raises:
        TruncatedObjectError: the record ends early.
        UnknownVersionError: a version, flag or dtype that this package does not know.
        CorruptObjectError: anything else that section 5 does not allow.
    """
    view = memoryview(data)
    header = parse_record_header(view, source=source, offset=offset)
    if len(view) < header.length:
        raise TruncatedObjectError(
            f"a record of {header.length} bytes ends after {len(view)}", where=source, offset=offset
        )
    if len(view) > header.length:
        raise CorruptObjectError(
            f"{len(view) - header.length} bytes follow a record of {header.length}", where=source, offset=offset
        )
    if check and checksum64(view[:_CHECKSUMMED], view[RECORD_HEADER_BYTES:]) != header.checksum:
        raise CorruptObjectError(
            "the record's checksum does not match its bytes",
            where=source,
            offset=offset,
            hint="run `deltackpt verify --deep` to see what is affected",
        )
    if view[7] != 0:
        raise UnknownVersionError(
            f"the record has the unknown flags {view[7]:#04x}",
            where=source,
            offset=offset,
            hint="read it with a newer deltackpt",
        )
    payload_at = RECORD_HEADER_BYTES + header.meta_length
    meta = view[RECORD_HEADER_BYTES:payload_at]
    shape, needs, params = parse_meta(meta, source=source, offset=offset + RECORD_HEADER_BYTES)
    record = Record(
        header.dtype, header.predictor, header.coder, header.address, shape, needs, params, view[payload_at:]
    )
    _check(record, Origin(source, offset))
    return record


def _check(record: Record, origin: Origin) -> None:
    length = check_meta(record.dtype, record.address, record.shape, record.needs, origin)
    if not (0 <= record.predictor <= 0xFF and 0 <= record.coder <= 0xFF):
        raise origin.error(f"predictor {record.predictor} or coder {record.coder} is not the id of one")
    if record.predictor == 0 and (record.needs or record.params):
        raise origin.error("a record without prediction (predictor 0) has needs or parameters")
    if record.coder == 0 and record.predictor != 0:
        raise origin.error(f"a raw record (coder 0) has predictor {record.predictor}")
    if record.coder == 0 and len(record.payload) != length:
        raise origin.error(f"a raw record of a block of {length} bytes holds {len(record.payload)}")
