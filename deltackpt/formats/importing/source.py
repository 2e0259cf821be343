"""A checkpoint on disk: its files, and what its layout knows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deltackpt.errors import DeltackptError
from deltackpt.format.manifest import Metric
from deltackpt.formats.importing.naming import FileNaming

__all__ = ["CheckpointFile", "CheckpointSource", "Lack"]


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """A file of a checkpoint.

    Attributes:
        path: in the folder of the step, with ``/`` between its parts.
        source: where it is.
        naming: what its layout knows of it.
    """

    path: str
    source: Path
    naming: FileNaming = field(default_factory=FileNaming)


@dataclass(frozen=True, slots=True)
class Lack:
    """A file that a complete checkpoint has and this one does not.

    Attributes:
        path: the file.
        cost: what that means, such as ``training cannot resume``.
    """

    path: str
    cost: str


@dataclass(frozen=True, slots=True)
class CheckpointSource:
    """A checkpoint to be imported as one step.

    Attributes:
        step: its number.
        folder: where its files are, or the one file that it is.
        layout: the name of the layout that it was recognised as.
        files: all of them, in order of paths.
        lacks: what is missing of a complete one.
        metrics: what the checkpoint says of itself, such as its loss.
        problem: why it must not be imported.
    """

    step: int
    folder: Path
    layout: str
    files: Sequence[CheckpointFile]
    lacks: Sequence[Lack] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    problem: DeltackptError | None = None
