"""What a layout is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deltackpt.format.manifest import Metric
from deltackpt.formats.importing.naming import FileNaming, artifact_of_path
from deltackpt.formats.importing.source import Lack

__all__ = ["NO_RESUME", "NO_WEIGHTS", "Contents", "Layout", "by_name", "lacks_of_ranks", "no_metrics", "ranks_of"]

NO_RESUME: Final = "weights only: training cannot resume"
NO_WEIGHTS: Final = "the weights, or a part of them, are lost"

# What is in files of these names is known; in others, only their content tells.
_KNOWN: Final = frozenset({"model", "optim", "train", "config"})


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of one checkpoint.

    Attributes:
        folder: where they are.
        paths: all of them, in the folder, with ``/`` between parts.
    """

    folder: Path
    paths: frozenset[str]

    def matching(self, pattern: str) -> list[re.Match[str]]:
        """The matches of a regular expression with whole paths, in order of paths."""
        return [match for path in sorted(self.paths) if (match := re.fullmatch(pattern, path))]

    def has(self, pattern: str) -> bool:
        """Whether a path matches a regular expression as a whole."""
        return bool(self.matching(pattern))


@dataclass(frozen=True, slots=True)
class Layout:
    """How one kind of program writes checkpoints.

    Attributes:
        name: for people.
        folder: matches the name of a checkpoint's folder; its group is the step.
        recognises: whether a folder of such a name is one of these, by its files.
        naming: what is known of a file by its path.
        lacks: what is missing of a complete checkpoint.
        metrics: what a checkpoint says of itself.
    """

    name: str
    folder: re.Pattern[str]
    recognises: Callable[[Contents], bool]
    naming: Callable[[str], FileNaming]
    lacks: Callable[[Contents], Sequence[Lack]]
    metrics: Callable[[Contents], Mapping[str, Metric]]


def no_metrics(_: Contents) -> Mapping[str, Metric]:
    """For layouts whose checkpoints say nothing of themselves."""
    return {}


def by_name(path: str) -> FileNaming:
    """What the name of a file says: ``model.pt``, ``optimizer.bin``, ``scheduler.pt``."""
    artifact = artifact_of_path(path)
    return FileNaming(artifact if artifact in _KNOWN else None)


def ranks_of(contents: Contents, pattern: str) -> set[int]:
    """The numbers that a pattern's group has among the paths."""
    return {int(match[1]) for match in contents.matching(pattern)}


def lacks_of_ranks(present: Iterable[int], world: int | None, path: str, cost: str) -> list[Lack]:
    """What is missing where each rank has a file.

    Args:
        world: how many ranks there are; None: as many as the highest one that is present says.
        path: how the files are called, with ``{}`` for the rank.
    """
    found = set(present)
    count = max(found, default=-1) + 1 if world is None else world
    return [Lack(path.format(rank), f"rank {rank} of {count}: {cost}") for rank in range(count) if rank not in found]
