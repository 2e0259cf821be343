"""What a change of the number of ranks costs: the bytes of the first steps after it.

    python -m benchmarks.elastic

A state sharded by rows over N ranks is saved; M ranks then save the same state once more, and the state one step of
training later. Both are given as shares of what the state takes whole. See ``docs/design/dcp.md``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.multiprocessing.spawn import spawn

from benchmarks.replicas import trained_states
from deltackpt import Store
from deltackpt.dcp import DeltaStorageWriter

_WORLDS = (1, 2, 3, 4, 8)


def _save(rank: int, world: int, folder: Path, meeting: Path, steps: list[tuple[int, int]], names: list[str]) -> None:
    """Save some (step, number of the state) into each of some stores."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))

    def sharded(value: Any) -> Any:
        whole = not isinstance(value, torch.Tensor) or value.ndim == 0
        return value if whole else distribute_tensor(value, mesh, [Shard(0)])

    states = torch.load(folder / "states.pt", weights_only=True)
    for name in names:
        for step, number in steps:
            state = torch.utils._pytree.tree_map(sharded, states[number])
            save(state, storage_writer=DeltaStorageWriter(folder / name, step, threads=1))
    dist.destroy_process_group()


def main() -> None:
    """Measure all pairs and print them."""
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    table = Table("saved by", *(f"then {world}" for world in _WORLDS), title="unchanged / one step later, % of a whole")
    with tempfile.TemporaryDirectory(prefix="deltackpt-elastic-") as place:
        folder = Path(place)
        torch.save(trained_states(20, 22), folder / "states.pt")
        for before in _WORLDS:
            Store.create(folder / f"{before}", chain="previous")
            # Two steps, so that the moments have a base.
            _spawn(before, folder, [(0, 0), (1, 1)], [f"{before}"])
            for after in _WORLDS:
                shutil.copytree(folder / f"{before}", folder / f"{before}-{after}")
        for after in _WORLDS:
            _spawn(after, folder, [(2, 1), (3, 2)], [f"{before}-{after}" for before in _WORLDS])
        for before in _WORLDS:
            cells = []
            for after in _WORLDS:
                infos = Store.open(folder / f"{before}-{after}").steps()
                whole, same, next_ = (infos[n].stored_bytes for n in (0, 2, 3))
                cells.append(f"{100 * same / whole:.1f} / {100 * next_ / whole:.1f}")
            table.add_row(str(before), *cells)
    Console(width=100).print(table)


def _spawn(world: int, folder: Path, steps: list[tuple[int, int]], names: list[str]) -> None:
    meeting = Path(tempfile.mkdtemp(dir=folder)) / "meeting"
    spawn(_save, args=(world, folder, meeting, steps, names), nprocs=world)


if __name__ == "__main__":
    main()
