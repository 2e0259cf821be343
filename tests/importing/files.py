"""Folders of files that are imported, and the files read back from the store segment by segment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deltackpt.backend.memory import MemoryBackend
from deltackpt.format.manifest import ManifestHeader
from deltackpt.formats.importing.naming import FileNaming
from deltackpt.formats.importing.source import CheckpointFile, CheckpointSource
from deltackpt.formats.importing.step import examine_step, import_step
from deltackpt.formats.recipe import FileInfo
from deltackpt.formats.recorded import read_infos, read_structure
from deltackpt.pipeline.load import load_bytes
from deltackpt.pipeline.save import SaveSettings
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import load_manifest

SETTINGS = SaveSettings(threads=2, base_memory=1 << 26)


def new_store(**options: int) -> OpenStore:
    return create_store(MemoryBackend(), StoreOptions(**options))  # type: ignore[arg-type]


def source_of(folder: Path, step: int = 1, naming: Mapping[str, FileNaming] | None = None) -> CheckpointSource:
    """All files of a folder as a step without a layout."""
    paths = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    files = [CheckpointFile(p, folder / p, (naming or {}).get(p, FileNaming())) for p in paths]
    return CheckpointSource(step, folder, "folder", files)


def import_source(store: OpenStore, source: CheckpointSource, branch: str = "main") -> ManifestHeader:
    examined = examine_step(source, threads=2, progress=lambda _: None)
    return import_step(
        store, examined, branch=branch, settings=SETTINGS, cache=BaseCache(1 << 26), progress=lambda _: None
    )


def file_bytes(store: OpenStore, step: int, info: FileInfo) -> bytes:
    """A file of a step, put together from what the store says."""
    manifest = load_manifest(store, step)
    structure = read_structure(store, manifest, info, threads=1)
    literals = load_bytes(store, manifest, info.body, threads=1).tobytes()[info.structure :]
    parts = []
    for segment in structure.segments:
        data = load_bytes(store, manifest, segment.fqn, threads=1).tobytes() if segment.fqn else literals
        parts.append(data[segment.start : segment.start + segment.length])
    return b"".join(parts)


def restored(store: OpenStore, step: int = 1) -> dict[str, bytes]:
    """All files of a step, for somebody who opens the store anew."""
    store = open_store(store.backend)
    infos = read_infos(store, load_manifest(store, step), threads=1)
    return {info.path: file_bytes(store, step, info) for info in infos}


def originals(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
