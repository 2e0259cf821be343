from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltackpt.format.index import Index
from deltackpt.format.keys import index_key, pack_key
from deltackpt.format.manifest import Manifest
from deltackpt.format.pack import walk_pack
from deltackpt.store.opened import OpenStore, open_store
from deltackpt.testing.arrays import State, load_manifest, load_step, state_bytes

Floats = NDArray[np.float32]


def floats(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def near(values: Floats, seed: int = 0) -> Floats:
    """The same after one small step of an optimizer."""
    return (values * (1 + 1e-5 * floats(*values.shape, seed=seed + 1000))).astype(np.float32)


def indexes_of(store: OpenStore, manifest: Manifest) -> dict[bytes, Index]:
    return {entry.identity: store.index(entry.object) for entry in manifest.indexes}


def own_index(store: OpenStore, step: int, branch: str = "main", writer: int = 0) -> Index:
    """The index that a writer wrote for a step, wherever it is listed."""
    for info in store.backend.list("indexes/"):
        index = store.index(bytes.fromhex(info.key.removeprefix("indexes/")))
        header = index.header
        if (header.step, header.branch, header.writer) == (step, branch, writer):
            return index
    raise AssertionError(f"no index of {branch}:{step} by writer {writer}")


def keys(store: OpenStore, prefix: str) -> set[str]:
    return {info.key for info in store.backend.list(prefix)}


def blocks_of(manifest: Manifest, fqn: str) -> list[tuple[bytes, int]]:
    """The records that stand for the blocks of an entry, as (identity, row)."""
    number = manifest.find(fqn)
    return [
        (manifest.indexes[int(manifest.block_index[block])].identity, int(manifest.block_row[block]))
        for shard in range(manifest.entries[number].shards)
        for block in manifest.block_range(number, shard)
    ]


def needs_of(indexes: Mapping[bytes, Index], node: tuple[bytes, int]) -> list[tuple[bytes, int]]:
    identity, row = node
    columns = indexes[identity].identity
    part = slice(int(columns.need_start[row]), int(columns.need_start[row + 1]))
    return [
        (identity if ref == 0 else columns.refs[ref - 1], target)
        for ref, target in zip(columns.need_ref[part].tolist(), columns.need_row[part].tolist(), strict=True)
    ]


def audit(store: OpenStore, step: int | str, branch: str = "main") -> Manifest:
    """Check a step against the format page: its closure is exact, its depths follow from its needs, and the records
    in its packs are those that its indexes list."""
    store = open_store(store.backend)
    manifest = load_manifest(store, step, branch)
    indexes = indexes_of(store, manifest)
    start = {
        (manifest.indexes[int(k)].identity, int(row))
        for k, row in zip(manifest.block_index, manifest.block_row, strict=True)
    }
    found, todo = set(start), list(start)
    while todo:
        for node in needs_of(indexes, todo.pop()):
            if node not in found:
                found.add(node)
                todo.append(node)

    assert {identity for identity, _ in found} == set(indexes)
    packs, stored = {}, 0
    for identity, row in found:
        index = indexes[identity]
        location = index.location
        info = location.packs[int(location.pack[row])]
        packs[info.name] = info.size
        stored += int(location.length[row])
        below = [int(indexes[i].identity.depth[r]) for i, r in needs_of(indexes, (identity, row))]
        assert index.identity.depth[row] == 1 + max(below, default=0)
    assert {pack.name: pack.size for pack in manifest.packs} == packs
    assert manifest.header.restore_bytes == stored
    deepest = max((int(indexes[i].identity.depth[r]) for i, r in start), default=1)
    assert manifest.header.depth == deepest
    foreign = [node for node in found for need in needs_of(indexes, node) if need[0] != node[0]]
    assert manifest.header.is_key == (not foreign)
    for entry in manifest.indexes:
        assert len(store.backend.get(index_key(entry.object))) == entry.size

    records = {
        (name, offset): record
        for name in packs
        for offset, record in walk_pack(store.backend.get(pack_key(name)), source=pack_key(name))
    }
    for identity, row in found:
        index = indexes[identity]
        location = index.location
        record = records[location.packs[int(location.pack[row])].name, int(location.offset[row])]
        assert record.address == index.identity.address[row].tobytes()
        below_addresses = [indexes[i].identity.address[r].tobytes() for i, r in needs_of(indexes, (identity, row))]
        assert [need.address for need in record.needs] == below_addresses
        # Never longer than the block itself and what a record without needs takes.
        assert location.length[row] <= index.identity.raw[row] + 40 + 2 + 5 * len(record.shape) + 1
    return manifest


def check(store: OpenStore, states: Mapping[int, State], branch: str = "main", **options: Any) -> None:
    """Every step is exactly what was saved, for somebody who opens the store anew, and in good order."""
    fresh = open_store(store.backend)
    for step, state in states.items():
        assert load_step(fresh, step, branch, **options) == state_bytes(state), f"step {branch}:{step}"
        audit(store, step, branch)
