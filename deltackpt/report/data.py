"""What a report shows, as plain numbers collected from a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deltackpt.api import StepInfo, Store
from deltackpt.format.manifest import Manifest, Metric
from deltackpt.pipeline.diff import StepDiff
from deltackpt.store.base import UNUSABLE, index_lookup
from deltackpt.store.listing import DamagedStep, list_steps
from deltackpt.store.stats.blocks import SeenRecords, StepBlocks, blocks_of
from deltackpt.store.visible import parents_first, visible_steps

__all__ = ["METADATA", "ReportData", "StepFigures", "collect"]

# What is stored of a step beside its records: index objects and the manifest.
METADATA = "index, manifest"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class StepFigures:
    """One step.

    Attributes:
        name: as users write it: ``BRANCH:STEP``.
        parent: the step before it in its line, by name.
        stored_by_role: bytes that it added, by the role of the tensor; with :data:`METADATA` they are all it added.
        restore_bytes: what a full restore reads.
        depth: the most records that are decoded, one after another, to get one of its blocks.
        created: RFC 3339 time.
    """

    name: str
    branch: str
    step: int
    parent: str | None
    is_key: bool
    raw_bytes: int
    stored_bytes: int
    stored_by_role: Mapping[str, int]
    restore_bytes: int
    depth: int
    created: str
    metrics: Mapping[str, Metric]


@dataclass(frozen=True, slots=True)
class ReportData:
    """A store at one moment.

    Attributes:
        steps: in order of branch and number.
        damaged: steps that cannot be read, with the reason.
        advice: what could be done about the store, in words.
        layers, pairs, changes: for each layer and pair of steps that follow each other, the norm of the change
            relative to that of the earlier one; None where the layer is not in both.
        pairs_in_all: how many pairs there are; fewer are shown where comparing all would take long.
    """

    url: str
    store_id: str
    version: str
    created: str
    steps: tuple[StepFigures, ...]
    damaged: tuple[DamagedStep, ...]
    advice: tuple[str, ...]
    layers: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    changes: tuple[tuple[float | None, ...], ...]
    pairs_in_all: int

    @property
    def raw_bytes(self) -> int:
        """Of all steps."""
        return sum(step.raw_bytes for step in self.steps)

    @property
    def stored_bytes(self) -> int:
        """What all steps added."""
        return sum(step.stored_bytes for step in self.steps)


def collect(
    store: Store, *, created: str, version: str, pairs: int = 12, progress: Progress | None = None
) -> ReportData:
    """Collect what a report shows. Reads manifests and indexes, and of some pairs of steps the weights.

    Args:
        created, version: when and by what the report is made.
        pairs: how many pairs of steps to compare at most, evenly spread; comparing decodes their weights.
        progress: called with the steps done and the steps in all.
    """
    steps, damaged = _figures(store, progress)
    chosen, in_all = _pairs(steps, pairs)
    layers, changes = _changes(store, chosen)
    return ReportData(
        url=store.url,
        store_id=store.id,
        version=version,
        created=created,
        steps=tuple(steps),
        damaged=tuple(damaged),
        advice=store.stats().advice,
        layers=layers,
        pairs=tuple((earlier.name, later.name) for earlier, later in chosen),
        changes=changes,
        pairs_in_all=in_all,
    )


def _figures(store: Store, progress: Progress | None) -> tuple[list[StepFigures], list[DamagedStep]]:
    opened = store.opened
    # All at once: to find one step by its name, all names of the store are listed.
    listing = list_steps(opened, chosen=parents_first(opened, visible_steps(opened)))
    seen = SeenRecords()
    found: list[StepFigures] = []
    damaged = list(listing.damaged)
    for number, step in enumerate(listing.steps):
        try:
            manifest = opened.manifest(step.key)
            blocks = blocks_of(manifest, index_lookup(opened, manifest), seen)
        except UNUSABLE as error:
            damaged.append(DamagedStep(step.key, error))
            continue
        info = StepInfo.from_listed(step)
        found.append(_figure(info, _by_role(manifest, blocks, info.stored_bytes)))
        if progress is not None:
            progress(number + 1, len(listing.steps))
    return sorted(found, key=lambda step: (step.branch, step.step)), damaged


def _by_role(manifest: Manifest, blocks: StepBlocks, stored: int) -> dict[str, int]:
    """The bytes of new records by role; what is left of the bytes that the step added is its metadata."""
    found: dict[str, int] = {}
    for number in np.unique(blocks.entry[blocks.new]).tolist():
        entry = manifest.entries[number]
        role = "object" if entry.kind == "object" else entry.role
        found[role] = found.get(role, 0) + int(blocks.stored[blocks.new & (blocks.entry == number)].sum())
    rest = stored - sum(found.values())
    return {**found, METADATA: max(0, rest)}


def _figure(info: StepInfo, by_role: Mapping[str, int]) -> StepFigures:
    return StepFigures(
        name=f"{info.branch}:{info.step}",
        branch=info.branch,
        step=info.step,
        parent=info.parent,
        is_key=info.is_key,
        raw_bytes=info.raw_bytes,
        stored_bytes=info.stored_bytes,
        stored_by_role=by_role,
        restore_bytes=info.restore_bytes,
        depth=info.depth,
        created=info.created.isoformat(timespec="seconds"),
        metrics=info.metrics,
    )


def _pairs(steps: Sequence[StepFigures], most: int) -> tuple[list[tuple[StepFigures, StepFigures]], int]:
    """Steps with their parents, evenly spread; and how many such pairs there are."""
    by_name = {step.name: step for step in steps}
    found = [(by_name[step.parent], step) for step in steps if step.parent is not None and step.parent in by_name]
    if len(found) <= most:
        return found, len(found)
    places = np.linspace(0, len(found) - 1, most).round().astype(int)
    return [found[place] for place in np.unique(places).tolist()], len(found)


def _changes(
    store: Store, pairs: Sequence[tuple[StepFigures, StepFigures]]
) -> tuple[tuple[str, ...], tuple[tuple[float | None, ...], ...]]:
    """The layers, and for each its relative change in every pair."""
    columns: list[Mapping[str, float]] = []
    layers: dict[str, None] = {}
    for earlier, later in pairs:
        try:
            found = _layers(store.diff(earlier.name, later.name, prefix=_prefix(store, later), whole=True))
        except UNUSABLE:
            found = {}
        columns.append(found)
        layers.update(dict.fromkeys(found))
    return tuple(layers), tuple(tuple(column.get(layer) for column in columns) for layer in layers)


def _prefix(store: Store, step: StepFigures) -> str:
    """What the names of the weights start with, where there is more in the step."""
    return "model." if store.step(step.name).entries("model.") else ""


def _layers(diff: StepDiff) -> dict[str, float]:
    return {layer.name: layer.sums.relative for layer in diff.layers if layer.sums.relative is not None}
