"""Tensors that are spread over several files of a checkpoint: those that ``torch.distributed.checkpoint`` wrote."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from deltackpt.formats.importing.examine import ScannedFile
from deltackpt.formats.importing.source import CheckpointFile
from deltackpt.formats.parsers.dcp import parse_distcp, read_dcp_metadata
from deltackpt.formats.parsers.found import FoundTensor, ParsedFile
from deltackpt.formats.parsers.source import SourceFile

__all__ = ["METADATA", "parsers_of", "settle_parts"]

METADATA: Final = ".metadata"

Parser = Callable[[SourceFile], ParsedFile]


def parsers_of(files: Sequence[CheckpointFile]) -> Mapping[str, Parser]:
    """How to parse the files that a ``.metadata`` beside them describes, by path.

    Raises:
        DamagedFileError, UnsafeFileError: a ``.metadata`` is not sound.
    """
    found: dict[str, Parser] = {}
    for file in files:
        folder, _, name = file.path.rpartition("/")
        if name == METADATA:
            described = read_dcp_metadata(SourceFile(file.source))
            for path, items in described.items.items():
                found[f"{folder}/{path}" if folder else path] = partial(parse_distcp, items=items)
    return found


def settle_parts(scanned: Sequence[ScannedFile]) -> list[ScannedFile]:
    """The same, with tensors put together only where all of their parts were found, of one dtype and of one folder."""
    found: dict[str, list[tuple[str, FoundTensor]]] = {}
    for file in scanned:
        for tensor in file.parsed.tensors:
            if tensor.part is not None and tensor.part.joined:
                found.setdefault(tensor.part.name, []).append((file.path.rpartition("/")[0], tensor))
    torn = {name for name, parts in found.items() if not _is_whole(parts)}
    return [
        replace(file, parsed=replace(file.parsed, tensors=[_torn(t) if _name(t) in torn else t for t in tensors]))
        for file in scanned
        for tensors in [file.parsed.tensors]
    ]


def _is_whole(parts: Sequence[tuple[str, FoundTensor]]) -> bool:
    alike = {(folder, t.dtype, t.part.shape if t.part else ()) for folder, t in parts}
    total = sum(tensor.numel for _, tensor in parts)
    return len(alike) == 1 and all(t.part is not None and math.prod(t.part.shape) == total for _, t in parts)


def _name(tensor: FoundTensor) -> str | None:
    return None if tensor.part is None else tensor.part.name


def _torn(tensor: FoundTensor) -> FoundTensor:
    return tensor if tensor.part is None else replace(tensor, part=replace(tensor.part, joined=False))
