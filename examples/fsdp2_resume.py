"""Train a small GPT with FSDP2, save every few steps, and go on from the newest complete step on any number of ranks.

    deltackpt init runs/gpt
    torchrun --nproc-per-node 4 examples/fsdp2_resume.py --store runs/gpt --steps 8
    torchrun --nproc-per-node 2 examples/fsdp2_resume.py --store runs/gpt --steps 16

The second command goes on where the first one ended. Had the first been killed in the middle of a save (what
``--die-saving 6`` does), it would go on from the last complete step. It runs on CPUs over gloo; for GPUs, name the
device and nccl where it says "cpu" and "gloo". The text to learn is this file.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

from deltackpt import Store
from deltackpt.dcp import DeltaStorageReader, DeltaStorageWriter

VOCAB, CONTEXT, WIDTH, HEADS, LAYERS = 256, 64, 64, 4, 2
GLOBAL_BATCH = 8  # sequences a step, over all ranks: the data does not depend on their number


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        query, key, value = self.qkv(self.norm_1(x)).view(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, WIDTH))
        added: Tensor = self.down(F.gelu(self.up(self.norm_2(x))))
        return x + added


class GPT(nn.Module):
    """Predicts the next byte."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x)
        return logits


class Run:
    """A model and its optimizer, sharded over all ranks, and the number of steps done."""

    def __init__(self) -> None:
        torch.manual_seed(0)  # the same weights on all ranks, before they are sharded
        self.model = GPT()
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for block in self.model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.step = 0
        self.text = torch.frombuffer(bytearray(Path(__file__).read_bytes()), dtype=torch.uint8).long()

    def batch(self) -> tuple[Tensor, Tensor]:
        """This rank's part of the batch of the next step: a function of the step alone."""
        random = torch.Generator().manual_seed(self.step)
        starts = torch.randint(len(self.text) - CONTEXT, (GLOBAL_BATCH,), generator=random)
        rows = self.text[starts[:, None] + torch.arange(CONTEXT + 1)]
        mine = rows[dist.get_rank() :: dist.get_world_size()]
        return mine[:, :-1], mine[:, 1:]

    def train_step(self) -> float:
        """Do one step; its loss, the mean over all ranks."""
        inputs, targets = self.batch()
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        self.optimizer.step()
        self.step += 1
        mean = loss.detach() / dist.get_world_size()
        dist.all_reduce(mean)
        return mean.item()

    def state(self) -> dict[str, Any]:
        """What is saved: sharded tensors, and what else it takes to go on."""
        model, optim = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optim": optim, "train": {"step": self.step}}

    def save(self, store: Store, loss: float, writer: type[DeltaStorageWriter]) -> None:
        """Add a step to the store; it is visible once all of it is there."""
        save(self.state(), storage_writer=writer(store, self.step, metrics={"loss": loss}))

    def load(self, store: Store) -> None:
        """Take up the newest complete step. All ranks get the same one, whatever is committed meanwhile."""
        state = self.state()
        load(state, storage_reader=DeltaStorageReader(store, "latest"))
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"])
        self.step = state["train"]["step"]


class DyingWriter(DeltaStorageWriter):
    """Ends the last rank without warning, when it has written its part and before the step is committed."""

    def write_data(self, plan: Any, planner: Any) -> Any:
        future = super().write_data(plan, planner)
        if dist.get_rank() == dist.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return future


def main() -> None:
    """Train, from the start or from what the store has."""
    parser = argparse.ArgumentParser(description="FSDP2 training that goes on from the newest complete step.")
    parser.add_argument("--store", required=True, help="made with `deltackpt init`")
    parser.add_argument("--steps", type=int, default=8, help="the step to train to")
    parser.add_argument("--save-every", type=int, default=2)
    parser.add_argument("--die-saving", type=int, metavar="STEP", help="be killed in the middle of saving this step")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    store, run = Store.open(arguments.store), Run()
    if store.steps():
        run.load(store)
    while run.step < arguments.steps:
        loss = run.train_step()
        if dist.get_rank() == 0:
            print(f"step {run.step} loss {loss!r}", flush=True)
        if run.step % arguments.save_every == 0:
            run.save(store, loss, DyingWriter if run.step == arguments.die_saving else DeltaStorageWriter)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
