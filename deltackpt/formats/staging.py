"""Several files that appear together: written into a folder of their own, and moved out once all are there."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from deltackpt.backend.durable import TEMPORARY_PREFIX, sync_folder
from deltackpt.backend.oserrors import os_errors
from deltackpt.errors import ObjectExistsError

__all__ = ["Staging", "staged"]


@dataclass(slots=True)
class Staging:
    """Files on their way.

    Attributes:
        folder: where they are written first.
        published: where they are afterwards.
    """

    folder: Path
    published: list[Path] = field(default_factory=list)
    _files: list[Path] = field(default_factory=list)

    def add(self, files: Sequence[Path]) -> None:
        """Note files that were written into ``folder``."""
        self._files += files

    def publish(self, out: Path, *, overwrite: bool) -> None:
        """Move all files to ``out``."""
        targets = [out / file.name for file in self._files]
        taken = [target for target in targets if os.path.lexists(target)]
        if taken and not overwrite:
            raise ObjectExistsError("the file appeared meanwhile", where=str(taken[0]), hint="choose another folder")
        with os_errors("publish the files", str(out)):
            for file, target in zip(self._files, targets, strict=True):
                file.replace(target)
            descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
            try:
                sync_folder(descriptor)
            finally:
                os.close(descriptor)
        self.published = targets


@contextmanager
def staged(out: Path, *, overwrite: bool) -> Iterator[Staging]:
    """A folder inside ``out`` whose files are moved to ``out`` at the end; after an error before that none is left.

    Raises:
        ObjectExistsError: a file of the same name is there at the end, and not ``overwrite``.
        BackendError: the disk is full, or the like.
    """
    was_there = out.exists()
    with os_errors("make the folder", str(out)):
        out.mkdir(parents=True, exist_ok=True)
        staging = Staging(out / (TEMPORARY_PREFIX + uuid.uuid4().hex))
        staging.folder.mkdir()
    try:
        yield staging
        staging.publish(out, overwrite=overwrite)
    finally:
        shutil.rmtree(staging.folder, ignore_errors=True)
        if not was_there:
            with suppress(OSError):  # it has the files, and stays
                out.rmdir()
