"""How many of a step's stored bytes are metadata: its manifest and index objects.

    python -m benchmarks.metadata [--mib 1024] [--depth 16] [--simulated-blocks 2000000] [--out results.json]

Two states are saved through DCP into a store on disk, ``depth`` steps each in one chain: an fp32 state whose every
element changes a little, and a bf16 state in which one element in a hundred changes. A third one is simulated: the
index and manifest of a step of many blocks, written by many ranks, with record sizes as measured for the second. The
goal is at most 1% at any depth.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.distributed.checkpoint.state_dict_saver import save

import deltackpt
from deltackpt.dcp import DeltaStorageWriter
from deltackpt.format.index import (
    Identity,
    IndexHeader,
    Location,
    PackInfo,
    PlacedShard,
    Placement,
    encode_index,
    make_index,
)
from deltackpt.format.keys import INDEXES, MANIFESTS, PACKS, StepKey
from deltackpt.format.manifest import (
    ArtifactTotals,
    ClosureIndex,
    ClosurePack,
    Entry,
    Manifest,
    ManifestHeader,
    ShardColumns,
    encode_manifest,
)
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_name

State = dict[str, torch.Tensor]

_LAYERS = 24
_BLOCK_ELEMENTS = 1 << 20


@dataclass(frozen=True, slots=True)
class Share:
    """Metadata of one step.

    Attributes:
        case: what was saved.
        depth: the depth of the chain at this step.
        blocks: the blocks of the step.
        stored: all bytes that the step added: packs, index objects, manifest.
        metadata: bytes of its manifest and index objects.
        seconds: for the save, or for encoding the simulated metadata.
    """

    case: str
    depth: int
    blocks: int
    stored: int
    metadata: int
    seconds: float

    @property
    def share(self) -> float:
        return self.metadata / self.stored


def make_state(mib: int, dtype: torch.dtype, generator: torch.Generator) -> State:
    """A transformer-like state of about ``mib`` MiB: large matrices and small vectors, by layer."""
    width = 1024
    per_layer = (mib << 20) // (_LAYERS * dtype.itemsize)
    rows = max(1, (per_layer - 4 * width) // width)
    state: State = {}
    for layer in range(_LAYERS):
        name = f"model.layers.{layer}"
        state[f"{name}.mlp.weight"] = torch.randn(rows, width, generator=generator).mul_(0.02).to(dtype)
        for part in ("attn_norm", "mlp_norm", "attn_bias", "mlp_bias"):
            state[f"{name}.{part}.weight"] = torch.randn(width, generator=generator).to(dtype)
    return state


def change_all(state: State, generator: torch.Generator) -> None:
    """Every element moves by about a thousandth of the typical size."""
    for tensor in state.values():
        tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=2e-5)


def change_few(state: State, generator: torch.Generator) -> None:
    """One element in a hundred moves to the next bf16 number."""
    for tensor in state.values():
        bits = tensor.view(torch.int16)
        bits.add_((torch.rand(tensor.shape, generator=generator) < 0.01).to(torch.int16))


def measure(
    case: str, mib: int, dtype: torch.dtype, depth: int, change: Callable[[State, torch.Generator], None], folder: Path
) -> list[Share]:
    """Save ``depth`` steps of one chain and give the shares of the first, the second and the last."""
    generator = torch.Generator().manual_seed(0)
    state = make_state(mib, dtype, generator)
    store = deltackpt.Store.create(folder / case, key_every=depth)
    shares = []
    for step in range(depth):
        if step:
            change(state, generator)
        before = _sizes(store)
        begun = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            save({"model": state}, storage_writer=DeltaStorageWriter(store, step=step), no_dist=True)
        seconds = time.perf_counter() - begun
        after = _sizes(store)
        manifest = store.step(step).manifest
        metadata = after[MANIFESTS] + after[INDEXES] - before[MANIFESTS] - before[INDEXES]
        stored = metadata + after[PACKS] - before[PACKS]
        shares.append(Share(case, manifest.header.depth, len(manifest.block_row), stored, metadata, seconds))
    return [shares[0], shares[1], shares[-1]] if depth > 2 else shares


def _sizes(store: deltackpt.Store) -> dict[str, int]:
    return {p: sum(found.size for found in store.opened.backend.list(p)) for p in (PACKS, INDEXES, MANIFESTS)}


def simulate(blocks: int, depth: int, writers: int, record_bytes: int) -> Share:
    """The metadata of one step of many blocks in bf16, the last one of a chain of this depth, by many writers.

    Addresses and names are random, as hashes are; every record needs the one of the same row in the writer's index
    before.
    """
    rng = np.random.default_rng(0)
    begun = time.perf_counter()
    dtype = by_name("bfloat16")
    raw = _BLOCK_ELEMENTS * dtype.itemsize
    per_writer = blocks // writers
    per_pack = max(1, (64 << 20) // record_bytes)
    lengths = rng.integers(int(record_bytes * 0.9), int(record_bytes * 1.1), per_writer)
    packs = -(-per_writer // per_pack)
    index_bytes = 0
    boxes = [Box((n * 1024, 0), (1024, 1024)) for n in range(per_writer)]
    sample = min(writers, 4)
    for writer in range(sample):
        rows = np.arange(per_writer)
        identity = Identity(
            refs=(rng.bytes(32),),
            address=np.frombuffer(rng.bytes(16 * per_writer), dtype=np.uint8).reshape(-1, 16),
            dtype=np.full(per_writer, dtype.code),
            predictor=np.ones(per_writer, dtype=np.int64),
            coder=np.ones(per_writer, dtype=np.int64),
            raw=np.full(per_writer, raw),
            depth=np.full(per_writer, depth),
            needs=np.ones(per_writer, dtype=np.int64),
            need_ref=np.ones(per_writer, dtype=np.int64),
            need_row=rows,
        )
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        pack = rows // per_pack
        location = Location(
            packs=tuple(PackInfo(rng.bytes(32), 1 << 40, "model") for _ in range(packs)),
            pack=pack,
            offset=24 + starts - starts[pack * per_pack],
            length=lengths,
        )
        placement = Placement(
            shards=tuple(PlacedShard(f"model.layers.{writer}.{n}.weight", box, 1) for n, box in enumerate(boxes)),
            block_ref=np.zeros(per_writer, dtype=np.int64),
            block_row=rows,
        )
        header = IndexHeader("main", 1000, writer, (StepKey("main", 999, 1),))
        index_bytes += len(encode_index(make_index(header, identity, location, placement)))
    index_bytes = index_bytes * writers // sample
    manifest = _simulated_manifest(rng, blocks, depth, writers, packs, per_writer)
    metadata = index_bytes + len(encode_manifest(manifest))
    stored = metadata + blocks * record_bytes
    return Share(f"simulated, {writers} ranks", depth, blocks, stored, metadata, time.perf_counter() - begun)


def _simulated_manifest(
    rng: np.random.Generator, blocks: int, depth: int, writers: int, packs: int, per_writer: int
) -> Manifest:
    raw = _BLOCK_ELEMENTS * 2
    tensors = 4096
    per_tensor = blocks // tensors
    blocks = per_tensor * tensors
    entries = tuple(
        Entry(
            fqn=f"model.layers.{number // 8}.part{number % 8}.weight",
            kind="tensor",
            artifact="model",
            role="weight",
            dtype=by_name("bfloat16").code,
            block_elements=_BLOCK_ELEMENTS,
            requires_grad=True,
            pinned=False,
            shape=(per_tensor * 1024, 1024),
            shards=per_tensor,
            path=("model", f"layers.{number // 8}.part{number % 8}.weight"),
            encoding="",
        )
        for number in range(tensors)
    )
    offsets = np.zeros((tensors, per_tensor, 2), dtype=np.int64)
    offsets[:, :, 0] = np.arange(per_tensor) * 1024
    header = ManifestHeader(
        key=StepKey("main", 1000, 1),
        created="2026-01-01T00:00:00.000+00:00",
        parent=StepKey("main", 999, 1),
        chain_key=("main", 1000 - depth + 1),
        distance=depth - 1,
        depth=depth,
        raw_bytes=blocks * raw,
        stored_bytes=0,
        restore_bytes=0,
        metrics={"loss": 2.5},
        artifacts={"model": ArtifactTotals(blocks * raw, 0, tensors)},
        writer={"world_size": writers},
    )
    order = np.arange(blocks)
    closure = sorted((rng.bytes(32), rng.bytes(32)) for _ in range(writers * depth))
    return Manifest(
        header=header,
        entries=entries,
        shards=ShardColumns(
            offsets=offsets.reshape(-1),
            sizes=np.full(2 * blocks, 1024, dtype=np.int64),
            blocks=np.ones(blocks, dtype=np.int64),
        ),
        # Ranks take turns, as FSDP shards every tensor over all of them.
        block_index=order % writers,
        block_row=order // writers,
        indexes=tuple(ClosureIndex(identity, name, 100_000) for identity, name in closure),
        packs=tuple(
            sorted((ClosurePack(rng.bytes(32), 64 << 20) for _ in range(writers * depth * packs)), key=lambda p: p.name)
        ),
    )


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=1024, help="size of the saved states")
    parser.add_argument("--depth", type=int, default=16, help="steps of each chain")
    parser.add_argument("--simulated-blocks", type=int, default=2_000_000)
    parser.add_argument("--writers", type=int, default=64, help="ranks of the simulated step")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to put the stores (default: a temporary folder)"
    )
    parser.add_argument("--out", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        few = measure("bf16, 1% changed", options.mib, torch.bfloat16, options.depth, change_few, folder)
        everything = measure("fp32, all changed", options.mib, torch.float32, options.depth, change_all, folder)
    last = few[-1]
    record = (last.stored - last.metadata) // last.blocks
    simulated = simulate(options.simulated_blocks, options.depth, options.writers, record)
    shares = [*everything, *few, simulated]
    table = Table("state", "depth", "blocks", "stored", "metadata", "share", "seconds")
    for row in shares:
        table.add_row(
            row.case,
            str(row.depth),
            f"{row.blocks:,}",
            f"{row.stored:,}",
            f"{row.metadata:,}",
            f"{row.share:.3%}",
            f"{row.seconds:.1f}",
        )
    Console(width=100).print(table)
    if options.out is not None:
        options.out.write_text(json.dumps([{**asdict(row), "share": row.share} for row in shares], indent=2) + "\n")


if __name__ == "__main__":
    main()
