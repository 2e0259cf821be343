"""A folder that a trainer writes checkpoints into -> steps, each as it is complete.

Polls, so that it works on every file system. A checkpoint is taken in once its layout says that nothing is missing and
none of its files has changed for a while. One that stays incomplete is taken in as it is after a longer while, or once
a later one is complete: no trainer goes back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from deltackpt.errors import DeltackptError
from deltackpt.formats.importing.report import ImportedStep
from deltackpt.formats.importing.run import ImportSettings, run_import
from deltackpt.formats.importing.source import CheckpointSource
from deltackpt.formats.importing.step import fingerprint
from deltackpt.formats.layouts.discover import discover
from deltackpt.store.opened import OpenStore

__all__ = ["PATIENCE", "Watch", "WatchEvent", "WatchSettings"]

PATIENCE: Final = 20
"""After so many times the settling time an incomplete checkpoint is taken in as it is."""


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """What is watched for.

    Attributes:
        settle: seconds for which no file of a checkpoint must have changed.
        every: seconds between two looks.
        pattern: which paths are checkpoints; see ``discover``.
        keep_source: with ``imports.remove_source``, how many of the newest sources stay.
        imports: how they are imported.
    """

    settle: float
    every: float
    pattern: str | None
    keep_source: int
    imports: ImportSettings


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """Something that happened.

    Attributes:
        step: what became of a checkpoint; for ``removed`` that of its source.
        error: why a look at the folder failed; the next one may not.
    """

    kind: Literal["imported", "failed", "removed", "trouble"]
    step: ImportedStep | None = None
    error: DeltackptError | None = None


@dataclass(slots=True)
class _Seen:
    """A checkpoint as it was: its fingerprint, since when that is so, and whether this state was dealt with."""

    mark: str
    since: float
    done: bool = False


@dataclass(slots=True)
class Watch:
    """Watches one folder.

    Attributes:
        folder: where checkpoints appear; it may not be there yet.
        report: called with everything that happens, in order.
        clock: seconds that never go back.
    """

    store: OpenStore
    folder: Path
    settings: WatchSettings
    report: Callable[[WatchEvent], None]
    clock: Callable[[], float]
    stop: threading.Event = field(default_factory=threading.Event)
    _seen: dict[Path, _Seen] = field(default_factory=dict)

    def run(self) -> None:
        """Look again and again until ``stop`` is set; a step that is being written then is finished first."""
        trouble = ""
        while not self.stop.is_set():
            try:
                self.look()
                trouble = ""
            except DeltackptError as error:
                if str(error) != trouble:  # said once, not at every look
                    self.report(WatchEvent("trouble", error=error))
                trouble = str(error)
            self.stop.wait(self.settings.every)

    def look(self, *, settled: bool = False) -> None:
        """Take in what is ready now.

        Args:
            settled: whether everything counts as settled, as when nobody writes to the folder any more.

        Raises:
            BackendError: the folder cannot be read, or the store not written.
        """
        if not self.folder.is_dir():
            return
        sources = discover([self.folder], pattern=self.settings.pattern).checkpoints
        for source in self._ready(sources, settled=settled):
            if self.stop.is_set():
                return
            self._import(source)
        if self.settings.imports.remove_source:
            self._remove(sources)

    def _ready(self, sources: Iterable[CheckpointSource], *, settled: bool) -> list[CheckpointSource]:
        """Those that nobody writes to any more, in order of steps."""
        now, hinted = self.clock(), _hinted(self.folder)
        ready: list[CheckpointSource] = []
        later_is_complete = False
        for source in sorted(sources, key=lambda source: source.step, reverse=True):
            mark = _mark(source)
            if mark is None:
                continue
            seen = self._seen.get(source.folder)
            if seen is None or seen.mark != mark:
                seen = self._seen[source.folder] = _Seen(mark, now)
            age = now - seen.since
            # A trainer sets its link once the checkpoint is whole.
            calm = settled or age >= self.settings.settle or source.folder.resolve() in hinted
            patient = settled or later_is_complete or age >= PATIENCE * self.settings.settle
            if calm and not seen.done and (not source.lacks or patient):
                ready.append(source)
            later_is_complete |= calm and not source.lacks
        return ready[::-1]

    def _import(self, source: CheckpointSource) -> None:
        # Sources are removed later, so that the newest ones stay.
        imports = replace(self.settings.imports, remove_source=False)
        (step,) = run_import(self.store, [source], imports).steps
        self._seen[source.folder].done = True
        if step.status != "present":
            self.report(WatchEvent("failed" if step.status == "failed" else "imported", step))

    def _remove(self, sources: Iterable[CheckpointSource]) -> None:
        """Remove the sources of steps that are in the store, but for the newest and those that links point to."""
        hinted = _hinted(self.folder)
        done = [s for s in sorted(sources, key=lambda s: s.step) if self._is_done(s)]
        for source in done[: max(0, len(done) - self.settings.keep_source)]:
            if self.stop.is_set() or source.folder.resolve() in hinted:
                continue
            (step,) = run_import(self.store, [source], self.settings.imports).steps
            if step.removed:
                del self._seen[source.folder]
            self.report(WatchEvent("removed" if step.removed else "failed", step))

    def _is_done(self, source: CheckpointSource) -> bool:
        seen = self._seen.get(source.folder)
        return seen is not None and seen.done and seen.mark == _mark(source)


def _mark(source: CheckpointSource) -> str | None:
    """The fingerprint of a checkpoint; None while files of it come and go."""
    try:
        return fingerprint(source)
    except OSError:
        return None


def _hinted(folder: Path) -> set[Path]:
    """The checkpoints that links such as ``latest`` point to."""
    return {path.resolve() for path in folder.iterdir() if path.is_symlink() and path.exists()}
