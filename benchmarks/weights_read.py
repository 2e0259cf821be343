"""What a weights-only read costs because weights were predicted from moments.

    python -m benchmarks.weights_read [--single 9]

Trains a small GPT twice, saves every five steps and then every single one into a store in memory, once with the
optimizer's moments as partners of the weights and once without, and prints for each saved step the bytes of all
records that reading the weights takes, and the bytes that the step added. See ``docs/design/predictors.md``.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
from rich.console import Console
from rich.table import Table
from torch.distributed.checkpoint.state_dict_saver import save

import deltackpt
from benchmarks.gpt import GPTConfig
from benchmarks.text import Tokenizer, read_sources
from benchmarks.training import TrainConfig, Trainer, make_deterministic
from deltackpt.dcp import DeltaStorageWriter
from deltackpt.store.base import index_lookup
from deltackpt.store.closure import find_closure

_MODEL = GPTConfig(vocab=1024, context=64, width=192, layers=3, heads=4)
_EVERY, _UNTIL, _KEY_EVERY = 5, 40, 12


def weights_bytes(store: deltackpt.Store, step: int) -> int:
    """The length of all records that the step's weights are decoded from."""
    manifest = store.step(step).manifest
    lookup = index_lookup(store.opened, manifest)
    blocks = [
        (manifest.indexes[int(manifest.block_index[block])].identity, np.array([manifest.block_row[block]]))
        for number, entry in enumerate(manifest.entries)
        if entry.artifact == "model"
        for shard in range(entry.shards)
        for block in manifest.block_range(number, shard)
    ]
    return find_closure(blocks, lookup).stored_bytes(lookup)


def run(name: str, steps: list[int], read_factor: float) -> deltackpt.Store:
    """Train and save the steps."""
    text = read_sources(2 << 20)
    tokens = Tokenizer.train(text, _MODEL.vocab).encode(text)
    trainer = Trainer(_MODEL, TrainConfig(120, warmup=20, batch=8), tokens)
    store = deltackpt.Store.create(f"memory://{name}", key_every=_KEY_EVERY, read_factor=read_factor)
    for step in range(1, max(steps) + 1):
        trainer.train_step()
        if step in steps:
            save(trainer.state(), storage_writer=DeltaStorageWriter(store, step=step), no_dist=True)
    return store


def main() -> None:
    """Run both and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--single", type=int, default=9, help="how many single steps to save at the end")
    single = parser.parse_args().single
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    make_deterministic()
    steps = [*range(_EVERY, _UNTIL + 1, _EVERY), *range(_UNTIL + 1, _UNTIL + 1 + single)]
    partners, alone = run("partners", steps, 2.0), run("alone", steps, 1.0)
    table = Table("step", "read with partners", "without", "ratio", "stored with partners", "without")
    for step in steps:
        read = weights_bytes(partners, step), weights_bytes(alone, step)
        stored = partners.step(step).info.stored_bytes, alone.step(step).info.stored_bytes
        table.add_row(
            str(step), f"{read[0]:,}", f"{read[1]:,}", f"{read[0] / read[1]:.2f}", f"{stored[0]:,}", f"{stored[1]:,}"
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
