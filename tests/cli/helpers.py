from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from deltackpt import Store
from deltackpt.dcp import DeltaStorageWriter


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as strict JSON, which has no NaN and no member of an object twice."""

        def refuse(text: str) -> float:
            raise AssertionError(f"{text} is not JSON")

        def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            assert len(dict(pairs)) == len(pairs)
            return dict(pairs)

        return json.loads(self.out, parse_constant=refuse, object_pairs_hook=members)

    @property
    def error(self) -> Any:
        return self.document["error"]


Run: TypeAlias = Callable[..., Ran]


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def make_state(number: float) -> dict[str, Any]:
    """A state whose tensors depend on a number: those of near numbers are worth a delta."""
    weight = torch.linspace(1.0, 2.0, 256).sin().reshape(64, 4) + number * 1e-7
    optim = {"state": {"0": {"exp_avg": weight / 8}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    state = {"weight": weight, "half": weight.to(torch.bfloat16)}
    return {"model": state, "optim": optim, "train": {"step": int(number)}, "config": {"width": 4}}


def save(
    store: Store | str,
    step: int,
    state: Mapping[str, Any] | None = None,
    *,
    branch: str = "main",
    overwrite: bool = False,
    metrics: Mapping[str, Any] | None = None,
) -> None:
    writer = DeltaStorageWriter(store, step=step, branch=branch, overwrite=overwrite, metrics=metrics)
    dcp_save(dict(make_state(step) if state is None else state), storage_writer=writer, no_dist=True)


def manifest(store: Path, step: int, branch: str = "main", generation: int = 1) -> Path:
    return store / "manifests" / branch / f"{step:012d}" / f"{generation:06d}"


def flip(path: Path, position: int) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


def pack_of(store: Path, step: int, artifact: str, branch: str = "main") -> Path:
    """The pack that a step wrote for an artifact."""
    opened = Store.open(store).opened
    found = Store.open(store).step(step, branch).manifest
    for entry in found.indexes:
        index = opened.index(entry.object)
        if (index.header.branch, index.header.step) == (branch, step):
            for pack in index.location.packs:
                if pack.artifact == artifact:
                    return store / "packs" / pack.name.hex()[:2] / pack.name.hex()
    raise AssertionError(f"step {step} wrote no pack for {artifact}")
