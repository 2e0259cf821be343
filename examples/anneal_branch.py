"""Anneal from a step in the middle of a run: a branch that starts there, with the learning rate going to zero.

    python examples/anneal_branch.py runs/gpt 2000 --steps 100

The result is on the branch `anneal-2000`; the run itself stays as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict_saver import save

import deltackpt
from deltackpt.dcp import DeltaStorageWriter


def anneal(
    store: deltackpt.Store,
    start: int,
    steps: int,
    model: nn.Module,
    loss_of: Callable[[nn.Module], torch.Tensor],
) -> str:
    """Train on from a step, and save the result on a branch of its own.

    Returns:
        The branch.
    """
    with store.step(start).open("model.pt") as file:
        model.load_state_dict(torch.load(file, weights_only=True))
    optimizer = torch.optim.AdamW(model.parameters())
    with store.step(start).open("optim.pt") as file:
        optimizer.load_state_dict(torch.load(file, weights_only=True))
    first_rates = [group["lr"] for group in optimizer.param_groups]
    branch = f"anneal-{start}"
    for number in range(1, steps + 1):
        for group, rate in zip(optimizer.param_groups, first_rates, strict=True):
            group["lr"] = rate * (1 - number / steps)
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = {"model": model.state_dict(), "optim": optimizer.state_dict()}
    writer = DeltaStorageWriter(store, step=start + steps, branch=branch, metrics={"loss": loss_of(model).item()})
    save(state, storage_writer=writer, no_dist=True)
    return branch


def small_model() -> nn.Module:
    """Stands for the model of the run."""
    return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))


def fit_sums(model: nn.Module) -> torch.Tensor:
    """Stands for the loss of the run: rows of numbers, and their sums."""
    batch = torch.randn(32, 16)
    loss: torch.Tensor = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
    return loss


def main() -> None:
    """Read the command line, anneal, and say on which branch the result is."""
    parser = argparse.ArgumentParser(description="Anneal from a step onto a branch.")
    parser.add_argument("store")
    parser.add_argument("start", type=int)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    store = deltackpt.Store.open(arguments.store)
    print(anneal(store, arguments.start, arguments.steps, small_model(), fit_sums))


if __name__ == "__main__":
    main()
