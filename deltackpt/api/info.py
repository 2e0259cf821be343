"""What a store tells of its steps and branches without reading tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from deltackpt.format.manifest import Metric
from deltackpt.store.listing import ListedStep

if TYPE_CHECKING:
    pass

__all__ = ["BranchInfo", "StepInfo"]


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What a store knows of a step without reading its tensors.

    Attributes:
        step, branch, generation: its place; the generation is above 1 after an overwrite.
        parent: the step before it in its line, as ``"BRANCH:STEP"``, or None.
        metrics: what was recorded with it, and what was noted later.
        raw_bytes: the size of its tensors and objects.
        stored_bytes: what this save added to the store.
        restore_bytes: what a full restore reads.
        is_key: whether it needs no other step's data to be predicted from.
        depth: the most records that are decoded, one after another, to get one of its blocks.
        created: when it was committed.
        artifacts: for each artifact its raw and stored bytes.
        writer: what wrote it: versions, number of ranks; ``chain``, the policy that its bases were chosen by, and
            ``chain_near``, ``chain_far``, what a delta was measured to take against the step before and the one before
            that, as shares of a key step; ``bases_cached`` and ``bases_decoded``, base blocks found in memory, and
            those decoded from the store.
        tags: its tags, in alphabetical order.
    """

    step: int
    branch: str
    parent: str | None
    generation: int
    metrics: Mapping[str, Metric]
    raw_bytes: int
    stored_bytes: int
    restore_bytes: int
    is_key: bool
    depth: int
    created: datetime
    artifacts: Mapping[str, tuple[int, int]]
    writer: Mapping[str, str | int | float]
    tags: tuple[str, ...] = ()

    @classmethod
    def from_listed(cls, listed: ListedStep) -> StepInfo:
        header = listed.header
        return cls(
            step=header.key.step,
            branch=header.key.branch,
            parent=None if header.parent is None else f"{header.parent.branch}:{header.parent.step}",
            generation=header.key.generation,
            metrics=listed.metrics,
            raw_bytes=header.raw_bytes,
            stored_bytes=header.stored_bytes + listed.manifest_bytes,
            restore_bytes=header.restore_bytes,
            is_key=header.is_key,
            depth=header.depth,
            created=listed.created,
            artifacts={name: (total.raw_bytes, total.stored_bytes) for name, total in header.artifacts.items()},
            writer=header.writer,
            tags=listed.tags,
        )


@dataclass(frozen=True, slots=True)
class BranchInfo:
    """A line of steps.

    Attributes:
        start: the step that its first one follows, as ``"BRANCH:STEP"``; None where it begins anew.
        steps: how many it has.
        newest: the number of its newest step, None where it has none.
    """

    name: str
    start: str | None
    steps: int
    newest: int | None
