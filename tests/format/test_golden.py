from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from deltackpt.format.columns import decode_table
from deltackpt.format.hashing import address, blake3_digest, checksum64
from deltackpt.format.index import decode_index
from deltackpt.format.manifest import decode_header, decode_manifest, header_length
from deltackpt.format.pack import walk_pack
from deltackpt.format.record import Record, decode_record
from deltackpt.format.store_json import decode_store_json
from tests.format.helpers import assert_same
from tests.golden import format_v1 as values
from tests.golden.write_format_v1 import FOLDER, objects

# BLAKE3 of each file: they are never rewritten.
NAMES: dict[str, str] = {
    "index.bin": "f888fbce3776a04d85fd1ec5075d73a0ca7574d5046df2447b9a87222d436e9a",
    "manifest.bin": "a27b38b66594230b6b028d55ea931faed37721915dbcbb4d8c465157ae6c9114",
    "pack.bin": "bc16f96747cc7aba647717fb238f22f5b89bcde5d48e1dc00e6af0a8569584a6",
    "record-raw.bin": "adc0b275341a8f4059721df688f626ca0271a0393fcf8d7f4bedf6ba6060f8af",
    "record-tiles.bin": "0a50a978097caaed84ea25748a7e3d46fd6008bea057e88739b5c247a14b7d51",
    "store.json": "1284c9337e09fb23e6975e44dccb0a775be4846c46404fad6ce6a07c9d9ed102",
    "table.bin": "be2b16d8ac38988e461cd4895dc600cbcaa3c376ede4503db39ccccfb62b1cff",
}


def golden(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def with_bytes(record: Record) -> Record:
    return dataclasses.replace(record, payload=bytes(record.payload))


@pytest.mark.parametrize("name", NAMES)
def test_golden_files_are_as_they_were(name: str) -> None:
    assert blake3_digest(golden(name)).hex() == NAMES[name]


def test_every_golden_file_is_listed() -> None:
    assert {path.name for path in Path(FOLDER).iterdir()} == set(NAMES) == set(objects())


@pytest.mark.parametrize("name", ["record-raw.bin", "record-tiles.bin", "pack.bin", "store.json"])
def test_what_zstd_has_no_part_in_is_written_the_same(name: str) -> None:
    assert objects()[name] == golden(name)


def test_records_are_read() -> None:
    for name, record in (("record-raw.bin", values.RAW_RECORD), ("record-tiles.bin", values.TILED_RECORD)):
        assert_same(with_bytes(decode_record(golden(name), source=name)), record)


def test_packs_are_read() -> None:
    found = [(offset, with_bytes(record)) for offset, record in walk_pack(golden("pack.bin"), source="pack.bin")]
    assert_same(found, [(24, values.RAW_RECORD), (24 + len(golden("record-raw.bin")), values.TILED_RECORD)])


def test_tables_are_read() -> None:
    table = decode_table(golden("table.bin"), source="table.bin", offset=0)
    for name in ("plain", "climbing", "none"):
        assert_same(table.ints(name), values.TABLE[name])
    assert_same(table.bytes("digest", 32), values.TABLE["digest"])
    assert_same(table.strings("text"), values.TABLE["text"])


def test_indexes_are_read() -> None:
    index = decode_index(golden("index.bin"), source="index.bin")
    assert_same(index.header, values.INDEX_HEADER)
    assert_same(index.identity, values.IDENTITY)
    assert_same(index.location, values.LOCATION)
    assert_same(index.placement, values.PLACEMENT)
    assert index.digest.hex() == "8befa815b1a0dcdc0782a99fcfe1e436344c5154367c8d2e0ca3bad1224cc945"


def test_manifests_are_read() -> None:
    data = golden("manifest.bin")
    assert_same(decode_manifest(data, source="manifest.bin"), values.MANIFEST)
    head = data[: header_length(data[:32], source="manifest.bin")]
    assert_same(decode_header(head, source="manifest.bin"), values.MANIFEST.header)


def test_store_json_is_read() -> None:
    assert_same(decode_store_json(golden("store.json"), source="store.json"), values.STORE)


def test_hashes_are_those_of_the_format() -> None:
    assert address(values.BLOCK) == values.ADDRESS
    assert address(values.PREDICTED_BLOCK) == values.TILED_RECORD.address
    assert [address(source.tobytes()) for source in values.SOURCES] == [n.address for n in values.TILED_RECORD.needs]
    assert address(b"").hex() == "99aa06d3014798d86001c324468d497f"
    assert checksum64() == checksum64(b"", b"") == 0x2D06800538D394C2
    assert checksum64(b"ab", b"c") == checksum64(memoryview(b"abc"))
    assert blake3_digest(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
