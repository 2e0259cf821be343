from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from deltackpt.format.index import (
    Identity,
    Index,
    IndexHeader,
    Location,
    PackInfo,
    PlacedShard,
    Placement,
    make_index,
)
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import ManifestHeader
from deltackpt.tensor.box import Box
from deltackpt.testing.arrays import State

RAW = 8


def header_of(
    step: int, *, branch: str = "main", key: tuple[str, int] | None = None, distance: int = 0
) -> ManifestHeader:
    """A manifest's header with a place in its chain; the rest does not matter."""
    return ManifestHeader(
        key=StepKey(branch, step, 1),
        created="2026-01-01T00:00:00.000+00:00",
        parent=None,
        chain_key=(branch, step) if key is None else key,
        distance=distance,
        depth=1 + distance,
        raw_bytes=0,
        stored_bytes=0,
        restore_bytes=0,
        metrics={},
        artifacts={},
        writer={},
    )


def index_of(number: int, needs: Sequence[Sequence[tuple[int, int]]], others: Sequence[Index], packs: int = 1) -> Index:
    """An index whose record ``i`` needs ``needs[i]``: pairs of an index (the position in ``others``, or -1 for this
    one) and a row there. Record ``i`` lies in pack ``i % packs`` and has length ``100 + i``."""
    used = sorted({at for chosen in needs for at, _ in chosen if at >= 0})
    refs = tuple(others[at].digest for at in used)
    depth: list[int] = []
    for chosen in needs:
        below = [depth[row] if at < 0 else int(others[at].identity.depth[row]) for at, row in chosen]
        depth.append(1 + max(below, default=0))
    flat = list(itertools.chain.from_iterable(needs))
    rows = len(needs)
    identity = Identity(
        refs=refs,
        address=np.array([[number % 256, row % 256, row // 256, *[0] * 13] for row in range(rows)], np.uint8).reshape(
            rows, 16
        ),
        dtype=ints([2] * rows),
        predictor=ints([int(bool(chosen)) for chosen in needs]),
        coder=ints([1] * rows),
        raw=ints([RAW] * rows),
        depth=ints(depth),
        needs=ints([len(chosen) for chosen in needs]),
        need_ref=ints([0 if at < 0 else 1 + used.index(at) for at, _ in flat]),
        need_row=ints([row for _, row in flat]),
    )
    infos = tuple(PackInfo(bytes([number, pack, *[7] * 30]), 100_000 + pack, "model") for pack in range(packs))
    location = Location(
        infos, ints([row % packs for row in range(rows)]), ints([24] * rows), ints([100 + row for row in range(rows)])
    )
    shard = PlacedShard("w", Box((0,), (rows,)), rows)
    placement = Placement((shard,) if rows else (), ints([0] * rows), ints(list(range(rows))))
    return make_index(IndexHeader("main", number, 0, ()), identity, location, placement)


def ints(values: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


def small_state(seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    return {"w": rng.standard_normal((20, 16)).astype(np.float32), "b": np.arange(9, dtype=np.int64) + seed}
