"""A file, looked at: what it is, where its tensors lie, what they will be called, and its hash. Writes nothing."""

from __future__ import annotations

import itertools
import math
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from deltackpt.formats.importing.body import Body, cut_body
from deltackpt.formats.importing.naming import FileNaming, Named, Names, Wanted, artifact_of_path, name_tensors
from deltackpt.formats.importing.regions import Region, RegionView, plan_regions
from deltackpt.formats.importing.scan import scan
from deltackpt.formats.parsers.calls import calls_text
from deltackpt.formats.parsers.found import ParsedFile
from deltackpt.formats.parsers.source import SourceFile
from deltackpt.formats.recipe import FileInfo, Segment, Structure, View, check_path, encode_structure
from deltackpt.tensor.box import Box

__all__ = ["ExaminedFile", "NamedRegion", "ScannedFile", "describe_file", "name_regions", "scan_file"]

_MODE_BITS: Final = 0o7777


@dataclass(frozen=True, slots=True, eq=False)
class ScannedFile:
    """A file that was parsed and read through.

    Attributes:
        path: in the folder of its step.
        sha256: of all its bytes.
    """

    path: str
    file: SourceFile
    parsed: ParsedFile
    sha256: str


@dataclass(frozen=True, slots=True)
class NamedRegion:
    """A part of a file that becomes a tensor, and what it is called."""

    region: Region
    named: Named

    @property
    def box(self) -> Box:
        """Where it lies in its entry."""
        part = self.region.part
        return Box(
            (0,) * len(self.region.shape) if part is None or not part.joined else part.offsets, self.region.shape
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """That of its entry."""
        part = self.region.part
        return self.region.shape if part is None or not part.joined else part.shape

    @property
    def first_byte(self) -> int:
        """Where it begins in the bytes of its entry."""
        first = sum(o * math.prod(self.shape[d + 1 :]) for d, o in enumerate(self.box.offsets))
        return first * self.region.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class ExaminedFile:
    """All that is to be stored of a file.

    Attributes:
        info: its description.
        artifact: that its description and body belong to.
        file: where its bytes are.
        tensors: the entries that it gives to its step.
        body: its structure and literal bytes.
        notes: what people should know of it, each the rest of a sentence that begins with its path.
    """

    info: FileInfo
    artifact: str
    file: SourceFile
    tensors: Sequence[NamedRegion]
    body: Body
    notes: Sequence[str]


def scan_file(
    path: str, file: SourceFile, parse: Callable[[SourceFile], ParsedFile], progress: Callable[[int], None]
) -> ScannedFile:
    """Parse a file and read it through once.

    Raises:
        InvalidNameError: a step cannot hold a file of this path.
        DamagedFileError, UnsafeFileError: the file is not sound.
    """
    check_path(path)
    with file:
        parsed = parse(file)
    return ScannedFile(path, file, parsed, scan(file, parsed.checks, progress))


def describe_file(scanned: ScannedFile, naming: FileNaming, names: Names) -> ExaminedFile:
    """Decide what becomes of a file. Reads its literal bytes.

    Args:
        names: those given in the step so far; the new ones are added.

    Raises:
        UnsafeFileError: tensors overlap that cannot.
    """
    file, path = scanned.file, scanned.path
    named, views, view_names = name_regions(scanned, naming, names)
    segments, ranges = _segments(named, file.size)
    structure = Structure(segments, _views(views, view_names, named))
    head = encode_structure(structure)
    info = FileInfo(
        path=path,
        size=file.size,
        mode=stat.S_IMODE(file.stat.st_mode) & _MODE_BITS,
        mtime_ns=file.stat.st_mtime_ns,
        sha256=scanned.sha256,
        format=scanned.parsed.format,
        structure=len(head),
    )
    body = cut_body(head, file, ranges)
    return ExaminedFile(info, _artifact(path, naming, named), file, named, body, _notes(scanned.parsed))


def _notes(parsed: ParsedFile) -> list[str]:
    kept = [f"is kept as bytes: {parsed.note}"] if parsed.note else []
    return [*kept, *([calls_text(parsed.calls)] if parsed.calls else [])]


def name_regions(
    scanned: ScannedFile, naming: FileNaming, names: Names
) -> tuple[list[NamedRegion], list[RegionView], list[Named]]:
    """What of a file becomes tensors and what they are called, the views of them, and what those are called.

    Args:
        names: those given in the step so far; the new ones are added.

    Raises:
        UnsafeFileError: tensors overlap that cannot.
    """
    regions, views = plan_regions(scanned.parsed.tensors, str(scanned.file.path))
    wanted = [Wanted(region.place, region.suffix, region.part) for region in regions]
    wanted += [Wanted(view.tensor.place) for view in views]
    given = name_tensors(wanted, scanned.path, naming, names)
    named = [NamedRegion(region, name) for region, name in zip(regions, given, strict=False)]
    return named, views, given[len(regions) :]


def _segments(tensors: Sequence[NamedRegion], size: int) -> tuple[tuple[Segment, ...], list[tuple[int, int]]]:
    """What the file is made of, in its order, and the ranges of it that are literal."""
    segments: list[Segment] = []
    ranges: list[tuple[int, int]] = []
    at = literals = 0
    placed = sorted((t for t in tensors if t.region.length and not t.region.is_alias), key=lambda t: t.region.start)
    for tensor in [*placed, None]:
        start = size if tensor is None else tensor.region.start
        if start > at:
            segments.append(Segment("", literals, start - at))
            ranges.append((at, start - at))
            literals += start - at
        if tensor is not None:
            segments.append(Segment(tensor.named.fqn, tensor.first_byte, tensor.region.length))
            at = start + tensor.region.length
    return tuple(segments), ranges


def _views(views: Sequence[RegionView], given: Sequence[Named], tensors: Sequence[NamedRegion]) -> tuple[View, ...]:
    return tuple(
        View(
            name.fqn,
            tensors[view.region].named.fqn,
            view.tensor.dtype.code,
            view.offset,
            view.tensor.shape,
            view.tensor.strides,
        )
        for view, name in zip(views, given, strict=True)
    )


def _artifact(path: str, naming: FileNaming, tensors: Sequence[NamedRegion]) -> str:
    """That of the layout; else the one that all of its tensors share; else what its name says."""
    if naming.artifact is not None:
        return naming.artifact
    shared = [artifact for artifact, _ in itertools.groupby(sorted(t.named.artifact for t in tensors))]
    return shared[0] if len(shared) == 1 else artifact_of_path(path)
