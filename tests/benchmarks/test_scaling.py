"""The benchmark of scaling runs at tiny sizes; its arithmetic, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.scaling_model import Constants, Model, fit_power, scale_to
from benchmarks.scaling_page import render


def test_everything_is_measured_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "scaling.json", tmp_path / "scaling.md"
    assert scaling.main(["--tiny", "--json", str(out), "--doc", str(page)]) == 0
    found = json.loads(out.read_text())
    assert [row["steps"] for row in found["steps"]] == [4, 40]
    assert all(0 < row["delta_bytes"] < row["key_bytes"] for row in found["sizes"])
    assert all(value > 0 for value in found["constants"].values())
    assert {row["ranks"] for row in found["scaled"]} == {8, 64, 512, 4096, 16384}
    # The page holds nothing that is not in the figures.
    assert render(found) == page.read_text()
    assert page.read_text() in capsys.readouterr().out


def test_power_laws_are_found() -> None:
    assert fit_power([1, 10, 100], [3, 30, 300]) == pytest.approx((3, 1))
    assert fit_power([1, 4, 16], [2, 4, 8]) == pytest.approx((2, 0.5))
    with pytest.raises(ValueError, match="two points"):
        fit_power([1], [1])


CONSTANTS = Constants(
    manifest_block=2,
    manifest_writer=100,
    index_block=20,
    gather_item=10,
    gather_rank=1000,
    stored=0.5,
    encode=1e8,
    decode=2e8,
    commit_block=1e-6,
)


def test_few_ranks_have_full_blocks() -> None:
    found = scale_to(Model("small", 2**30, 16), 2, CONSTANTS, depth=4, cores=1)
    assert (found.state, found.stored) == (14 * 2**30, 7 * 2**30)
    assert found.blocks == 4 * 16 * 64
    assert found.files == 2 * 2 * 28 + 2 + 1  # packs of 64 MiB, for two artifacts of two ranks
    assert found.manifest == 2 * found.blocks + 100 * 2 * 4
    assert found.gathered == 10 * 4 * 16 * 2 + 1000 * 2
    assert found.save == pytest.approx(7 * 2**30 / 1e8)
    assert found.restore == pytest.approx(4 * 7 * 2**30 / 2e8)


def test_many_ranks_have_a_block_each_of_every_tensor() -> None:
    found = scale_to(Model("small", 2**30, 16), 4096, CONSTANTS)
    assert found.blocks == 4 * 16 * 4096
    assert found.indexes == 20 * found.blocks
    assert found.commit == pytest.approx(1e-6 * found.blocks)
    assert found.files == 3 * 4096 + 1
