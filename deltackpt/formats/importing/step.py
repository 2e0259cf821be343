"""One checkpoint -> one step: look at all of its files, then write them. Nothing is visible before the commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase

from deltackpt.format import hashing
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import ManifestHeader
from deltackpt.formats.importing.examine import ExaminedFile, ScannedFile, describe_file, scan_file
from deltackpt.formats.importing.naming import Names
from deltackpt.formats.importing.parts import parsers_of, settle_parts
from deltackpt.formats.importing.source import CheckpointFile, CheckpointSource
from deltackpt.formats.importing.write import write_step
from deltackpt.formats.parsers.recognise import parse_as_bytes, parse_file
from deltackpt.formats.parsers.source import SourceFile
from deltackpt.pipeline.save import SaveSettings
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.commit import next_generation
from deltackpt.store.opened import OpenStore

__all__ = ["ExaminedStep", "examine_step", "fingerprint", "import_step"]

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, eq=False)
class ExaminedStep:
    """A checkpoint whose files are known to be sound, and all that is to be stored of it."""

    source: CheckpointSource
    files: Sequence[ExaminedFile]
    fingerprint: str

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(file.info.size for file in self.files)


def fingerprint(source: CheckpointSource) -> str:
    """A hash of the paths, sizes and times of change of all files: equal where nobody touched them."""
    facts = []
    for file in source.files:
        stat = file.source.stat()
        facts.append(f"{file.path}\0{stat.st_size}\0{stat.st_mtime_ns}\n")
    return hashing.blake3_digest("".join(facts).encode("utf-8", "surrogateescape")).hex()


def examine_step(
    source: CheckpointSource, *, threads: int, progress: Progress, as_bytes: Sequence[str] = ()
) -> ExaminedStep:
    """Read all files of a checkpoint through once; several at a time.

    Args:
        as_bytes: which files are not to be understood: paths, with ``*`` and ``?`` as in a shell.
        progress: called with the number of bytes of each piece that was read.

    Raises:
        DamagedFileError, UnsafeFileError: a file is not sound.
        InvalidNameError: a file has a name that a step cannot hold.
    """
    mark = fingerprint(source)

    def scan(file: CheckpointFile) -> ScannedFile:
        return scan_file(file.path, SourceFile(file.source), parsers.get(file.path, parse_file), progress)

    plain = {file.path: parse_as_bytes for file in source.files if any(fnmatchcase(file.path, p) for p in as_bytes)}
    parsers = {**parsers_of([file for file in source.files if file.path not in plain]), **plain}
    with ThreadPoolExecutor(threads, thread_name_prefix="deltackpt-scan") as executor:
        scanned = settle_parts(list(executor.map(scan, source.files)))
    names = Names()
    described = [describe_file(s, file.naming, names) for s, file in zip(scanned, source.files, strict=True)]
    return ExaminedStep(source, described, mark)


def import_step(
    store: OpenStore,
    examined: ExaminedStep,
    *,
    branch: str,
    settings: SaveSettings,
    cache: BaseCache,
    progress: Progress,
) -> ManifestHeader:
    """Write a checkpoint that was examined, and commit it; as a new generation where the step is there.

    Raises:
        DamagedFileError: a file changed since it was examined; nothing is visible.
        CommitConflictError: somebody else committed the step meanwhile.
    """
    source = examined.source
    key = StepKey(branch, source.step, next_generation(store, branch, source.step))
    return write_step(
        store,
        key,
        examined.files,
        metrics=source.metrics,
        writer={"layout": source.layout, "source": source.folder.name, "fingerprint": examined.fingerprint},
        settings=settings,
        cache=cache,
        progress=progress,
    )
