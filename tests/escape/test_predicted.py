"""The script reads what a save of a training run writes: predictors that look at partners, and rows in classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict_saver import save

import deltackpt
from deltackpt.codec.registry import LINEAR, PREVIOUS, SCALE
from deltackpt.dcp import DeltaStorageWriter
from deltackpt.store.base import index_lookup

ROWS = 4  # the coder


def identities(store: deltackpt.Store, step: int, fqn: str) -> set[tuple[int, int]]:
    """Predictor and coder of the blocks of a tensor."""
    manifest = store.step(step).manifest
    lookup = index_lookup(store.opened, manifest)
    (number,) = (number for number, entry in enumerate(manifest.entries) if entry.fqn == fqn)
    found = set()
    for block in manifest.block_range(number, 0):
        identity = lookup(manifest.indexes[int(manifest.block_index[block])].identity).identity
        row = int(manifest.block_row[block])
        found.add((int(identity.predictor[row]), int(identity.coder[row])))
    return found


def restored(read: Callable[..., Any], path: Path, step: int) -> dict[str, torch.Tensor]:
    out = path / f"out-{step}"
    done = read(path / "store", "restore", step, "--out", out)
    assert (done.code, done.err) == (0, "")
    return {name: tensor for file in out.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_moments_beside_their_scale(tmp_path: Path, read: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(128, 256))
    optimizer = torch.optim.AdamW([weight], lr=1e-3, betas=(0.9, 0.95))
    scales = torch.logspace(-6, 0, 128)[:, None]
    store = deltackpt.Store.create(str(tmp_path / "store"))
    kept = {}
    for step in range(32):
        weight.grad = torch.randn(128, 256) * scales
        optimizer.step()
        if step in (1, 31):
            state = {"model": {"w": weight.detach()}, "optim": optimizer.state_dict()}
            kept[step] = optimizer.state[weight]["exp_avg"].clone()
            save(state, storage_writer=DeltaStorageWriter(store, step=step), no_dist=True)
    assert SCALE in {predictor for predictor, _ in identities(store, 31, "optim.state.0.exp_avg")}
    for step, tensor in kept.items():
        assert torch.equal(restored(read, tmp_path, step)["optim.state.0.exp_avg"], tensor)


def test_weights_from_their_momentum(tmp_path: Path, read: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(96, 96)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    store = deltackpt.Store.create(str(tmp_path / "store"), key_every=8)
    kept = []
    for step in range(3):
        model(torch.randn(64, 96)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        kept.append(model.weight.detach().clone())
        state = {"model": model.state_dict(), "optim": optimizer.state_dict()}
        save(state, storage_writer=DeltaStorageWriter(store, step=step), no_dist=True)
    assert LINEAR in {predictor for predictor, _ in identities(store, 2, "model.weight")}
    for step, weight in enumerate(kept):
        assert torch.equal(restored(read, tmp_path, step)["model.weight"], weight)


def test_rows_that_move_differently(tmp_path: Path, read: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    first = torch.randn(512, 256) * 0.02
    scales = torch.logspace(-6, -3, 512)[torch.randperm(512), None]
    second = first + torch.randn(512, 256) * scales
    store = deltackpt.Store.create(str(tmp_path / "store"))
    for step, weight in enumerate((first, second)):
        state = {"model": {"w": weight, "half": weight.bfloat16()[:, :200].contiguous()}}
        save(state, storage_writer=DeltaStorageWriter(store, step=step), no_dist=True)
    assert identities(store, 1, "model.w") == {(PREVIOUS, ROWS)}
    for step, weight in enumerate((first, second)):
        found = restored(read, tmp_path, step)
        assert torch.equal(found["model.w"], weight)
        assert torch.equal(found["model.half"], weight.bfloat16()[:, :200])
