from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from deltackpt.errors import (
    CorruptObjectError,
    InvalidArgumentError,
    TensorNotFoundError,
    TruncatedObjectError,
    UnknownVersionError,
)
from deltackpt.format.columns import encode_table
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import (
    HEADER_PREFIX,
    ArtifactTotals,
    ClosureIndex,
    ClosurePack,
    Entry,
    Manifest,
    ManifestHeader,
    ShardColumns,
    decode_header,
    decode_manifest,
    encode_manifest,
    header_length,
)
from deltackpt.tensor.box import Box
from deltackpt.tensor.grid import block_count
from deltackpt.testing.strategies import manifests
from tests.format.helpers import (
    SOURCE,
    assert_every_cut_is_found,
    assert_every_flip_is_found,
    assert_same,
    manifest_of,
    manifest_parts,
    plain_of,
    survives,
    table_of,
)

I1, I2, O1, O2, P1 = (bytes([n]) * 32 for n in (1, 2, 9, 10, 17))


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


WEIGHT = Entry("model.w", "tensor", "model", "weight", 12, 8, True, False, (4, 6), 2, ("model", "w"), "")
SCALAR = Entry("model.step", "tensor", "model", "buffer", 8, 8, False, True, (), 1, None, "")
OBJECT = Entry("train.state", "object", "train", "other", 2, 64, False, False, (100,), 1, ("train", 0, "état"), "tree")
HEADER = ManifestHeader(
    key=StepKey("main", 1000, 2),
    created="2026-01-31T12:00:00Z",
    parent=StepKey("main", 990, 1),
    chain_key=("main", 960),
    distance=4,
    depth=5,
    raw_bytes=4 * 24 + 8 + 100,
    stored_bytes=77,
    restore_bytes=99,
    metrics={
        "loss": 2.31,
        "tokens": 10**20,
        "nan": math.nan,
        "note": "é",
        "best": True,
        "none": None,
        "inf": -math.inf,
    },
    artifacts={"model": ArtifactTotals(104, 50, 2), "train": ArtifactTotals(100, 27, 1)},
    writer={"deltackpt": "0.1.0", "ranks": 4, "scale": 0.5},
)
# The weight is cut by columns: rows of 2 and of 4 elements, in groups of 4 and of 2.
MANIFEST = Manifest(
    header=HEADER,
    entries=(WEIGHT, SCALAR, OBJECT),
    shards=ShardColumns(ints(0, 2, 0, 0, 0), ints(4, 4, 4, 2, 100), ints(2, 1, 1, 2)),
    block_index=ints(0, 1, 1, 0, 0, 1),
    block_row=ints(5, 0, 1, 9, 2, 2),
    indexes=(ClosureIndex(I1, O1, 1234), ClosureIndex(I2, O2, 99)),
    packs=(ClosurePack(P1, 4321),),
)
DATA = encode_manifest(MANIFEST)


def decoded(data: bytes) -> Manifest:
    return decode_manifest(data, source=SOURCE)


@given(manifests())
def test_manifests_come_back(manifest: Manifest) -> None:
    data = encode_manifest(manifest)
    assert_same(decoded(data), manifest)
    length = header_length(data[:HEADER_PREFIX], source=SOURCE)
    assert_same(decode_header(data[:length], source=SOURCE), manifest.header)


@settings(max_examples=50)
@given(manifests())
def test_blocks_and_boxes_of_every_shard_are_found(manifest: Manifest) -> None:
    found = decoded(encode_manifest(manifest))
    following = 0
    for number, entry in enumerate(found.entries):
        assert found.find(entry.fqn) == number
        boxes = found.shard_boxes(number)
        assert len(boxes) == entry.shards
        for shard, box in enumerate(boxes):
            blocks = found.block_range(number, shard)
            assert blocks == range(following, following + block_count(box, entry.block_elements))
            following = blocks.stop
        with pytest.raises(IndexError):
            found.block_range(number, entry.shards)
    assert following == len(found.block_index)


def test_an_example_is_looked_into() -> None:
    assert MANIFEST.shard_boxes(0) == [Box((0, 2), (4, 4)), Box((0, 0), (4, 2))]
    assert MANIFEST.shard_boxes(1) == [Box((), ())]
    assert MANIFEST.block_range(0, 1) == range(2, 3)
    assert MANIFEST.block_range(2, 0) == range(4, 6)
    assert not HEADER.is_key


def test_a_tensor_that_is_not_there_is_said_with_those_like_it() -> None:
    with pytest.raises(TensorNotFoundError, match=r"did you mean 'model\.w'") as caught:
        MANIFEST.find("model.v")
    assert caught.value.where == "main:1000 (generation 2)"
    with pytest.raises(TensorNotFoundError, match="deltackpt show"):
        MANIFEST.find("zzzzzzzz")


def test_the_header_is_json_as_the_format_says() -> None:
    (length,) = struct.unpack("<I", DATA[8:12])
    assert header_length(DATA[:32], source=SOURCE) == 40 + length
    assert json.loads(DATA[32 : 32 + length]) == {
        "format": 1,
        "branch": "main",
        "step": 1000,
        "generation": 2,
        "created": "2026-01-31T12:00:00Z",
        "parent": ["main", 990, 1],
        "key": ["main", 960],
        "distance": 4,
        "depth": 5,
        "raw_bytes": 204,
        "stored_bytes": 77,
        "restore_bytes": 99,
        "metrics": {
            "loss": 2.31,
            "tokens": 10**20,
            "nan": {"float": "nan"},
            "note": "é",
            "best": True,
            "none": None,
            "inf": {"float": "-inf"},
        },
        "artifacts": {
            "model": {"raw_bytes": 104, "stored_bytes": 50, "entries": 2},
            "train": {"raw_bytes": 100, "stored_bytes": 27, "entries": 1},
        },
        "writer": {"deltackpt": "0.1.0", "ranks": 4, "scale": 0.5},
    }


def test_damage_is_found() -> None:
    assert_every_cut_is_found(DATA, decoded)
    assert_every_flip_is_found(DATA, decoded)


def test_damage_to_the_header_is_found_without_the_rest() -> None:
    head = DATA[: header_length(DATA, source=SOURCE)]
    assert_every_flip_is_found(head, lambda data: decode_header(data, source=SOURCE))
    for length in range(len(head)):
        with pytest.raises(TruncatedObjectError):
            decode_header(head[:length], source=SOURCE)


@settings(deadline=None)
@given(st.integers(1, 4), st.data())
def test_sections_with_right_checksums_and_wrong_content_are_survived(section: int, data: st.DataObject) -> None:
    parts = manifest_parts(DATA)
    plain = bytearray(plain_of(parts[section]))
    for _ in range(data.draw(st.integers(1, 3))):
        plain[data.draw(st.integers(0, len(plain) - 1))] = data.draw(st.integers(0, 255))
    parts[section] = table_of(bytes(plain))
    survives(lambda: decoded(manifest_of(parts)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@given(st.sampled_from(list(json.loads(manifest_parts(DATA)[0]))), JSON)
def test_any_header_is_survived(name: str, value: object) -> None:
    parts = manifest_parts(DATA)
    parts[0] = json.dumps(json.loads(parts[0]) | {name: value}).encode()
    survives(lambda: decoded(manifest_of(parts)))


def test_other_objects_are_refused() -> None:
    with pytest.raises(UnknownVersionError, match="version 2; this package knows 1"):
        decoded(b"DKMANI02" + DATA[8:])
    with pytest.raises(CorruptObjectError, match="this is no manifest"):
        decoded(b"DKINDX01" + DATA[8:])
    with pytest.raises(CorruptObjectError, match="claims to have 1048577 bytes"):
        header_length(DATA[:8] + struct.pack("<I", (1 << 20) + 1) + DATA[12:32], source=SOURCE)
    with pytest.raises(CorruptObjectError, match="5 sections"):
        header_length(DATA[:12] + struct.pack("<I", 5) + DATA[16:32], source=SOURCE)


def test_the_checksum_of_the_header_is_checked_with_the_whole() -> None:
    at = header_length(DATA, source=SOURCE) - 8
    body = DATA[:at] + bytes(8) + DATA[at + 8 : -8]
    with pytest.raises(CorruptObjectError, match="checksum of the manifest's header"):
        decoded(body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": 2}, UnknownVersionError, "format 2; this package knows 1"),
        ({"format": None}, CorruptObjectError, "'format'"),
        ({"branch": "a/b"}, CorruptObjectError, "'branch'"),
        ({"step": 1.0}, CorruptObjectError, "'step'"),
        ({"generation": 0}, CorruptObjectError, "'generation'"),
        ({"created": "2026"}, CorruptObjectError, "'created'"),
        ({"parent": ["main", 1]}, CorruptObjectError, "'parent'"),
        ({"key": None}, CorruptObjectError, "'key'"),
        ({"distance": 0}, CorruptObjectError, "'key'.*the step itself"),
        ({"distance": -1}, CorruptObjectError, "'distance'"),
        ({"depth": 1 << 31}, CorruptObjectError, "'depth'"),
        ({"raw_bytes": 205}, CorruptObjectError, "204 bytes where the header says 205"),
        ({"raw_bytes": "204"}, CorruptObjectError, "'raw_bytes'"),
        ({"stored_bytes": True}, CorruptObjectError, "'stored_bytes'"),
        ({"restore_bytes": 2**63}, CorruptObjectError, "'restore_bytes'"),
        ({"metrics": []}, CorruptObjectError, "'metrics'"),
        ({"metrics": {"loss": [1]}}, CorruptObjectError, "'loss' of 'metrics'"),
        ({"metrics": {"loss": {"float": "1"}}}, CorruptObjectError, "'loss' of 'metrics'"),
        ({"metrics": {"loss": {"float": []}}}, CorruptObjectError, "'loss' of 'metrics'"),
        ({"metrics": {"loss": {"float": "nan", "x": 1}}}, CorruptObjectError, "'loss' of 'metrics'"),
        ({"artifacts": {}}, CorruptObjectError, "artifact 'model' of entry 'model.w' is not in the header"),
        ({"artifacts": {"model": 1}}, CorruptObjectError, "'model' of 'artifacts'"),
        ({"artifacts": {"model": {"raw_bytes": 1, "stored_bytes": 1}}}, CorruptObjectError, "'entries'"),
        ({"writer": {"x": True}}, CorruptObjectError, "'x' of 'writer'"),
        ({"writer": {"x": None}}, CorruptObjectError, "'x' of 'writer'"),
    ],
)
def test_each_field_of_the_header(change: dict[str, Any], error: type[Exception], message: str) -> None:
    parts = manifest_parts(DATA)
    parts[0] = json.dumps(json.loads(parts[0]) | change).encode()
    with pytest.raises(error, match=message) as caught:
        decoded(manifest_of(parts))
    assert (caught.value.where, caught.value.offset) == (SOURCE, 32)  # type: ignore[attr-defined]


def test_metrics_keep_their_types() -> None:
    metrics: dict[str, Any] = {
        "int": 1,
        "float": 1.0,
        "bool": True,
        "text": "1",
        "none": None,
        "numpy": np.float64(0.5),
    }
    manifest = dataclasses.replace(MANIFEST, header=dataclasses.replace(HEADER, metrics=metrics))
    found = decoded(encode_manifest(manifest)).header.metrics
    assert {name: type(value) for name, value in found.items()} == {
        "int": int,
        "float": float,
        "bool": bool,
        "text": str,
        "none": type(None),
        "numpy": float,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"loss": np.float32(1)}}, "metric 'loss' is a float32"),
        ({"metrics": {"loss": [1.0]}}, "metric 'loss' is a list"),
        ({"metrics": {1: 1.0}}, "name of a metric is 1"),
        ({"metrics": {"loss": "\ud800"}}, "JSON"),
        ({"metrics": {"loss": "x" * (1 << 20)}}, "at most 1 MiB"),
        ({"writer": {"x": math.nan}}, "JSON"),
        ({"created": "now"}, "'created'"),
        ({"distance": 0}, "the step itself"),
        ({"depth": -1}, "'depth'"),
        ({"key": StepKey("main", 1000, 0)}, "'generation'"),
        ({"raw_bytes": 0}, "204 bytes where the header says 0"),
        ({"artifacts": {"model": ArtifactTotals(104, 50, 2)}}, "artifact 'train'"),
        ({"artifacts": {**HEADER.artifacts, "model": ArtifactTotals(104, 50, 3)}}, "2 entries of 104 bytes"),
        ({"artifacts": {**HEADER.artifacts, "extra": ArtifactTotals(1, 0, 0)}}, "0 entries of 0 bytes"),
    ],
)
def test_bad_headers_are_not_written(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        encode_manifest(dataclasses.replace(MANIFEST, header=dataclasses.replace(HEADER, **change)))


def entries(number: int, **change: Any) -> dict[str, Any]:
    changed = list(MANIFEST.entries)
    changed[number] = dataclasses.replace(changed[number], **change)
    return {"entries": tuple(changed)}


def shards(**change: Any) -> dict[str, Any]:
    return {"shards": dataclasses.replace(MANIFEST.shards, **change)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (entries(1, fqn="model.w"), None, "'model.w' occurs twice"),
        (entries(0, dtype=99), UnknownVersionError, "dtype code 99"),
        (entries(0, block_elements=0), None, "size of blocks is 0"),
        (entries(0, block_elements=2**63), None, "size of blocks is not below"),
        (entries(0, shape=(4, 7)), None, "'model.w' has shards that overlap or do not cover"),
        (entries(0, shape=(4, 5)), None, "'model.w' has a shard that is not inside"),
        (entries(0, shards=3), None, "shards of the entries do not add up"),
        (entries(0, encoding="tree"), None, "tensor 'model.w' has an encoding"),
        (entries(2, encoding=""), None, "object 'train.state'"),
        (entries(2, dtype=3), None, "object 'train.state'"),
        (entries(0, path=("a", True)), None, "has the part True"),
        (entries(0, path=("a", -1)), None, "has the part -1"),
        (shards(blocks=ints(2, 2, 1, 1)), None, "whose number of blocks is not that of the grid"),
        (shards(blocks=ints(2, 1, 1)), None, "shards of the entries do not add up"),
        (shards(offsets=ints(0, 1, 0, 0, 0)), None, "overlap or do not cover"),
        (shards(sizes=ints(4, 4, 4, 2)), None, "dimensions of the shards do not add up"),
        ({"block_index": ints(0, 1, 2, 0, 0, 1)}, None, "index of a block is 2"),
        ({"block_index": ints(0, 1)}, None, "blocks of the shards do not add up"),
        ({"block_row": ints(0, 1)}, None, "one row for each block"),
        ({"indexes": (MANIFEST.indexes[0],) * 2}, None, "an index is listed twice"),
        ({"packs": (MANIFEST.packs[0],) * 2}, None, "a pack is listed twice"),
        ({"packs": (ClosurePack(b"short", 1),)}, None, "32 bytes"),
    ],
)
def test_bad_manifests_are_not_written(change: dict[str, Any], error: type[Exception] | None, message: str) -> None:
    with pytest.raises(error or InvalidArgumentError, match=message):
        encode_manifest(dataclasses.replace(MANIFEST, **change))


Change = Callable[[dict[str, Any]], dict[str, Any]]
ENTRIES: dict[str, Any] = {
    "fqn": ["a", "b"],
    "kind": ints(0, 1),
    "artifact": ["model", "train"],
    "role": ["", ""],
    "dtype": ints(2, 2),
    "block_elements": ints(64, 64),
    "flags": ints(3, 0),
    "ndim": ints(1, 1),
    "shape": ints(3, 3),
    "shards": ints(1, 1),
    "path": ['["a"]', ""],
    "encoding": ["", "tree"],
}
SHARDS: dict[str, Any] = {"offsets": ints(0, 0), "sizes": ints(3, 3), "blocks": ints(1, 1)}
BLOCKS: dict[str, Any] = {"index": ints(0, 0), "row": ints(0, 1)}
NAMES = np.frombuffer(I1, np.uint8).reshape(1, 32)
CLOSURE: dict[str, Any] = {
    "identity": NAMES,
    "object": NAMES,
    "size": ints(5),
    "pack_name": NAMES,
    "pack_size": ints(7),
}


@pytest.mark.parametrize(
    ("section", "change", "error", "message"),
    [
        (1, {"fqn": ["a", "a"]}, CorruptObjectError, "'a' occurs twice"),
        (1, {"kind": ints(0, 2)}, CorruptObjectError, "kind of an entry is 2"),
        (1, {"kind": ints(1, 1)}, CorruptObjectError, "object 'a'"),
        (1, {"flags": ints(4, 0)}, CorruptObjectError, "flags of an entry is 4"),
        (1, {"ndim": ints(1, 65)}, CorruptObjectError, "dimensions is 65"),
        (1, {"ndim": ints(1, 2)}, CorruptObjectError, "dimensions of the entries do not add up"),
        (1, {"path": ["[", ""]}, CorruptObjectError, "not valid JSON"),
        (1, {"path": ["{}", ""]}, CorruptObjectError, "not a list"),
        (1, {"path": ["[NaN]", ""]}, CorruptObjectError, "has the part nan"),
        (1, {"path": ["[" * 100_000, ""]}, CorruptObjectError, "not valid JSON"),
        (1, {"role": [""]}, CorruptObjectError, "'role' has 1 values"),
        (1, {"dtype": ints(255, 2)}, UnknownVersionError, "dtype code 255"),
        (2, {"blocks": ints(1)}, CorruptObjectError, "shards of the entries do not add up"),
        (2, {"sizes": ints(3)}, CorruptObjectError, "dimensions of the shards do not add up"),
        (2, {"sizes": ints(3, 2**63 - 1)}, CorruptObjectError, "'b' has a shard that is not inside"),
        (3, {"row": ints(0)}, CorruptObjectError, "'row' has 1 values"),
        (3, {"index": ints(0, 1)}, CorruptObjectError, "index of a block is 1"),
        (4, {"object": np.zeros((0, 32), np.uint8)}, CorruptObjectError, "'object' has 0 values"),
        (4, {"size": ints()}, CorruptObjectError, "'size' has 0 values"),
        (
            4,
            {"identity": NAMES.repeat(2, 0), "object": NAMES.repeat(2, 0), "size": ints(5, 5)},
            CorruptObjectError,
            "index is",
        ),
        (4, {"pack_name": NAMES.repeat(2, 0), "pack_size": ints(5, 5)}, CorruptObjectError, "a pack is listed twice"),
    ],
)
def test_each_rule_of_the_sections(section: int, change: dict[str, Any], error: type[Exception], message: str) -> None:
    header = dataclasses.replace(
        HEADER, raw_bytes=6, artifacts={"model": ArtifactTotals(3, 0, 1), "train": ArtifactTotals(3, 0, 1)}
    )
    head = manifest_parts(
        encode_manifest(
            dataclasses.replace(
                MANIFEST,
                header=header,
                entries=(
                    Entry("a", "tensor", "model", "", 2, 64, True, True, (3,), 1, ("a",), ""),
                    Entry("b", "object", "train", "", 2, 64, False, False, (3,), 1, None, "tree"),
                ),
                shards=ShardColumns(ints(0, 0), ints(3, 3), ints(1, 1)),
                block_index=ints(0, 0),
                block_row=ints(0, 1),
            )
        )
    )[0]
    columns = [ENTRIES, SHARDS, BLOCKS, CLOSURE]
    good = decoded(manifest_of([head, *map(encode_table, columns)]))
    assert [entry.requires_grad for entry in good.entries] == [True, False]
    columns[section - 1] = columns[section - 1] | change
    parts = [head, *map(encode_table, columns)]
    with pytest.raises(error, match=message) as caught:
        decoded(manifest_of(parts))
    assert caught.value.where == SOURCE  # type: ignore[attr-defined]
    assert caught.value.offset in {40 + sum(map(len, parts[:n])) for n in range(1, 5)}  # type: ignore[attr-defined]


def test_a_step_of_nothing_is_a_step() -> None:
    empty = Manifest(
        dataclasses.replace(HEADER, raw_bytes=0, artifacts={}, metrics={}),
        (),
        ShardColumns(ints(), ints(), ints()),
        ints(),
        ints(),
        (),
        (),
    )
    assert_same(decoded(encode_manifest(empty)), empty)
