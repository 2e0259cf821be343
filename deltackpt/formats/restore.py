"""A step as plain torch files."""

from __future__ import annotations

from pathlib import Path

from deltackpt.errors import TensorNotFoundError
from deltackpt.format.manifest import Manifest
from deltackpt.formats.nesting import Entry, split_parts
from deltackpt.formats.objects import check_trust
from deltackpt.formats.staging import staged
from deltackpt.formats.state import load_entries
from deltackpt.formats.torch_files import refuse_existing, write_torch_files
from deltackpt.store.opened import OpenStore

__all__ = ["restore_torch"]


def restore_torch(
    store: OpenStore,
    manifest: Manifest,
    out: Path,
    *,
    only: str | None,
    overwrite: bool,
    trust_objects: bool,
    threads: int,
) -> list[Path]:
    """Write each artifact of a step to its file, one in memory at a time. Files appear once all are written.

    Returns:
        The files written.

    Raises:
        TensorNotFoundError: the step has no artifact called ``only``.
        ObjectExistsError: a file is there and not ``overwrite``; nothing was written.
        UntrustedObjectError: an object is a pickle, and not ``trust_objects``; nothing was written.
    """
    artifacts = sorted({entry.artifact for entry in manifest.entries})
    if only is not None and only not in artifacts:
        raise TensorNotFoundError(
            f"the step has no artifact {only!r}", where=str(manifest.header.key), hint=f"it has: {', '.join(artifacts)}"
        )
    chosen = artifacts if only is None else [only]
    for entry in manifest.entries:
        if entry.kind == "object" and entry.artifact in chosen:
            check_trust(entry.encoding, trust_objects=trust_objects, fqn=entry.fqn)
    if not overwrite:
        refuse_existing(out, chosen)
    with staged(out, overwrite=overwrite) as staging:
        for artifact in chosen:
            entries = [entry for entry in manifest.entries if entry.artifact == artifact]
            values = load_entries(store, manifest, entries, trust_objects=trust_objects, threads=threads)
            parts = split_parts(Entry(e.fqn, e.path, artifact, values[e.fqn]) for e in entries)
            staging.add(write_torch_files(staging.folder, parts))
    return staging.published
