"""The steps of a store as people look at them: headers, with the notes and tags that came later."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from deltackpt.errors import CorruptObjectError, DeltackptError, MissingObjectError, UnknownVersionError
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import ManifestHeader, Metric
from deltackpt.format.times import parse_time
from deltackpt.store.names import read_notes, read_tags
from deltackpt.store.opened import OpenStore
from deltackpt.store.visible import VisibleStep, visible_steps

__all__ = ["DamagedStep", "ListedStep", "Listing", "describe_step", "list_steps", "log_damaged"]

_LOG = logging.getLogger("deltackpt")


@dataclass(frozen=True, slots=True)
class ListedStep:
    """A step.

    Attributes:
        metrics: what was recorded with it, and over that what was noted later.
        tags: in alphabetical order.
    """

    header: ManifestHeader
    manifest_bytes: int
    metrics: Mapping[str, Metric]
    tags: tuple[str, ...]

    @property
    def key(self) -> StepKey:
        return self.header.key

    @property
    def stored_bytes(self) -> int:
        """What its save added to the store."""
        return self.header.stored_bytes + self.manifest_bytes

    @property
    def created(self) -> datetime:
        return parse_time(self.header.created)


@dataclass(frozen=True, slots=True)
class DamagedStep:
    """A step whose manifest, or what is to be known of it beyond that, cannot be read."""

    key: StepKey
    error: DeltackptError

    @property
    def name(self) -> str:
        """The step as users write it."""
        return f"{self.key.branch}:{self.key.step}"


@dataclass(frozen=True, slots=True)
class Listing:
    """What a store or a branch holds, in order of branch and number."""

    steps: tuple[ListedStep, ...]
    damaged: tuple[DamagedStep, ...]


def list_steps(store: OpenStore, branch: str | None = None, *, chosen: Sequence[VisibleStep] | None = None) -> Listing:
    """The steps of a branch (None: of all), one short read each; one that is damaged does not hide the others.

    Args:
        chosen: list these instead, in their order.
    """
    visible = visible_steps(store, branch) if chosen is None else chosen
    tags: dict[tuple[str, int], list[str]] = {}
    for name, tag in sorted(read_tags(store).items()):
        tags.setdefault((tag.branch, tag.step), []).append(name)
    notes = read_notes(store, {(step.key.branch, step.key.step) for step in visible})
    listed, damaged = [], []
    for step in visible:
        place = (step.key.branch, step.key.step)
        try:
            header = store.header(step.key, step.manifest_bytes)
        except MissingObjectError:
            if any(found.key == step.key for found in visible_steps(store, step.key.branch)):
                raise
            continue  # it was deleted since it was listed
        except (CorruptObjectError, UnknownVersionError) as error:
            damaged.append(DamagedStep(step.key, error))
            continue
        later = [note for note in notes.get(place, ()) if note.saved == header.created]
        metrics = dict(header.metrics)
        for note in later:
            metrics.update(note.metrics)
        listed.append(ListedStep(header, step.manifest_bytes, metrics, tuple(tags.get(place, ()))))
    return Listing(tuple(listed), tuple(damaged))


def describe_step(store: OpenStore, header: ManifestHeader, manifest_bytes: int) -> ListedStep:
    """A step whose header is known, with its notes and tags."""
    place = (header.key.branch, header.key.step)
    metrics = dict(header.metrics)
    for note in read_notes(store, {place}).get(place, ()):
        if note.saved == header.created:
            metrics.update(note.metrics)
    tags = sorted(name for name, tag in read_tags(store).items() if (tag.branch, tag.step) == place)
    return ListedStep(header, manifest_bytes, metrics, tuple(tags))


def log_damaged(damaged: Iterable[DamagedStep]) -> None:
    """Warn of steps that are left out because they cannot be read."""
    for step in damaged:
        _LOG.warning("step %s:%d is left out: %s", step.key.branch, step.key.step, step.error)
