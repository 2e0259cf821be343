"""Many checkpoints -> steps, in order; one that cannot be imported does not keep the others from it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deltackpt.backend.oserrors import os_errors
from deltackpt.codec import Workspace
from deltackpt.errors import (
    BackendError,
    DamagedFileError,
    DeltackptError,
    IncompleteCheckpointError,
    StepExistsError,
)
from deltackpt.format.manifest import Manifest
from deltackpt.formats.importing.readback import check_files
from deltackpt.formats.importing.report import ImportedStep, ImportReport, Meter, Note
from deltackpt.formats.importing.scan import scan
from deltackpt.formats.importing.source import CheckpointSource
from deltackpt.formats.importing.step import ExaminedStep, examine_step, fingerprint, import_step
from deltackpt.formats.parsers.source import SourceFile
from deltackpt.formats.recorded import read_infos
from deltackpt.pipeline.save import SaveSettings
from deltackpt.store.base_cache import BaseCache, shared_cache
from deltackpt.store.catalog import VisibleStep, find_place
from deltackpt.store.opened import OpenStore

__all__ = ["ImportSettings", "plan_of", "run_import"]


@dataclass(frozen=True, slots=True)
class ImportSettings:
    """How checkpoints are imported.

    Attributes:
        branch: the line of steps they go into.
        strict: whether an incomplete checkpoint is refused.
        overwrite: whether a step that holds other files is replaced.
        remove_source: whether each source is removed once its step was read back and compared with it.
        save: how much of the machine may be used.
        as_bytes: which files are not to be understood: paths, with ``*`` and ``?`` as in a shell.
    """

    branch: str
    strict: bool
    overwrite: bool
    remove_source: bool
    save: SaveSettings
    as_bytes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """A checkpoint before it is written: what is there already, what was found, or why it cannot be imported."""

    source: CheckpointSource
    size: int
    present: VisibleStep | None = None
    examined: ExaminedStep | None = None
    error: DeltackptError | None = None


def run_import(
    store: OpenStore,
    sources: Sequence[CheckpointSource],
    settings: ImportSettings,
    *,
    skipped: Sequence[tuple[Path, str]] = (),
    changed: Callable[[Meter], None] | None = None,
    finished: Callable[[ImportedStep], None] | None = None,
) -> ImportReport:
    """Import checkpoints in the order given. While one is written the next is read through.

    A step that is there with the same files is left as it is: an import that was interrupted is run again.

    Args:
        skipped: for the report.
        changed: called, from any thread, whenever there is progress.
        finished: called with what became of each checkpoint.

    Raises:
        BackendError: the store cannot be written, so that the other steps could not be either. Steps that were
            committed before stay.
    """
    sizes = [_size(source) for source in sources]
    meter = Meter(sum(sizes), changed)
    done: list[ImportedStep] = []
    cache = shared_cache(store.config.id)
    with ThreadPoolExecutor(1, thread_name_prefix="deltackpt-examine") as executor, _freed(cache.space):

        def submit(number: int) -> Future[_Prepared] | None:
            if number >= len(sources):
                return None
            return executor.submit(_prepare, store, sources[number], sizes[number], settings, meter)

        ahead = submit(0)
        for number in range(len(sources)):
            assert ahead is not None
            prepared, ahead = ahead.result(), submit(number + 1)
            step = _finish(store, prepared, settings, cache, meter)
            done.append(step)
            if finished is not None:
                finished(step)
    return ImportReport(done, skipped)


def _size(source: CheckpointSource) -> int:
    """The size of all files; those that cannot be looked at are noticed when they are read."""
    return sum(file.source.stat().st_size for file in source.files if file.source.exists())


def plan_of(source: CheckpointSource) -> ImportedStep:
    """What would be imported."""
    return ImportedStep(
        source.step, source.folder, source.layout, "planned", len(source.files), _size(source), lacks=source.lacks
    )


def _prepare(
    store: OpenStore, source: CheckpointSource, size: int, settings: ImportSettings, meter: Meter
) -> _Prepared:
    try:
        if source.problem is not None:
            raise source.problem
        with os_errors("read the files", str(source.folder)):
            mark = fingerprint(source)
        present = find_place(store, settings.branch, source.step)
        if present is not None and store.header(present.key, present.manifest_bytes).writer.get("fingerprint") == mark:
            return _Prepared(source, size, present)
        if settings.strict and source.lacks:
            missing = ", ".join(f"{lack.path} ({lack.cost})" for lack in source.lacks)
            raise IncompleteCheckpointError(f"the checkpoint lacks {missing}", where=str(source.folder))
        examined = examine_step(
            source, threads=settings.save.threads, progress=meter.advance, as_bytes=settings.as_bytes
        )
        if present is None or settings.overwrite:
            return _Prepared(source, size, None, examined)
        if _same_files(store.manifest(present.key), store, examined, settings.save.threads):
            return _Prepared(source, size, present)
        raise StepExistsError(
            f"step {settings.branch}:{source.step} is there already, with other files",
            where=str(source.folder),
            hint="import into another branch with --branch, or replace the step with --overwrite",
        )
    except DeltackptError as error:
        return _Prepared(source, size, error=error)


def _same_files(manifest: Manifest, store: OpenStore, examined: ExaminedStep, threads: int) -> bool:
    """Whether a step holds the same files, whatever their times."""
    held = {info.path: info.sha256 for info in read_infos(store, manifest, threads=threads)}
    return held == {file.info.path: file.info.sha256 for file in examined.files}


@contextmanager
def _freed(space: Workspace) -> Iterator[None]:
    """Free at the end what the steps of an import used one after another."""
    try:
        yield
    finally:
        space.clear()


def _finish(
    store: OpenStore, prepared: _Prepared, settings: ImportSettings, cache: BaseCache, meter: Meter
) -> ImportedStep:
    source, present = prepared.source, prepared.present
    failure = prepared.error
    stored = 0
    removed = False
    if failure is None and present is None:
        assert prepared.examined is not None
        try:
            header = import_step(
                store,
                prepared.examined,
                branch=settings.branch,
                settings=settings.save,
                cache=cache,
                progress=meter.advance,
            )
            stored = header.stored_bytes
        except BackendError:
            raise
        except DeltackptError as error:
            failure = error
        else:
            meter.finish(prepared.size, stored)
    elif prepared.examined is None:
        meter.leave_out(prepared.size)
    if failure is None and settings.remove_source:
        try:
            _remove(store, source, settings)
            removed = True
        except DeltackptError as error:
            failure = error
    examined = [] if prepared.examined is None else prepared.examined.files
    return ImportedStep(
        step=source.step,
        source=source.folder,
        layout=source.layout,
        status="failed" if failure is not None else "imported" if present is None else "present",
        files=len(source.files),
        raw_bytes=prepared.size,
        stored_bytes=stored,
        lacks=source.lacks,
        notes=[Note(file.info.path, text) for file in examined for text in file.notes],
        removed=removed,
        error=failure,
    )


def _remove(store: OpenStore, source: CheckpointSource, settings: ImportSettings) -> None:
    """Remove a source whose step is durable, once every file was read back and is, by its hash, the one on disk.

    Raises:
        DamagedFileError: the source is not, or not only, what was imported; it stays.
        CorruptObjectError, MissingObjectError: a file cannot be had back; the source stays.
    """
    found = find_place(store, settings.branch, source.step)
    assert found is not None
    manifest = store.manifest(found.key)
    held = {info.path: info for info in check_files(store, manifest, threads=settings.save.threads)}
    on_disk = _paths(source)
    for file in source.files:
        info = held.get(file.path)
        source_file = SourceFile(file.source)
        touched = info is not None and info.mtime_ns != source_file.stat.st_mtime_ns
        if info is None or info.size != source_file.size or (touched and _sha256(source_file) != info.sha256):
            raise DamagedFileError(
                "the file is not the one that was imported, so the source is kept", where=str(file.source)
            )
    extra = sorted(on_disk - held.keys())
    if extra:
        raise DamagedFileError("the file was not imported, so the source is kept", where=str(source.folder / extra[0]))
    with os_errors("remove the source", str(source.folder)):
        if source.folder.is_dir():
            shutil.rmtree(source.folder)
        else:
            source.folder.unlink()


def _sha256(file: SourceFile) -> str:
    return scan(file, (), lambda _: None)


def _paths(source: CheckpointSource) -> set[str]:
    """What is in the source now."""
    if not source.folder.is_dir():
        return {source.folder.name}
    return {
        Path(at, name).relative_to(source.folder).as_posix()
        for at, _, names in os.walk(source.folder)
        for name in names
        if not name.startswith(".nfs")
    }
