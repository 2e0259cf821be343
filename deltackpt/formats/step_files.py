"""The files of a step, to list and to open: those that were imported or, for a saved state, torch files."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from deltackpt.errors import InvalidNameError, UntrustedObjectError
from deltackpt.errors import TensorNotFoundError as NotFoundError
from deltackpt.formats.image import FileImage
from deltackpt.formats.original import default_format
from deltackpt.formats.source import StepSource
from deltackpt.formats.views import file_images

__all__ = ["StepFile", "StepFiles"]


@dataclass(frozen=True, slots=True)
class StepFile:
    """A file of a step.

    Attributes:
        path: in the folder of the step, with ``/`` between its parts.
        size: in bytes.
        sha256: of its bytes, in hexadecimal digits; None for a file that was never on disk.
        mtime_ns: when it was last changed, in nanoseconds since 1970; None for a file that was never on disk.
    """

    path: str
    size: int
    sha256: str | None
    mtime_ns: int | None


class StepFiles:
    """The images of a step's files, made when they are first asked for."""

    def __init__(self, source: StepSource) -> None:
        self.source = source
        self._images: dict[str, FileImage] | None = None

    def listing(self) -> Sequence[StepFile]:
        """All files, in the order of their paths. Parts that hold pickles are left out unless these are trusted."""
        return [StepFile(i.path, i.size, i.sha256, i.mtime_ns) for _, i in sorted(self._all().items())]

    def image(self, path: str) -> FileImage:
        """The file at a path.

        Raises:
            TensorNotFoundError: the step has no such file.
            UntrustedObjectError: it would hold objects that are pickles, and these are not trusted.
        """
        images = self._all()
        if path in images:
            return images[path]
        if default_format(self.source.manifest) == "torch":
            self._check_part(path)
        close = difflib.get_close_matches(path, images, n=3)
        raise NotFoundError(
            f"the step has no file {path!r}",
            where=str(self.source.manifest.header.key),
            hint=f"it has: {', '.join(close or sorted(images)[:8])}",
        )

    def _all(self) -> dict[str, FileImage]:
        if self._images is None:
            self._images = {image.path: image for image in self._make()}
        return self._images

    def _make(self) -> list[FileImage]:
        if default_format(self.source.manifest) == "original":
            return file_images(self.source)
        images: list[FileImage] = []
        for artifact in sorted({entry.artifact for entry in self.source.state_entries()}):
            try:
                images += file_images(self.source, artifact)
            except (UntrustedObjectError, InvalidNameError):
                continue
        return images

    def _check_part(self, path: str) -> None:
        """Say why a part is not among the files, where it is one of the step."""
        artifact = path.rpartition(".")[0]
        if any(entry.artifact == artifact for entry in self.source.manifest.entries):
            file_images(self.source, artifact)
