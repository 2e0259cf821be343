"""The values in ``format-v1/``. Part of the golden files: never changed."""

from __future__ import annotations

import math

import numpy as np

from deltackpt.format.columns import Column
from deltackpt.format.index import (
    Identity,
    IndexHeader,
    Location,
    PackInfo,
    PlacedShard,
    Placement,
)
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import (
    ArtifactTotals,
    ClosureIndex,
    ClosurePack,
    Entry,
    Manifest,
    ManifestHeader,
    ShardColumns,
)
from deltackpt.format.record import Need, Record, Tile
from deltackpt.format.store_json import StoreConfig
from deltackpt.tensor.box import Box

PACK_ID = bytes(range(16))
BLOCK = np.arange(6, dtype="<f4").tobytes()
# XXH3-128 of BLOCK.
ADDRESS = bytes.fromhex("2d0408b485dd77b108c27fcd95d1fea5")
OTHER = bytes(range(100, 116))
INDEX_DIGEST, FOREIGN_DIGEST, OBJECT, PACK_NAME = (bytes([n]) * 32 for n in (0xA1, 0xB2, 0xC3, 0xD4))

RAW_RECORD = Record(12, 0, 0, ADDRESS, (2, 3), (), b"", BLOCK)

# A block predicted from one row each of two blocks of 4 x 4. All words are those of positive floats, so that residuals
# are plain differences: z is 1, 2, 3, 4, 5, 6 and the words differ from the prediction by -1, 1, -2, 2, -3, 3.
SOURCES = (np.arange(16, dtype="<f4").reshape(4, 4) + 1, np.arange(16, dtype="<f4").reshape(4, 4) + 101)
PREDICTION = np.stack([SOURCES[0][3, 1:], SOURCES[1][0, 1:]])
PREDICTED_BLOCK = (PREDICTION.view("<i4") + np.array([[-1, 1, -2], [2, -3, 3]], "<i4")).tobytes()
TILED_RECORD = Record(
    dtype=12,
    predictor=1,
    coder=1,
    address=bytes.fromhex("c895146d4b64556d313571f80b4e59a6"),
    shape=(2, 3),
    needs=(
        Need(0, 12, bytes.fromhex("e8553b4dd8f266a722645cb68aba6e06"), Tile((4, 4), (3, 1), (1, 3), (0, 0))),
        Need(0, 12, bytes.fromhex("ff253a15b5dce31f594cd51c145faaca"), Tile((4, 4), (0, 1), (1, 3), (1, 0))),
    ),
    params=b"",
    # Three planes that are constant 0 and the least significant one as it is.
    payload=bytes.fromhex("02 01000000 02 01000000 02 01000000 00 06000000  00 00 00 010203040506"),
)

TABLE: dict[str, Column] = {
    "plain": np.array([200, 3, 77, 0, 250]),
    "climbing": np.array([0, 1000, 2000, 3000, 2**63 - 1]),
    "digest": np.frombuffer(PACK_NAME + OBJECT, np.uint8).reshape(2, 32),
    "text": ["", "é", "model.layers.0.weight"],
    "none": np.zeros(0, np.int64),
}

INDEX_HEADER = IndexHeader("main", 1000, 3, (StepKey("main", 990, 1), StepKey("base", 7, 2)))
IDENTITY = Identity(
    refs=(FOREIGN_DIGEST,),
    address=np.frombuffer(ADDRESS + OTHER + OTHER[::-1], np.uint8).reshape(3, 16),
    dtype=np.array([12, 12, 11]),
    predictor=np.array([0, 1, 1]),
    coder=np.array([0, 1, 1]),
    raw=np.array([24, 24, 12]),
    depth=np.array([1, 2, 5]),
    needs=np.array([0, 1, 2]),
    need_ref=np.array([0, 1, 0]),
    need_row=np.array([0, 70, 1]),
)
LOCATION = Location(
    packs=(PackInfo(PACK_NAME, 1000, "model"), PackInfo(OBJECT, 500, "optim")),
    pack=np.array([0, 0, 1]),
    offset=np.array([24, 93, 24]),
    length=np.array([69, 120, 460]),
)
PLACEMENT = Placement(
    shards=(
        PlacedShard("model.w", Box((4, 0), (2, 50)), 3),
        PlacedShard("model.empty", Box((0,), (0,)), 0),
        PlacedShard("model.step", Box((), ()), 1),
    ),
    block_ref=np.array([0, 0, 1, 0]),
    block_row=np.array([0, 1, 99, 2]),
)

MANIFEST = Manifest(
    header=ManifestHeader(
        key=StepKey("main", 1000, 2),
        created="2026-01-31T12:00:00Z",
        parent=StepKey("main", 990, 1),
        chain_key=("main", 960),
        distance=4,
        depth=5,
        raw_bytes=204,
        stored_bytes=77,
        restore_bytes=99,
        metrics={"loss": 2.5, "tokens": 10**20, "bad": -math.inf, "note": "é", "best": True, "none": None},
        artifacts={"model": ArtifactTotals(104, 50, 2), "train": ArtifactTotals(100, 27, 1)},
        writer={"deltackpt": "0.1.0", "ranks": 4},
    ),
    entries=(
        Entry("model.w", "tensor", "model", "weight", 12, 8, True, False, (4, 6), 2, ("model", "w"), ""),
        Entry("model.step", "tensor", "model", "buffer", 8, 8, False, True, (), 1, None, ""),
        Entry("train.state", "object", "train", "other", 2, 64, False, False, (100,), 1, ("train", 0, "é"), "tree"),
    ),
    shards=ShardColumns(np.array([0, 2, 0, 0, 0]), np.array([4, 4, 4, 2, 100]), np.array([2, 1, 1, 2])),
    block_index=np.array([0, 1, 1, 0, 0, 1]),
    block_row=np.array([5, 0, 1, 9, 2, 2]),
    indexes=(ClosureIndex(INDEX_DIGEST, OBJECT, 1234), ClosureIndex(FOREIGN_DIGEST, PACK_NAME, 99)),
    packs=(ClosurePack(PACK_NAME, 1000),),
)

STORE = StoreConfig(1, "0123456789abcdef" * 2, "2026-01-31T12:00:00Z", {"chain": "previous", "key_every": 16})
