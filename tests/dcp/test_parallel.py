"""Models under DDP, FSDP2, HSDP, tensor parallel and both: saved under one, loaded under any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltackpt import Store
from tests.dcp import parallel
from tests.dcp.ranks import Ranks


@pytest.mark.parametrize("sources", [2, pytest.param(len(parallel.WAYS), marks=pytest.mark.slow)])
def test_what_one_way_saved_any_other_loads(ranks: Ranks, tmp_path: Path, sources: int) -> None:
    """Each way loads what the next ones of the list saved: two of them, and in long runs all."""
    store = Store.create(tmp_path / "store", block_elements=64, chain="previous")
    saved = ranks.run(4, parallel.save_ways, store.url)
    assert all(other == saved[0] for other in saved)
    count = len(parallel.WAYS)
    # Under each way on four ranks, and under some on two.
    for world, ways in ((4, parallel.WAYS), (2, ("none", "fsdp2"))):
        steps = [[(parallel.WAYS.index(way) + more) % count for more in range(1, sources + 1)] for way in ways]
        for found in ranks.run(world, parallel.load_ways, store.url, steps, list(ways)):
            for way, numbers, loaded in zip(ways, steps, found, strict=True):
                assert loaded == [saved[0][step] for step in numbers], (world, way)
    # Names are those of the plain model under all of them, so each step is a delta on the one before.
    names = {tuple(sorted(digest)) for digest in saved[0]}
    assert len(names) == 1
    assert [info.is_key for info in store.steps()] == [True] + [False] * (count - 1)
    assert store.verify(deep=True).ok
