"""Wrote ``format-v1/``; refuses to write over a file that is there. Run from the repository's root."""

from __future__ import annotations

from pathlib import Path

from deltackpt.format.columns import encode_table
from deltackpt.format.index import encode_index, make_index
from deltackpt.format.manifest import encode_manifest
from deltackpt.format.pack import PackBuilder
from deltackpt.format.record import encode_record
from deltackpt.format.store_json import encode_store_json
from tests.golden import format_v1 as values

FOLDER = Path(__file__).parent / "format-v1"


def objects() -> dict[str, bytes]:
    """Every golden file as this version of the package writes it."""
    builder = PackBuilder(values.PACK_ID)
    for record in (values.RAW_RECORD, values.TILED_RECORD):
        builder.add(encode_record(record))
    index = make_index(values.INDEX_HEADER, values.IDENTITY, values.LOCATION, values.PLACEMENT)
    return {
        "record-raw.bin": encode_record(values.RAW_RECORD),
        "record-tiles.bin": encode_record(values.TILED_RECORD),
        "pack.bin": bytes(builder.finish()),
        "table.bin": encode_table(values.TABLE),
        "index.bin": encode_index(index),
        "manifest.bin": encode_manifest(values.MANIFEST),
        "store.json": encode_store_json(values.STORE),
    }


if __name__ == "__main__":
    for name, data in objects().items():
        with (FOLDER / name).open("xb") as file:
            file.write(data)
