"""What ranks do in tests of folders that torch.distributed.checkpoint wrote."""

from __future__ import annotations

import torch
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

__all__ = ["full_state", "save_dcp"]


def full_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "rows": torch.randn(7, 5, generator=generator),
        "columns": torch.randn(4, 6, generator=generator),
        "same": torch.randn(3, generator=generator).bfloat16(),
        "flat": torch.randn(10, generator=generator),
    }


def save_dcp(rank: int, world: int, folder: str) -> None:
    mesh = init_device_mesh("cpu", (world,))
    full = full_state()
    state = {
        "rows": distribute_tensor(full["rows"], mesh, [Shard(0)]),
        "columns": distribute_tensor(full["columns"], mesh, [Shard(1)]),
        "same": distribute_tensor(full["same"], mesh, [Replicate()]),
        "flat": distribute_tensor(full["flat"], mesh, [Shard(0)]),
    }
    save({"model": state, "step": 3}, checkpoint_id=folder)
