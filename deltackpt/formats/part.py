"""Which entries make up one artifact of a step, together with the files that are made of nothing else."""

from __future__ import annotations

from collections.abc import Collection

from deltackpt.errors import TensorNotFoundError
from deltackpt.format.manifest import Manifest
from deltackpt.formats.recipe import FILE_ROLE
from deltackpt.formats.recorded import read_infos, read_structure
from deltackpt.store.opened import OpenStore

__all__ = ["names_of_part"]


def names_of_part(store: OpenStore, manifest: Manifest, artifact: str, *, threads: int) -> Collection[str]:
    """The names of all entries of an artifact; of an imported file, only where all of its tensors are among them.

    Raises:
        TensorNotFoundError: the step has no such artifact.
    """
    names = {entry.fqn for entry in manifest.entries if entry.artifact == artifact and entry.role != FILE_ROLE}
    chosen = {entry.fqn for entry in manifest.entries if entry.artifact == artifact and entry.role == FILE_ROLE}
    for info in read_infos(store, manifest, threads=threads):
        if info.fqn not in chosen:
            continue
        structure = read_structure(store, manifest, info, threads=threads)
        if all(segment.fqn in names for segment in structure.segments if segment.fqn):
            names |= {info.fqn, info.body}
    if not names:
        have = sorted({entry.artifact for entry in manifest.entries})
        raise TensorNotFoundError(
            f"the step has no artifact {artifact!r}",
            where=str(manifest.header.key),
            hint=f"it has: {', '.join(have)}",
        )
    return names
