"""Models under DDP, FSDP2, HSDP, tensor parallel and both: saved under one, loaded under any other."""

from __future__ import annotations

from pathlib import Path

from deltackpt import Store
from tests.dcp import parallel
from tests.dcp.ranks import Ranks


def test_what_one_way_saved_any_other_loads(ranks: Ranks, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", block_elements=64, chain="previous")
    saved = ranks.run(4, parallel.save_ways, store.url)
    assert all(other == saved[0] for other in saved)
    steps = list(range(len(parallel.WAYS)))
    # All steps under each way on four ranks, and under some on two.
    for world, ways in ((4, parallel.WAYS), (2, ("none", "fsdp2"))):
        for found in ranks.run(world, parallel.load_ways, store.url, steps, list(ways)):
            for way, loaded in zip(ways, found, strict=True):
                assert loaded == saved[0], (world, way)
    # Names are those of the plain model under all of them, so each step is a delta on the one before.
    names = {tuple(sorted(digest)) for digest in saved[0]}
    assert len(names) == 1
    assert [info.is_key for info in store.steps()] == [True] + [False] * (len(steps) - 1)
    assert store.verify(deep=True).ok
