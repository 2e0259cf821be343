"""What every way of joining shares: the files of a step, what becomes of them, and whole tensors from ranges."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from deltackpt.errors import DamagedFileError, IncompleteStepError
from deltackpt.formats.image import FileImage, Piece, pieces_length
from deltackpt.formats.source import StepSource
from deltackpt.formats.torch_image import StoredTensors
from deltackpt.tensor.torch_bridge import from_torch_dtype

__all__ = ["Files", "Joined", "Ranges", "check_ranks"]


@dataclass(frozen=True, slots=True)
class Files:
    """The imported files of a step.

    Attributes:
        images: by path.
    """

    source: StepSource
    images: Mapping[str, FileImage]


@dataclass(frozen=True, slots=True)
class Joined:
    """How the files of ranks make up artifacts.

    Attributes:
        parts: gives the state of each artifact; tensors in it stand for stored ones.
        files: the paths of all files that these are made of.
        renamed: files that are passed on, under another name.
    """

    parts: Mapping[str, Callable[[StoredTensors], object]]
    files: frozenset[str]
    renamed: Mapping[str, str] = field(default_factory=dict)


class Ranges:
    """Tensors in the making: ranges of elements, flat in C order, that files have of them."""

    def __init__(self, stored: StoredTensors, where: str) -> None:
        self._stored = stored
        self._where = where
        self._shapes: dict[Any, tuple[tuple[int, ...], torch.dtype]] = {}
        self._pieces: dict[Any, dict[int, tuple[Piece, ...]]] = {}

    def add(self, key: Any, shape: Sequence[int], start: int, part: torch.Tensor) -> None:
        """The elements from ``start`` on of the tensor ``key``.

        Raises:
            DamagedFileError: parts of one tensor contradict each other.
        """
        facts = (tuple(shape), part.dtype)
        if self._shapes.setdefault(key, facts) != facts:
            raise DamagedFileError(f"the ranks have {key!r} in different shapes or dtypes", where=self._where)
        if part.numel():
            self._pieces.setdefault(key, {})[start] = self._stored.pieces(part, fqn=str(key))

    def tensors(self) -> dict[Any, torch.Tensor]:
        """All of them, by key, in the order in which they were first seen.

        Raises:
            IncompleteStepError: a part of one is in no file.
        """
        return {key: self._whole(key) for key in self._shapes}

    def _whole(self, key: Any) -> torch.Tensor:
        shape, torch_dtype = self._shapes[key]
        dtype = from_torch_dtype(torch_dtype, where=str(key))
        pieces: list[Piece] = []
        at = 0
        for start, part in sorted(self._pieces.get(key, {}).items()):
            if start * dtype.itemsize != at:
                break
            pieces += part
            at += pieces_length(part)
        if at != math.prod(shape) * dtype.itemsize:
            raise IncompleteStepError(
                f"the files of the ranks do not make up all of {key!r}, of shape {list(shape)}",
                where=self._where,
                hint="import the checkpoint with the files of all ranks; --format original gives those that there are",
            )
        return self._stored.add(pieces, dtype, shape, fqn=str(key))


def check_ranks(ranks: Mapping[int, str], where: str) -> list[str]:
    """The paths of the files of all ranks, in the order of ranks.

    Raises:
        IncompleteStepError: one is missing between others.
    """
    missing = next((rank for rank in range(max(ranks) + 1) if rank not in ranks), None)
    if missing is not None:
        raise IncompleteStepError(
            f"the file of rank {missing} is missing", where=where, hint="--format original gives those that there are"
        )
    return [ranks[rank] for rank in sorted(ranks)]
