"""Which files of a step are parts of ranks, or hold several artifacts, and how artifacts are made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from deltackpt.formats.image import FileImage
from deltackpt.formats.joining.base import Files, Joined
from deltackpt.formats.joining.combined import join_combined
from deltackpt.formats.joining.dcp import join_dcp
from deltackpt.formats.joining.flat_shards import join_flat_shards
from deltackpt.formats.joining.sharded_tensors import join_sharded_tensors
from deltackpt.formats.joining.zero import join_zero
from deltackpt.formats.source import StepSource

__all__ = ["find_joined"]

_WAYS: Final[Sequence[Callable[[Files], Joined | None]]] = (
    join_dcp,
    join_flat_shards,
    join_sharded_tensors,
    join_zero,
    join_combined,
)


def find_joined(source: StepSource, images: Sequence[FileImage]) -> Joined | None:
    """How the files of a step are joined; None where each file is at most one artifact.

    Raises:
        IncompleteStepError, UnsupportedDataError: there are such parts, but they cannot be joined.
    """
    files = Files(source, {image.path: image for image in images})
    return next((found for way in _WAYS if (found := way(files)) is not None), None)
