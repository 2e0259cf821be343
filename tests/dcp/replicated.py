"""Jobs of ranks that hold the same state, as with DDP, or the same shards of it, as with HSDP."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from deltackpt.dcp import DeltaStorageReader, DeltaStorageWriter

State = dict[str, Any]


class Tied(nn.Module):
    """An embedding that is also the last layer, and layers of which some have equal shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(512, 64)
        self.layers = nn.Sequential(*(nn.Linear(64, 64) for _ in range(6)), nn.Linear(64, 200), nn.Linear(200, 64))
        self.head = nn.Linear(64, 512, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.layers(self.embedding(tokens)))
        return result


def trained(count: int) -> list[State]:
    """A state after each of ``count`` steps of training, as DCP's own functions give it, and nested as people do."""
    torch.manual_seed(4)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    states: list[State] = []
    for _ in range(count):
        tokens = torch.randint(0, 512, (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens), tokens.roll(1)).backward()
        optimizer.step()
        weights, moments = get_state_dict(model, optimizer)
        state = {"model": weights, "optim": moments, "step": len(states)}
        states.append(torch.utils._pytree.tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, state))
    return states


def save_states(
    rank: int, world: int, store: str, file: str, shards: int, caching: bool = False, async_rank: int | None = None
) -> list[dict[str, int]]:
    """Save all states of a file, replicated, or cut into shards that are replicated. What this rank wrote, by name.

    Args:
        shards: 0 for plain tensors, else the number of ranks that one replica is spread over.
        caching: whether plans are cached. Then this rank's state grows by one object at the last step if it is
            ``async_rank``, so that only its plan changes.
    """
    mesh = init_device_mesh("cpu", (world // shards, shards), mesh_dim_names=("copy", "shard")) if shards else None
    written = []
    states = torch.load(file, weights_only=False)
    for step, state in enumerate(states):
        placed = torch.utils._pytree.tree_map(
            lambda v: (
                v
                if mesh is None or not isinstance(v, torch.Tensor) or v.ndim == 0
                else distribute_tensor(v, mesh, [Replicate(), Shard(0)])
            ),
            state,
        )
        if rank == async_rank and step == len(states) - 1:
            placed["extra"] = "only here"
        writer = Noting(store, step)
        save(placed, storage_writer=writer, planner=DefaultSavePlanner(enable_plan_caching=caching))
        written.append(writer.sizes)
    return written


class Noting(DeltaStorageWriter):
    """Keeps what this rank was given to write: name to bytes."""

    sizes: dict[str, int]

    def write_data(self, plan: Any, planner: Any) -> Any:
        future = super().write_data(plan, planner)
        self.sizes = {}
        for result in future.value():
            self.sizes[result.index.fqn] = self.sizes.get(result.index.fqn, 0) + result.size_in_bytes
        return future


def load_states(rank: int, world: int, store: str, file: str) -> bool:
    """Whether every step is what was saved."""
    good = []
    for step, expected in enumerate(torch.load(file, weights_only=False)):
        blank = torch.utils._pytree.tree_map(
            lambda v: torch.full_like(v, 7) if isinstance(v, torch.Tensor) else None, expected
        )
        load(blank, storage_reader=DeltaStorageReader(store, step))
        same = torch.utils._pytree.tree_map(
            lambda a, b: torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, blank, expected
        )
        good.append(all(torch.utils._pytree.tree_leaves(same)))
    return all(good)
