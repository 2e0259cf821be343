"""The run that the benchmarks train, in OLMo's layout, taken in and read back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.olmo_run import TINY, write_run
from deltackpt.api import Store
from tests.importing.files import new_store, originals, restored


def test_a_run_in_olmos_layout(tmp_path: Path) -> None:
    made = write_run(tmp_path, run=TINY, checkpoints=3, every=2)
    assert [path.name for path in made] == ["step2-unsharded", "step4-unsharded", "step6-unsharded"]
    assert (tmp_path / "latest-unsharded").resolve() == made[-1]
    store = Store(new_store())
    report = store.import_checkpoints([tmp_path])
    assert [(one.layout, one.status, list(one.lacks)) for one in report.steps] == [("olmo", "imported", [])] * 3
    for one in report.steps:
        assert restored(store.opened, one.step) == originals(one.source)
    # The names in OLMo's files make a weight's moments its partners: the weights of a step are coded with them.
    weights = torch.load(made[-1] / "model.pt", weights_only=True)
    step = store.step(6)
    for name, weight in weights.items():
        assert step.tensor(f"model.{name}").equal(weight)
        assert step.tensor(f"optim.state.{name}.exp_avg").shape == weight.shape
    assert step.info.stored_bytes < 0.9 * step.info.raw_bytes


def test_a_run_that_was_interrupted_is_continued_with_the_same_tensors(tmp_path: Path) -> None:
    whole = write_run(tmp_path / "whole", run=TINY, checkpoints=3, every=2)
    again = write_run(tmp_path / "again", run=TINY, checkpoints=3, every=2)
    shutil.rmtree(again[2])
    (again[2].with_name(f"{again[2].name}-tmp")).mkdir()
    before = (again[1] / "optim.pt").stat().st_mtime_ns
    assert write_run(tmp_path / "again", run=TINY, checkpoints=3, every=2) == again
    assert (again[1] / "optim.pt").stat().st_mtime_ns == before
    for name in ("model.pt", "optim.pt", "config.yaml"):
        assert (again[2] / name).read_bytes() == (whole[2] / name).read_bytes()
    with pytest.raises(ValueError, match="other settings"):
        write_run(tmp_path / "again", run=TINY, checkpoints=4, every=2)
