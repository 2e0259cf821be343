"""Estimates of made checkpoints, against what importing them really stores."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deltackpt import Store
from deltackpt.errors import InvalidArgumentError, StepNotFoundError
from deltackpt.estimate import (
    Estimate,
    EstimateSettings,
    checkpoints_of_files,
    checkpoints_of_store,
    estimate,
)
from deltackpt.estimate.sample import choose_units
from deltackpt.estimate.state import Checkpoint, elements_by_kind
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.partners import ItemGroup, Partners
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_name


def write_run(folder: Path, steps: Sequence[int], *, width: int = 96, layers: int = 6, drop: str = "") -> Path:
    """Checkpoints of weights that drift as a random walk, with moments, a frozen table and a bfloat16 copy."""
    random = np.random.default_rng(0)
    weights = {f"layers.{n}.weight": random.standard_normal((width * 4, width)) for n in range(layers)}
    at = 0
    for step in steps:
        drift = 1e-5 * np.sqrt(step - at)
        weights = {name: value + drift * random.standard_normal(value.shape) for name, value in weights.items()}
        at = step
        model = {name: torch.from_numpy(value).float() for name, value in weights.items()}
        moments = {
            name: {
                "exp_avg": torch.from_numpy(random.standard_normal(value.shape)).float() * 1e-3,
                "exp_avg_sq": torch.from_numpy(random.standard_normal(value.shape) ** 2).float() * 1e-6,
            }
            for name, value in weights.items()
        }
        frozen = {"table": torch.linspace(0, 1, 4096)}
        made = folder / f"step{step}-unsharded"
        made.mkdir(parents=True)
        (made / "config.yaml").write_text("run_name: small")
        torch.save({name: t for name, t in {**model, **frozen}.items() if name != drop}, made / "model.pt")
        torch.save({"state": moments}, made / "optim.pt")
        torch.save({"step": step, "ema": {name: t.bfloat16() for name, t in model.items()}}, made / "train.pt")
    return folder


def run(checkpoints: Sequence[Checkpoint], sample: int = 1 << 30, *, saves: int) -> Estimate:
    interval = checkpoints[1].step - checkpoints[0].step
    return estimate(
        checkpoints, EstimateSettings(sample, 2), every=interval, steps=saves * interval, price=1.0, disk=1e9
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), (100, 110, 120))


@pytest.fixture(scope="module")
def imported(files: Path) -> Store:
    store = Store.create("memory://estimate-test", chain="previous")
    store.import_checkpoints([files], threads=2)
    return store


@pytest.mark.parametrize(("sample", "within"), [(1 << 30, 0.01), (2 << 20, 0.03)])
def test_an_estimate_is_near_what_an_import_stores(files: Path, imported: Store, sample: int, within: float) -> None:
    checkpoints, notes = checkpoints_of_files([files], most=3)
    result = run(checkpoints, sample, saves=3)
    assert result.sampled_bytes <= 1.2 * min(sample, result.checkpoint_bytes)
    stored = sum(step.stored_bytes for step in imported.steps())
    assert result.projections[1].bytes == pytest.approx(stored, rel=within)
    assert result.projections[0].bytes == 3 * sum(p.stat().st_size for p in (files / "step120-unsharded").iterdir())
    assert notes == []


def test_a_store_gives_the_same_rates_as_its_files(files: Path, imported: Store) -> None:
    of_files = run(checkpoints_of_files([files], most=3)[0], saves=3)
    of_store = run(checkpoints_of_store(imported, branch="main", most=3), saves=3)
    assert of_store.parameters == of_files.parameters == 6 * 384 * 96 + 4096
    for kind, rate in of_files.rates.kinds.items():
        assert of_store.rates.kinds[kind].key == pytest.approx(rate.key, rel=0.02, abs=0.02)
        assert of_store.rates.kinds[kind].delta == pytest.approx(rate.delta, rel=0.02, abs=0.02)


def test_drift_is_measured_where_there_are_three(files: Path) -> None:
    result = run(checkpoints_of_files([files], most=3)[0], saves=3)
    (weight,) = [rate for kind, rate in result.rates.kinds.items() if (kind.part, kind.role) == ("weights", "weight")]
    assert weight.growth_is_measured
    assert weight.growth == pytest.approx(0.5, abs=0.15)  # a random walk
    two = run(checkpoints_of_files([files], most=2)[0], saves=3)
    assert not any(rate.growth_is_measured for rate in two.rates.kinds.values())


def test_a_copy_costs_next_to_nothing(files: Path) -> None:
    rates = run(checkpoints_of_files([files], most=2)[0], saves=2).rates.kinds
    (copy,) = [rate for kind, rate in rates.items() if kind.dtype == "bfloat16"]
    assert copy.key < 0.2  # predicted from its master, which is a partner in the sample too


def test_one_checkpoint_is_not_enough(files: Path) -> None:
    found, _ = checkpoints_of_files([files / "step100-unsharded"], most=3)
    with pytest.raises(InvalidArgumentError, match="needs two checkpoints") as caught:
        estimate(found, EstimateSettings(1, 1), every=1, steps=1, price=1, disk=1)
    assert caught.value.where == "step100-unsharded"


def test_checkpoints_of_other_models_do_not_fit(files: Path, tmp_path: Path) -> None:
    write_run(tmp_path, (130,), width=64)
    found, _ = checkpoints_of_files([files / "step120-unsharded", tmp_path], most=3)
    with pytest.raises(InvalidArgumentError, match=r"is float32 \[384, 96\].*step130.* has it as float32 \[256, 64\]"):
        run(found, saves=2)


def test_a_checkpoint_that_lacks_a_part_does_not_fit(files: Path, tmp_path: Path) -> None:
    write_run(tmp_path, (130,))
    (tmp_path / "step130-unsharded" / "optim.pt").unlink()
    found, _ = checkpoints_of_files([files / "step120-unsharded", tmp_path], most=3)
    with pytest.raises(InvalidArgumentError, match=r"optim\.state.*has none of that name"):
        run(found, saves=2)


def test_a_small_tensor_may_be_missing(files: Path, tmp_path: Path) -> None:
    write_run(tmp_path, (130,), drop="table")
    found, _ = checkpoints_of_files([files / "step120-unsharded", tmp_path], most=3)
    assert run(found, saves=2).parameters == 6 * 384 * 96


@pytest.mark.parametrize("wrong", [{"steps": 5, "every": 10}, {"disk": 0.0}, {"price": -1.0}, {"parameters": 0.0}])
def test_figures_that_make_no_sense(files: Path, wrong: dict[str, float]) -> None:
    found, _ = checkpoints_of_files([files], most=2)
    given = {"every": 10, "steps": 100, "price": 1.0, "disk": 1e9, **wrong}
    with pytest.raises(InvalidArgumentError):
        estimate(found, EstimateSettings(1, 1), **given)  # type: ignore[arg-type]


def test_nothing_to_measure(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="no checkpoint"):
        checkpoints_of_files([tmp_path], most=2)
    with pytest.raises(StepNotFoundError):
        checkpoints_of_store(Store.create("memory://estimate-empty"), branch="main", most=2)


def group(rows: int, width: int, roles: Sequence[str]) -> ItemGroup:
    def read(_: Box) -> np.typing.NDArray[np.uint8]:
        raise AssertionError("nothing is read to choose")

    box = Box.whole((rows, width))
    items = tuple(
        SaveItem(f"{role}{rows}x{width}", "tensor", by_name("float32"), box, "model", role, (role,), read)
        for role in roles
    )
    return ItemGroup(items, tuple(Partners() for _ in items))


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3000), st.sampled_from([64, 1024]), st.sampled_from([("weight",), ("exp_avg", "weight")])
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 1 << 24),
)
def test_samples_are_of_the_state_of_every_kind_and_no_larger_than_asked(
    shapes: list[tuple[int, int, tuple[str, ...]]], budget: int
) -> None:
    groups = [group(*shape) for shape in shapes]
    units = choose_units(groups, budget, block_elements=1 << 20)
    per_group = [len(g.items) * 4 for g in groups]
    taken = sum(unit.box.numel * per_group[unit.group] for unit in units)
    total = sum(g.items[0].box.numel * size for g, size in zip(groups, per_group, strict=True))
    if total <= budget:
        assert taken == total
    # At least two blocks of each composition, and half a block of rounding.
    assert taken <= max(budget, 0) + 2 * 3 * (8 << 18)
    sampled = {kind for unit in units for kind in elements_by_kind(groups[unit.group].items)}
    assert sampled == {kind for g in groups for kind in elements_by_kind(g.items)}
    for one, other in itertools.combinations(units, 2):
        assert one.group != other.group or one.box.intersect(other.box) is None
