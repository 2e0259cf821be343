from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltackpt.errors import CorruptObjectError, InvalidArgumentError, UnknownVersionError
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.identity import encode_identity
from deltackpt.format.index import (
    Identity,
    Index,
    IndexHeader,
    Location,
    PackInfo,
    PlacedShard,
    Placement,
    decode_index,
    encode_index,
    make_index,
    relocate,
)
from deltackpt.format.keys import StepKey
from deltackpt.format.location import encode_location
from deltackpt.format.placement import encode_placement
from deltackpt.tensor.box import Box
from deltackpt.testing.strategies import indexes
from tests.format.helpers import (
    SOURCE,
    assert_every_cut_is_found,
    assert_every_flip_is_found,
    assert_same,
    index_of,
    index_parts,
    plain_of,
    survives,
    table_of,
)

R1, R2, P1, P2 = (bytes([n]) * 32 for n in (1, 2, 17, 18))


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


HEADER = IndexHeader("main", 1000, 3, (StepKey("main", 990, 1), StepKey("base", 7, 2)))
# Record 0 stands alone, 1 needs 0, 2 needs two rows of another index, 3 needs 1 and that index.
IDENTITY = Identity(
    refs=(R1, R2),
    address=np.arange(64, dtype=np.uint8).reshape(4, 16),
    dtype=ints(12, 12, 11, 11),
    predictor=ints(0, 1, 1, 1),
    coder=ints(1, 1, 1, 1),
    raw=ints(400, 400, 200, 200),
    depth=ints(1, 2, 5, 9),
    needs=ints(0, 1, 2, 2),
    need_ref=ints(0, 1, 1, 0, 2),
    need_row=ints(0, 70, 71, 1, 5),
)
LOCATION = Location(
    packs=(PackInfo(P1, 1000, "model"), PackInfo(P2, 500, "optim")),
    pack=ints(0, 0, 1, 1),
    offset=ints(24, 124, 24, 124),
    length=ints(100, 860, 100, 360),
)
PLACEMENT = Placement(
    shards=(
        PlacedShard("w", Box((4, 0), (2, 50)), 3),
        PlacedShard("empty", Box((0,), (0,)), 0),
        PlacedShard("scalar", Box((), ()), 1),
    ),
    block_ref=ints(0, 0, 2, 0),
    block_row=ints(1, 3, 99, 0),
)
INDEX = make_index(HEADER, IDENTITY, LOCATION, PLACEMENT)
DATA = encode_index(INDEX)


def decoded(data: bytes) -> Index:
    return decode_index(data, source=SOURCE)


@given(indexes())
def test_indexes_come_back(index: Index) -> None:
    assert_same(decoded(encode_index(index)), index)


def test_the_digest_is_that_of_the_identity_section() -> None:
    assert INDEX.digest == blake3_digest(index_parts(DATA)[1])
    assert INDEX.rows == 4
    assert INDEX.identity.need_start.tolist() == [0, 0, 1, 3, 5]
    assert json.loads(index_parts(DATA)[0]) == {
        "branch": "main",
        "step": 1000,
        "writer": 3,
        "bases": [["main", 990, 1], ["base", 7, 2]],
    }


def test_moving_records_keeps_the_digest_whoever_compressed_the_section() -> None:
    parts = index_parts(DATA)
    # What another version of zstd may write for the same columns.
    parts[1] = table_of(plain_of(parts[1]))
    foreign = decoded(index_of(parts))
    there = dataclasses.replace(LOCATION, offset=ints(25, 124, 24, 124))
    moved = decoded(encode_index(relocate(foreign, there)))
    assert parts[1] != index_parts(DATA)[1]
    assert moved.digest == foreign.digest == blake3_digest(parts[1])
    assert_same(moved.location, there)
    with pytest.raises(InvalidArgumentError, match="past the end"):
        relocate(foreign, dataclasses.replace(LOCATION, offset=ints(24, 125, 24, 125)))


def test_damage_is_found() -> None:
    assert_every_cut_is_found(DATA, decoded)
    assert_every_flip_is_found(DATA, decoded)


@settings(deadline=None)
@given(st.integers(1, 3), st.data())
def test_sections_with_right_checksums_and_wrong_content_are_survived(section: int, data: st.DataObject) -> None:
    parts = index_parts(DATA)
    plain = bytearray(plain_of(parts[section]))
    for _ in range(data.draw(st.integers(1, 3))):
        plain[data.draw(st.integers(0, len(plain) - 1))] = data.draw(st.integers(0, 255))
    parts[section] = table_of(bytes(plain))
    survives(lambda: decoded(index_of(parts)))


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), st.sampled_from(["branch", "bases"])
)
def test_any_header_is_survived(value: object, name: str) -> None:
    header = {"branch": "main", "step": 1, "writer": 0, "bases": [], name: value}
    survives(lambda: decoded(index_of([json.dumps(header).encode(), *index_parts(DATA)[1:]])))


def test_other_objects_are_refused() -> None:
    with pytest.raises(UnknownVersionError, match="version 2; this package knows 1"):
        decoded(b"DKINDX02" + DATA[8:])
    with pytest.raises(CorruptObjectError, match="this is no index"):
        decoded(b"DKMANI01" + DATA[8:])
    with pytest.raises(CorruptObjectError, match="checksum"):
        decoded(DATA[:-8] + bytes(8))


def test_columns_of_a_later_version_are_ignored() -> None:
    parts = index_parts(DATA)
    plain = plain_of(parts[1])
    parts[1] = table_of(bytes([plain[0] + 1]) + plain[1:] + b"\x05later\x02\x01\x01x")
    assert_same(decoded(index_of(parts)).identity, IDENTITY)


IDENTITY_RULES: list[tuple[dict[str, Any], type[Exception] | None, str]] = [
    ({"refs": (R1, R1)}, None, "referred to twice"),
    ({"refs": (R1,)}, None, "index of a need is 2, above 1"),
    ({"dtype": ints(12, 12, 11)}, None, "'dtype'"),
    ({"dtype": ints(12, 12, 11, 0)}, UnknownVersionError, "dtype code 0"),
    ({"dtype": ints(12, 12, 11, 255)}, UnknownVersionError, "dtype code 255"),
    ({"dtype": ints(12, 12, 11, 256)}, None, "dtype code is 256"),
    ({"predictor": ints(0, 1, 1, 256)}, None, "predictor id is 256"),
    ({"coder": ints(0, 1, 1, 256)}, None, "coder id is 256"),
    ({"raw": ints(400, 400, 200, 1 << 32)}, None, "length of a block is 4294967296"),
    ({"raw": ints(400, 402, 200, 200)}, None, "multiple of its dtype"),
    ({"needs": ints(0, 1, 2, 1)}, None, "needs do not add up"),
    ({"needs": ints(0, 1, 2, 3)}, None, "needs do not add up"),
    ({"needs": ints(2**62, 2**62, 2**62, 2**62 + 5)}, None, "needs do not add up"),
    ({"need_row": ints(0, 70, 71, 1)}, None, "'need_row'|do not add up"),
    ({"need_row": ints(1, 70, 71, 1, 5)}, None, "record 1 needs a record that does not come before it"),
    ({"need_row": ints(0, 70, 71, 3, 5)}, None, "record 3 needs a record that does not come before it"),
    ({"need_row": ints(0, 70, 71, 2**62, 5)}, None, "record 3 needs a record that does not come before it"),
    ({"depth": ints(0, 2, 5, 9)}, None, "a depth is 0"),
    ({"depth": ints(2, 3, 5, 9)}, None, "record 0 has depth 2"),
    ({"depth": ints(1, 1, 5, 9)}, None, "record 1 has depth 1"),
    ({"depth": ints(1, 3, 5, 9)}, None, "record 1 has depth 3"),
    ({"depth": ints(1, 2, 1, 9)}, None, "record 2 has depth 1"),
    ({"depth": ints(1, 2, 5, 2)}, None, "record 3 has depth 2"),
    ({"depth": ints(1, 2, 5, 1 << 31)}, None, "a depth is 2147483648"),
]
LOCATION_RULES: list[tuple[dict[str, Any], str]] = [
    ({"pack": ints(0, 0, 1)}, "'pack'|one location for each"),
    ({"length": ints(100, 860, 100)}, "'length'|one location for each"),
    ({"pack": ints(0, 0, 1, 2)}, "number of a pack is 2"),
    ({"packs": ()}, "number of a pack is 1, above -1"),
    ({"packs": (PackInfo(P1, 1000, "model"), PackInfo(P1, 500, "model"))}, "listed twice"),
    ({"packs": (PackInfo(P1, 1000, "model"), PackInfo(P2, 39, "model"))}, "size of a pack is 39"),
    ({"packs": (PackInfo(P1, 999, "model"), PackInfo(P2, 500, "model"))}, "record 1 reaches past the end"),
    ({"offset": ints(23, 124, 24, 124)}, "offset of a record is 23"),
    ({"length": ints(39, 860, 100, 360)}, "length of a record is 39"),
    ({"length": ints(100, 860, 100, 361)}, "record 3 reaches past the end"),
    ({"length": ints(100, 860, 100, 2**63 - 1)}, "record 3 reaches past the end"),
    ({"offset": ints(24, 124, 24, 2**63 - 1)}, "record 3 reaches past the end"),
]
PLACEMENT_RULES: list[tuple[dict[str, Any], str]] = [
    ({"block_ref": ints(0, 0, 3, 0)}, "index of a block is 3"),
    ({"block_row": ints(1, 4, 99, 0)}, "a row that an index of 4 records does not have"),
    ({"block_row": ints(1, 3, 99)}, "'block_row'|do not add up"),
    ({"shards": PLACEMENT.shards[:2]}, "blocks of the shards do not add up"),
    ({"shards": (PlacedShard("w", Box((4, 0), (2, 50)), 2**62),) * 4}, "blocks of the shards do not add up"),
    ({"shards": (PlacedShard("w", Box((4, 0), (0, 50)), 4),)}, "'w' has 4 blocks for the sizes"),
    ({"shards": (*PLACEMENT.shards[1:2] * 2, PlacedShard("w", Box((4,), (5,)), 0))}, "'w' has 0 blocks"),
    ({"shards": (PlacedShard("w", Box((0,) * 65, (1,) * 65), 4),)}, "dimensions is 65|at most 64 dim"),
]
CASES: list[tuple[int, Callable[[dict[str, Any]], Any], dict[str, Any], type[Exception] | None, str]] = [
    *[(1, lambda c: dataclasses.replace(IDENTITY, **c), c, e, m) for c, e, m in IDENTITY_RULES],
    *[(2, lambda c: dataclasses.replace(LOCATION, **c), c, None, m) for c, m in LOCATION_RULES],
    *[(3, lambda c: dataclasses.replace(PLACEMENT, **c), c, None, m) for c, m in PLACEMENT_RULES],
]


@pytest.mark.parametrize(("section", "make", "change", "error", "message"), CASES, ids=[case[-1] for case in CASES])
def test_each_rule_is_kept_by_encoders_and_decoders(
    section: int,
    make: Callable[[dict[str, Any]], Any],
    change: dict[str, Any],
    error: type[Exception] | None,
    message: str,
) -> None:
    wrong = make(change)
    parts: list[Any] = [HEADER, IDENTITY, LOCATION, PLACEMENT]
    parts[section] = wrong
    with pytest.raises(error or InvalidArgumentError, match=message):
        make_index(*parts)
    encoded = index_parts(DATA)
    encoded[section] = {1: encode_identity, 2: encode_location, 3: encode_placement}[section](wrong)  # type: ignore[operator]
    with pytest.raises(error or CorruptObjectError, match=message) as caught:
        decoded(index_of(encoded))
    assert caught.value.where == SOURCE  # type: ignore[attr-defined]
    assert caught.value.offset == 24 + sum(map(len, encoded[:section]))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "change",
    [{"branch": "../x"}, {"step": -1}, {"step": 10**12}, {"writer": -1}, {"bases": (StepKey("main", 1, 0),)}],
)
def test_bad_headers_are_not_written(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{next(iter(change))}"):
        make_index(dataclasses.replace(HEADER, **change), IDENTITY, LOCATION, PLACEMENT)


def test_digests_of_another_length_are_not_written() -> None:
    with pytest.raises(InvalidArgumentError, match="32 bytes"):
        make_index(HEADER, dataclasses.replace(IDENTITY, refs=(R1, b"short")), LOCATION, PLACEMENT)


def test_a_million_records_cost_no_more_than_their_addresses_where_the_rest_is_regular() -> None:
    n = 1 << 16
    rng = np.random.default_rng(0)
    identity = Identity(
        refs=(R1,),
        address=rng.integers(0, 256, (n, 16), np.uint8),
        dtype=np.full(n, 11),
        predictor=np.ones(n, np.int64),
        coder=np.ones(n, np.int64),
        raw=np.full(n, 1 << 19),
        depth=np.full(n, 3),
        needs=np.ones(n, np.int64),
        need_ref=np.ones(n, np.int64),
        need_row=np.arange(n),
    )
    length = rng.integers(1000, 60_000, n)
    offset = 24 + np.cumsum(length) - length
    location = Location(
        (PackInfo(P1, int(offset[-1] + length[-1]) + 16, "model"),), np.zeros(n, np.int64), offset, length
    )
    placement = Placement((PlacedShard("w", Box((0,), (n,)), n),), np.zeros(n, np.int64), np.arange(n))
    data = encode_index(make_index(HEADER, identity, location, placement))
    # Offsets follow from lengths, but zstd does not know that: 2 bytes a record each.
    assert len(data) < n * (16 + 2 + 2) * 1.02
    assert_same(decoded(data).location, location)
