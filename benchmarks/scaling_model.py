"""From measured constants to runs that do not fit on one machine. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

__all__ = ["MODELS", "Constants", "Model", "Scaled", "fit_power", "scale_to"]

_BLOCK: Final = 1 << 20

# Bytes a parameter of a state: bf16 weights, fp32 master, two fp32 moments.
_ROLES: Final = (2, 4, 4, 4)


@dataclass(frozen=True, slots=True)
class Model:
    """A model, and how many tensors its parameters are in."""

    name: str
    parameters: float
    tensors: int


MODELS: Final = (
    Model("7B", 7e9, 291),
    Model("70B", 70e9, 723),
    Model("405B", 405e9, 1138),
    Model("1T", 1e12, 1200),
)


@dataclass(frozen=True, slots=True)
class Constants:
    """What was measured.

    Attributes:
        manifest_block: bytes of a manifest for each block; ``manifest_writer`` for each writer and step of the closure.
        index_block: bytes of an index object for each block.
        gather_item: bytes that a rank sends for each item it wrote; ``gather_rank`` once.
        stored: bytes stored for each byte of state in a delta step.
        encode, decode: bytes of state a second and core.
        commit_block: seconds of the coordinator for each block.
    """

    manifest_block: float
    manifest_writer: float
    index_block: float
    gather_item: float
    gather_rank: float
    stored: float
    encode: float
    decode: float
    commit_block: float


@dataclass(frozen=True, slots=True)
class Scaled:
    """One step of a model on so many ranks.

    Attributes:
        state, stored: bytes of the state, and of a delta step of it.
        blocks: of all ranks; with more ranks than blocks, each shard is one.
        files: objects that a save puts.
        manifest, indexes, gathered: bytes.
        commit: seconds in which the coordinator proves and writes the manifest.
        save, restore: seconds that a rank codes or decodes, on its cores; of a restore at the end of a chain.
    """

    model: str
    ranks: int
    state: float
    stored: float
    blocks: int
    files: int
    manifest: float
    indexes: float
    gathered: float
    commit: float
    save: float
    restore: float


def fit_power(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """``y = coefficient * x ** exponent`` with the least squares of the logarithms.

    Raises:
        ValueError: there are fewer than two points.
    """
    if len(xs) < 2:
        raise ValueError("a power law needs two points")
    exponent, logarithm = np.polyfit(np.log(xs), np.log(ys), 1)
    return math.exp(logarithm), float(exponent)


def scale_to(model: Model, ranks: int, constants: Constants, *, depth: int = 16, cores: int = 8) -> Scaled:
    """A step of a model whose every tensor is sharded evenly over all ranks, as FSDP does.

    Args:
        depth: steps of the chain that it is the last of.
        cores: of each rank.
    """
    state = model.parameters * sum(_ROLES)
    per_tensor = model.parameters / model.tensors
    blocks = len(_ROLES) * model.tensors * max(ranks, math.ceil(per_tensor / _BLOCK))
    items = len(_ROLES) * model.tensors * ranks
    stored = state * constants.stored
    # Two artifacts, each at least one pack a rank; one index a rank; one manifest.
    packs = 2 * ranks * max(1, math.ceil(stored / ranks / 2 / (64 << 20)))
    share = state / ranks / cores
    return Scaled(
        model=model.name,
        ranks=ranks,
        state=state,
        stored=stored,
        blocks=blocks,
        files=packs + ranks + 1,
        manifest=constants.manifest_block * blocks + constants.manifest_writer * ranks * depth,
        indexes=constants.index_block * blocks,
        gathered=constants.gather_item * items + constants.gather_rank * ranks,
        commit=constants.commit_block * blocks,
        save=share / constants.encode,
        restore=depth * share / constants.decode,
    )
