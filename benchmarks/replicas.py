"""What copies of a state on several ranks cost: the bytes of a step at 1, 2 and 4 replicas.

    python -m benchmarks.replicas

Trains a small GPT for a few steps, and saves each of the last on one rank, and on two and four that all hold it whole,
as with DDP. Each is saved once with items as DCP shares them out, and once as this package does. See
``docs/design/dcp.md``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.state_dict_saver import save
from torch.multiprocessing.spawn import spawn

from benchmarks.gpt import GPTConfig
from benchmarks.text import Tokenizer, read_sources
from benchmarks.training import TrainConfig, Trainer, make_deterministic
from deltackpt import Store
from deltackpt.dcp import DeltaStorageWriter

__all__ = ["trained_states"]

_MODEL = GPTConfig(vocab=1024, context=64, width=192, layers=3, heads=4)


class _AsShared(DeltaStorageWriter):
    """Leaves items where DCP put them."""

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans


_WRITERS: dict[str, type[DeltaStorageWriter]] = {"as DCP shares out": _AsShared, "kept together": DeltaStorageWriter}


def _save(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{world}", rank=rank, world_size=world)
    states: list[dict[str, Any]] = torch.load(folder / "states.pt", weights_only=True)
    for name, writer in _WRITERS.items():
        url = folder / f"{name} {world}"
        if rank == 0:
            Store.create(url, chain="previous")
        dist.barrier()
        for step, state in enumerate(states):
            save(state, storage_writer=writer(url, step, threads=1))
    dist.destroy_process_group()


def trained_states(first: int, last: int) -> list[dict[str, Any]]:
    """The states of a small GPT after the steps from ``first`` to ``last``."""
    make_deterministic()
    tokens = Tokenizer.train(text := read_sources(2 << 20), _MODEL.vocab).encode(text)
    trainer = Trainer(_MODEL, TrainConfig(120, warmup=10, batch=8), tokens)
    states = []
    for step in range(1, last + 1):
        trainer.train_step()
        if step >= first:
            states.append(torch.utils._pytree.tree_map(_copied, trainer.state()))
    return states


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    states = trained_states(20, 24)
    table = Table("", "replicas", "key step", "delta step", "of one replica")
    with tempfile.TemporaryDirectory(prefix="deltackpt-replicas-") as place:
        folder = Path(place)
        torch.save(states, folder / "states.pt")
        for world in (1, 2, 4):
            spawn(_save, args=(world, folder), nprocs=world)
        for name in _WRITERS:
            alone = Store.open(folder / f"{name} 1").steps()[-1].stored_bytes
            for world in (1, 2, 4):
                infos = Store.open(folder / f"{name} {world}").steps()
                key, delta = infos[0].stored_bytes, infos[-1].stored_bytes
                table.add_row(name, str(world), f"{key:,}", f"{delta:,}", f"{delta / alone:.3f}")
    Console(width=100).print(table)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


if __name__ == "__main__":
    main()
