"""Where the checkpoints of an estimate come from: files as ``deltackpt import`` takes them, or steps of a store."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deltackpt.api import Store
from deltackpt.codec import Workspace
from deltackpt.errors import InvalidArgumentError, StepNotFoundError
from deltackpt.estimate.state import Checkpoint
from deltackpt.format.manifest import Manifest
from deltackpt.formats.importing.examine import ScannedFile, name_regions
from deltackpt.formats.importing.naming import Names
from deltackpt.formats.importing.parts import parsers_of, settle_parts
from deltackpt.formats.importing.source import CheckpointSource
from deltackpt.formats.importing.write import tensor_item
from deltackpt.formats.layouts.discover import discover
from deltackpt.formats.parsers.recognise import parse_file
from deltackpt.formats.parsers.source import SourceFile
from deltackpt.formats.recipe import FILE_ROLE
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.load import load_bytes
from deltackpt.store.opened import OpenStore
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_code

__all__ = ["checkpoints_of_files", "checkpoints_of_store"]


def checkpoints_of_files(
    paths: Sequence[Path], *, most: int, pattern: str | None = None
) -> tuple[list[Checkpoint], list[str]]:
    """The newest checkpoints in some paths, in order of steps. Reads where their tensors lie, not the tensors.

    Args:
        most: how many checkpoints to take.
        pattern: which paths are checkpoints; see :func:`deltackpt.formats.layouts.discover.discover`.

    Returns:
        The checkpoints, and what is to be said of them: files that are not understood.

    Raises:
        InvalidArgumentError: a path is not there, or there is no checkpoint in any.
        DamagedFileError, UnsafeFileError: a file is not sound.
    """
    found = discover(paths, pattern=pattern)
    if not found.checkpoints:
        reasons = "; ".join(f"{skip.path.name}: {skip.reason}" for skip in found.skipped[:3])
        raise InvalidArgumentError(
            f"there is no checkpoint in it{f' ({reasons})' if reasons else ''}",
            where=", ".join(map(str, paths)),
            hint="name checkpoints, or a folder of some, as for `deltackpt import`",
        )
    notes: list[str] = []
    chosen = sorted(found.checkpoints, key=lambda source: source.step)[-most:]
    return [_of_files(source, notes) for source in chosen], notes


def _of_files(source: CheckpointSource, notes: list[str]) -> Checkpoint:
    if source.problem is not None:
        raise source.problem
    parsers = parsers_of(source.files)
    scanned = []
    for file in source.files:
        opened = SourceFile(file.source)
        with opened:
            parsed = parsers.get(file.path, parse_file)(opened)
        if parsed.note:
            notes.append(f"{source.folder.name}/{file.path} is counted as bytes: {parsed.note}")
        scanned.append(ScannedFile(file.path, opened, parsed, sha256=""))
    names = Names()
    items: list[SaveItem] = []
    space = Workspace()
    total = 0
    for one, file in zip(settle_parts(scanned), source.files, strict=True):
        named, _, _ = name_regions(one, file.naming, names)
        items += [
            tensor_item(one.file, tensor, space, lambda _: None) for tensor in named if not tensor.region.is_alias
        ]
        total += one.file.size
    tensors = sum(item.box.numel * item.dtype.itemsize for item in items)
    return Checkpoint(source.folder.name, source.step, items, total - tensors)


def checkpoints_of_store(store: Store, *, branch: str, most: int) -> list[Checkpoint]:
    """The newest steps of a branch, in order. Reads their manifests.

    Raises:
        StepNotFoundError: there are none.
    """
    infos = store.steps(branch)[-most:]
    if not infos:
        raise StepNotFoundError(
            f"branch {branch} has no steps", where=store.url, hint="choose another with --branch, or name files"
        )
    return [_of_step(store, f"{info.branch}:{info.step}", info.step) for info in infos]


def _of_step(store: Store, name: str, number: int) -> Checkpoint:
    manifest = store.step(name).manifest
    items: list[SaveItem] = []
    other = 0
    seen: set[tuple[object, ...]] = set()
    for position, entry in enumerate(manifest.entries):
        dtype = by_code(entry.dtype, where=entry.fqn)
        for shard, box in enumerate(manifest.shard_boxes(position)):
            blocks = manifest.block_range(position, shard)
            part = slice(blocks.start, blocks.stop)
            records = (*manifest.block_index[part].tolist(), *manifest.block_row[part].tolist())
            if records in seen:
                continue  # tied to another, and stored once
            seen.add(records)
            if entry.kind == "object" or entry.role == FILE_ROLE:
                other += box.numel * dtype.itemsize
                continue
            read = partial(_read, store.opened, manifest, entry.fqn)
            place = entry.path or (entry.fqn,)
            items.append(SaveItem(entry.fqn, "tensor", dtype, box, entry.artifact, entry.role, place, read))
    return Checkpoint(name, number, items, other)


def _read(store: OpenStore, manifest: Manifest, fqn: str, box: Box) -> NDArray[np.uint8]:
    return load_bytes(store, manifest, fqn, box, threads=1)
