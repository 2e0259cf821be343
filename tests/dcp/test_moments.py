from __future__ import annotations

import logging

import pytest
import torch
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from deltackpt import Store
from deltackpt.dcp import DeltaStorageReader, DeltaStorageWriter


def trained(steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("steps", [0, 1])
def test_loading_into_an_optimizer_without_state_does_not_go_unnoticed(
    delta_store: Store, caplog: pytest.LogCaptureFixture, steps: int
) -> None:
    model, optimizer = trained(2)
    state = {"model": model.state_dict(), "optim": optimizer.state_dict()}
    save(state, storage_writer=DeltaStorageWriter(delta_store, step=1), no_dist=True)
    model, optimizer = trained(steps)
    state = {"model": model.state_dict(), "optim": optimizer.state_dict()}
    with caplog.at_level(logging.WARNING, "deltackpt"):
        load(state, storage_reader=DeltaStorageReader(delta_store, step=1), no_dist=True)
    warned = [record.getMessage() for record in caplog.records if record.name == "deltackpt"]
    assert len(warned) == (1 if steps == 0 else 0)
    assert all("step main:1 has optimizer tensors" in text for text in warned)
    # The model alone may be loaded without a word.
    caplog.clear()
    load({"model": model.state_dict()}, storage_reader=DeltaStorageReader(delta_store, step=1), no_dist=True)
    assert [record for record in caplog.records if record.name == "deltackpt"] == []
