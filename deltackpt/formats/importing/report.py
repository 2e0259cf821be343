"""What became of an import, and how far it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deltackpt.errors import DeltackptError
from deltackpt.formats.importing.source import Lack

__all__ = ["ImportReport", "ImportedStep", "Meter", "Note", "Status"]

Status = Literal["imported", "present", "failed", "planned"]


@dataclass(frozen=True, slots=True)
class Note:
    """Something about a file that people should know.

    Attributes:
        path: of the file.
        text: the rest of a sentence that begins with the path.
    """

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class ImportedStep:
    """What became of one checkpoint.

    Attributes:
        step, source, layout: which one it is, where it was, and how it is laid out.
        status: ``imported``; ``present``: the step was there with the same files; ``failed``; or ``planned``.
        files, raw_bytes: how many files it has, and their size.
        stored_bytes: what the step added to the store.
        lacks: what is missing of a complete checkpoint.
        notes: of files whose tensors were not looked for, or that run something when they are unpickled.
        removed: whether the source was removed.
        error: why it failed.
    """

    step: int
    source: Path
    layout: str
    status: Status
    files: int
    raw_bytes: int
    stored_bytes: int = 0
    lacks: Sequence[Lack] = ()
    notes: Sequence[Note] = ()
    removed: bool = False
    error: DeltackptError | None = None


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of all checkpoints, in order of steps.

    Attributes:
        skipped: what in the sources is no checkpoint, or was left out, and why.
    """

    steps: Sequence[ImportedStep]
    skipped: Sequence[tuple[Path, str]] = ()

    @property
    def failed(self) -> list[ImportedStep]:
        """The checkpoints that could not be imported."""
        return [step for step in self.steps if step.status == "failed"]


class Meter:
    """How far an import is; safe to use from many threads.

    Each byte of a source counts twice: when it is read through and when it is stored.

    Attributes:
        raw, stored: the size of the steps that are done, before and after.
    """

    def __init__(self, total: int, changed: Callable[[Meter], None] | None) -> None:
        self.raw = 0
        self.stored = 0
        self._done = 0
        self._total = 2 * total
        self._changed = changed
        self._lock = threading.Lock()

    @property
    def done(self) -> int:
        """Bytes of the sources, as if each counted once."""
        return self._done // 2

    @property
    def total(self) -> int:
        """The bytes of all sources that are read."""
        return self._total // 2

    def advance(self, count: int) -> None:
        """Some bytes were read through, or stored."""
        with self._lock:
            self._done += count
        if self._changed is not None:
            self._changed(self)

    def leave_out(self, size: int) -> None:
        """A source turned out to need nothing."""
        with self._lock:
            self._total -= 2 * size

    def finish(self, raw: int, stored: int) -> None:
        """A step is done."""
        with self._lock:
            self.raw += raw
            self.stored += stored
        if self._changed is not None:
            self._changed(self)
