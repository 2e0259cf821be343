"""The benchmark of intervals, on models of a few thousand parameters: that it runs and is sound, not what it finds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from benchmarks import checkpoint_run, interval_costs, interval_page, interval_plots, intervals
from benchmarks.checkpoint_run import CheckpointRun, RegimeTrainer, write_checkpoints
from benchmarks.interval_cases import FULL, TINY, Case
from benchmarks.interval_costs import OURS, Cost
from benchmarks.interval_peers import PEERS, available
from benchmarks.regimes import OPTIMIZERS, PRECISIONS, REGIMES, SIZES


def tiny(optimizer: str = "adamw", precision: str = "fp32", regime: str = "early") -> CheckpointRun:
    return CheckpointRun("tiny", optimizer, precision, regime, base=3, batch=2, text_bytes=1 << 17)


def load(folder: Path, name: str) -> dict[str, object]:
    loaded: dict[str, object] = torch.load(folder / f"{name}.pt", weights_only=True)
    return loaded


def test_a_run_is_trained_once_and_the_same_again(tmp_path: Path) -> None:
    first = write_checkpoints(tiny(), (0, 1, 3), tmp_path / "a")
    assert [folder.name for folder in first.values()] == [f"step{n}-unsharded" for n in (3, 4, 6)]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    assert write_checkpoints(tiny(), (0, 1, 3), tmp_path / "a") == first
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    again = write_checkpoints(tiny(), (0, 1, 3), tmp_path / "b")
    for offset, folder in first.items():
        for path in folder.iterdir():
            other = again[offset] / path.name
            assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_states_have_the_dtypes_of_their_precision(optimizer: str, precision: str) -> None:
    trainer = RegimeTrainer(tiny(optimizer, precision))
    first = {name: value.clone() for name, value in trainer.state()["model"].items()}
    trainer.train_step()
    state = trainer.state()
    weights = {value.dtype for value in state["model"].values()}
    assert weights == {torch.float32 if precision == "fp32" else torch.bfloat16}
    kept = {
        value.dtype
        for own in state["optim"]["state"].values()
        for value in own.values()
        if value is not None and value.dim()
    }
    assert kept == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert ("master_params" in state["optim"]) == (precision == "bf16+master")
    for name, master in state["optim"].get("master_params", {}).items():
        assert torch.equal(master.bfloat16(), state["model"][name])
    assert any(not torch.equal(value, first[name]) for name, value in state["model"].items())


def test_regimes_differ_in_rate_and_in_what_is_trained(tmp_path: Path) -> None:
    moved = {}
    for regime in REGIMES:
        folders = write_checkpoints(tiny(regime=regime), (0, 1), tmp_path)
        old, new = load(folders[0], "model"), load(folders[1], "model")
        changes = {name: (new[name] - old[name]).abs().max().item() for name in old}  # type: ignore[operator]
        moved[regime] = max(changes.values())
        if regime == "lora":
            assert {name for name, change in changes.items() if change} <= {n for n in changes if ".lora_" in n}
    assert moved["early"] > 10 * moved["finetune"] > 0
    assert moved["finetune"] > moved["rl"] > 0


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="'adam' is none of adamw, sgd, lion"):
        tiny("adam")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_cost_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert intervals.main(["--tiny", "--out", str(tmp_path)]) == 0
    costs = json.loads((tmp_path / "intervals.json").read_text())["costs"]
    found = {(cost["regime"], cost["program"], cost["interval"]) for cost in costs}
    regimes = [case.run.regime for case in TINY]
    assert found == {(regime, name, n) for regime in regimes for name in (OURS, *available()) for n in (1, 2)}
    for cost in costs:
        if cost["program"] == OURS:
            assert sum(cost["by_role"].values()) == cost["delta"][0]
        if cost["program"] == "torch.save":
            assert cost["ratio"] == 1.0
    assert "bytes a parameter" in capsys.readouterr().out
    page = interval_page.render({"key_every": 16, "costs": costs})
    assert all(name in page for name in (OURS, *available()))
    # What is kept beside the runs is neither trained nor measured again.
    monkeypatch.setattr(checkpoint_run, "RegimeTrainer", None)
    monkeypatch.setattr(interval_costs, "_measure", None)
    assert intervals.main(["--tiny", "--out", str(tmp_path / "again"), "--cache", str(tmp_path / "runs")]) == 0
    assert json.loads((tmp_path / "again" / "intervals.json").read_text())["costs"] == costs
    pytest.importorskip("matplotlib")
    interval_plots.plot(costs, tmp_path)
    assert {f"{name}.{ending}" for name in interval_plots.plots_of(costs) for ending in ("png", "svg")} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_every_value_of_every_axis_is_in_the_full_grid() -> None:
    runs = [case.run for case in FULL]
    assert {run.regime for run in runs} == set(REGIMES)
    assert {run.optimizer for run in runs} == set(OPTIMIZERS)
    assert {run.precision for run in runs} == set(PRECISIONS)
    assert {run.size for run in runs} == set(SIZES) - {"tiny"}
    assert {interval for case in FULL for interval in case.intervals} == {1, 2, 5, 10, 20, 50, 100, 200, 500}
    assert len(set(runs)) == len(runs)


def test_a_chain_ends_with_the_longest_interval() -> None:
    case = Case(tiny(), (1, 20, 50), 2)
    assert [case.chain(interval) for interval in case.intervals] == [[0, 1, 2], [0, 20, 40], [0, 50]]
    assert case.offsets == [0, 1, 2, 20, 40, 50]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", available())
def test_peers_take_any_file(name: str, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1 << 12)}, tmp_path / "model.pt")
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "odd").write_bytes(bytes(range(251)) * 41)
    keeper = PEERS[name].make()
    assert keeper.take(tmp_path) > 0
    if name == "chunks":
        assert keeper.take(tmp_path) < 1000  # all of it is there


def test_figures_follow_from_bytes() -> None:
    cost = Cost(tiny(), OURS, 20, parameters=1000, raw=12_000, key=9600, delta=(1600, 1500, 1700), by_role={})
    assert cost.step == (9600 + 15 * 1600) / 16 == 2100
    assert cost.per_thousand == 50 * 2100
    assert cost.per_parameter == 2.1
    assert cost.ratio == 12_000 / 2100
