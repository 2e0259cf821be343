"""The examples run, on a small model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from deltackpt import Store
from examples import anneal_branch, evaluate_history
from examples.anneal_branch import anneal, fit_sums, small_model
from tests.dcp.states import save_state


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Twelve steps of a run."""
    torch.manual_seed(1)
    store, model = Store.create(tmp_path / "run"), small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(1, 13):
        optimizer.zero_grad()
        fit_sums(model).backward()
        optimizer.step()
        save_state(store, step, {"model": model.state_dict(), "optim": optimizer.state_dict()})
    return store


def test_ten_steps_are_evaluated(store: Store) -> None:
    scores = evaluate_history.evaluate_history(store, evaluate_history.mean_norm)
    assert list(scores) == list(range(3, 13))
    for step, score in scores.items():
        model = store.step(step).load("model.").items()
        assert score == evaluate_history.mean_norm(
            {name: value for name, value in model if isinstance(value, torch.Tensor)}
        )


def test_annealing_starts_where_the_run_was(store: Store) -> None:
    model = small_model()
    batches = torch.Generator().manual_seed(2)

    def loss_of(trained: torch.nn.Module) -> torch.Tensor:
        batch = torch.randn(64, 16, generator=batches)
        loss: torch.Tensor = (trained(batch) - batch.sum(1, keepdim=True)).square().mean()
        return loss

    branch = anneal(store, 6, 5, model, loss_of)
    assert store.branches() == ["anneal-6", "main"]
    (info,) = store.steps(branch)
    assert info.step == 11
    loaded = store.step(11, branch).load("optim.")
    assert loaded["optim.param_groups.0.lr"] == 0.0
    assert len(store.steps()) == 12
    for name, value in model.state_dict().items():
        saved = store.step(11, branch).tensor(f"model.{name}")
        assert torch.equal(saved, value)
        assert not torch.equal(saved, store.step(6).tensor(f"model.{name}"))


def test_the_scripts_run(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate_history.py", store.url, "--steps", "2"])
    evaluate_history.main()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["11", "12"]
    monkeypatch.setattr(sys, "argv", ["anneal_branch.py", store.url, "3", "--steps", "4"])
    anneal_branch.main()
    assert capsys.readouterr().out == "anneal-3\n"
    assert [info.step for info in store.steps("anneal-3")] == [7]
