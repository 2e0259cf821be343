"""Folders of checkpoint files, and their import, for the tests of the way out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from deltackpt import Store
from deltackpt.formats.importing.source import CheckpointFile, CheckpointSource
from deltackpt.formats.importing.step import examine_step, import_step
from deltackpt.pipeline.save import SaveSettings
from deltackpt.store.base_cache import BaseCache


def import_folder(store: Store, step: int, folder: Path, *, branch: str = "main") -> None:
    """Make a step of all files of a folder."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    source = CheckpointSource(step, folder, "test", [CheckpointFile(path, folder / path) for path in paths])
    examined = examine_step(source, threads=2, progress=lambda _: None)
    settings = SaveSettings(2, 0)
    import_step(store.opened, examined, branch=branch, settings=settings, cache=BaseCache(0), progress=lambda _: None)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Path to bytes and permissions of every file."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), os.stat(path).st_mode)
        for path in folder.rglob("*")
        if path.is_file()
    }


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """A small model's."""
    generator = torch.Generator().manual_seed(3)
    drift = torch.Generator().manual_seed(seed)
    shapes = {"embed.weight": (64, 16), "layer.weight": (16, 16), "layer.bias": (16,)}
    return {
        name: torch.randn(shape, generator=generator) + 1e-3 * seed * torch.randn(shape, generator=drift)
        for name, shape in shapes.items()
    }


def olmo_folder(folder: Path, seed: int = 0) -> Path:
    """A folder as OLMo writes it: optimizer by names, a pickle of arbitrary objects, odd permissions."""
    folder.mkdir(parents=True)
    model = weights(seed)
    model["tied.weight"] = model["embed.weight"]
    model["half"] = model["layer.weight"].to(torch.bfloat16)
    state = {name: {"step": torch.tensor(float(seed)), "exp_avg": w / 8} for name, w in weights(seed).items()}
    torch.save(model, folder / "model.pt")
    torch.save({"state": state, "param_groups": [{"lr": 1e-3, "params": list(state)}]}, folder / "optim.pt")
    torch.save({"rng": np.arange(5), "where": folder, "step": seed}, folder / "train.pt")
    (folder / "config.yaml").write_text(f"run: {seed}\nmodel:\n  d_model: 16\n")
    (folder / "config.yaml").chmod(0o600)
    return folder


def hf_model_folder(folder: Path, seed: int = 0) -> Path:
    """A folder as ``transformers`` writes it, with an optimizer and a tokenizer."""
    (folder / "sub").mkdir(parents=True)
    save_file(weights(seed), folder / "model.safetensors", metadata={"format": "pt"})
    optim = {"state": {0: {"exp_avg": torch.ones(64, 16)}}, "param_groups": [{"params": [0], "lr": 0.1}]}
    torch.save(optim, folder / "optimizer.pt")
    config: dict[str, Any] = {"model_type": "llama", "hidden_size": 16}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "sub" / "empty").write_bytes(b"")
    (folder / "sub" / "notes.bin").write_bytes(bytes(range(256)) * 3000)
    return folder
