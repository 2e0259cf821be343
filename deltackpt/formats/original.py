"""The files that a step was imported from: their images."""

from __future__ import annotations

from deltackpt.errors import IncompleteStepError, TensorNotFoundError
from deltackpt.format.manifest import Manifest
from deltackpt.formats.image import FileImage, Stored
from deltackpt.formats.recipe import FILE, FileInfo
from deltackpt.formats.recorded import read_infos, read_structure
from deltackpt.formats.source import StepSource

__all__ = ["default_format", "original_images"]


def default_format(manifest: Manifest) -> str:
    """What a step's own files are: ``original`` where it was imported from files, else ``torch``."""
    return "original" if any(entry.encoding == FILE for entry in manifest.entries) else "torch"


def original_images(source: StepSource, only: str | None = None) -> list[FileImage]:
    """The files that were imported.

    Raises:
        IncompleteStepError: the step was not imported from files.
        TensorNotFoundError: none of them belongs to the artifact ``only``.
    """
    infos = read_infos(source.store, source.manifest, threads=source.threads)
    if not infos:
        raise IncompleteStepError(
            "the step was saved from memory, not imported from files",
            where=str(source.manifest.header.key),
            hint="restore it with the format torch",
        )
    if only is not None:
        artifacts = {entry.fqn: entry.artifact for entry in source.manifest.entries}
        chosen = [info for info in infos if artifacts[info.fqn] == only]
        if not chosen:
            have = sorted({artifacts[info.fqn] for info in infos})
            raise TensorNotFoundError(
                f"the step has no artifact {only!r}",
                where=str(source.manifest.header.key),
                hint=f"it has: {', '.join(have)}",
            )
        infos = chosen
    return [_original(source, info) for info in infos]


def _original(source: StepSource, info: FileInfo) -> FileImage:
    structure = read_structure(source.store, source.manifest, info, threads=source.threads)
    pieces = [
        Stored(segment.fqn, segment.start, segment.length)
        if segment.fqn
        else Stored(info.body, info.structure + segment.start, segment.length)
        for segment in structure.segments
    ]
    return FileImage(info.path, tuple(pieces), mode=info.mode, mtime_ns=info.mtime_ns, sha256=info.sha256)
