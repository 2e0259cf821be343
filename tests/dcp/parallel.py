"""Jobs that train one model under each of torch's ways to spread it over ranks, and save and load it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from deltackpt.dcp import DeltaStorageReader, DeltaStorageWriter
from tests.dcp.jobs import digests

WAYS = ("none", "ddp", "fsdp2", "hsdp", "tp", "fsdp2 and tp")


class Net(nn.Module):
    """Two layers and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.up, self.down = nn.Linear(12, 32), nn.Linear(32, 12)
        self.register_buffer("seen", torch.zeros(3, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.down(torch.relu(self.up(x)))
        return result.clone()  # FSDP2 warns of modules that return views


class Spread:
    """A net under one of the ways, and its optimizer."""

    def __init__(self, way: str, world: int) -> None:
        net = Net()
        self.model: nn.Module = net
        layers = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        if way == "ddp":
            self.model = DistributedDataParallel(net)
        elif way == "fsdp2":
            fully_shard(net, mesh=init_device_mesh("cpu", (world,)))
        elif way == "hsdp":
            fully_shard(net, mesh=init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("copy", "shard")))
        elif way == "tp":
            parallelize_module(net, init_device_mesh("cpu", (world,)), layers)
        elif way == "fsdp2 and tp":
            mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("data", "tensor"))
            parallelize_module(net, mesh["tensor"], layers)
            fully_shard(net, mesh=mesh["data"])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2, foreach=False)

    def train(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.ones(4, 12)).square().mean().backward()
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        model, optim = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optim": optim, "train": {"epoch": 3, "name": "naïve", "done": None}}

    def load(self, store: str, step: int) -> dict[str, str]:
        """Load strictly into model and optimizer; what they then hold."""
        state = self.state()
        load(state, storage_reader=DeltaStorageReader(store, step))
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optim"],
            options=StateDictOptions(strict=True),
        )
        return digests(self.state())


def save_ways(rank: int, world: int, store: str) -> list[dict[str, str]]:
    """Save a step under each way, trained a little differently; what each held."""
    held = []
    for step, way in enumerate(WAYS):
        run = Spread(way, world)
        for _ in range(step + 1):
            run.train()
        held.append(digests(run.state()))
        save(run.state(), storage_writer=DeltaStorageWriter(store, step))
    return held


def load_ways(rank: int, world: int, store: str, steps: list[list[int]], ways: list[str]) -> list[list[dict[str, str]]]:
    """Load some steps under each of the ways; what model and optimizer then held."""
    found = []
    for way, numbers in zip(ways, steps, strict=True):
        run = Spread(way, world)
        run.train()
        found.append([run.load(store, step) for step in numbers])
    return found
