"""Examined files -> a step: its items, its entries, the write and the commit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from deltackpt._version import __version__
from deltackpt.codec import Workspace
from deltackpt.errors import DamagedFileError
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import Entry, ManifestHeader, Metric
from deltackpt.formats.importing.examine import ExaminedFile, NamedRegion
from deltackpt.formats.parsers.source import SourceFile
from deltackpt.formats.recipe import FILE, FILE_ROLE, encode_info
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.save import SaveSettings, write_items
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.commit import PlannedEntry, StepDraft, commit_step
from deltackpt.store.opened import OpenStore
from deltackpt.store.pending import withdraw
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_name

__all__ = ["tensor_item", "write_step"]

_BYTES: Final = by_name("uint8")

# Files that stay open while they are read block by block: far below the usual limit of 1,024.
_OPEN_FILES: Final = 128

Bytes = NDArray[np.uint8]


def write_step(
    store: OpenStore,
    key: StepKey,
    files: Sequence[ExaminedFile],
    *,
    metrics: Mapping[str, Metric],
    writer: Mapping[str, str | int | float],
    settings: SaveSettings,
    cache: BaseCache,
    progress: Callable[[int], None],
) -> ManifestHeader:
    """Store files as a step and commit it.

    Args:
        key: with the generation that was free when the import of the step began.
        progress: called with the number of bytes of each block that was taken from a file.

    Raises:
        DamagedFileError: a file changed since it was examined; nothing is visible.
        CommitConflictError: somebody else committed the step meanwhile.
    """
    items: list[SaveItem] = []
    tensors: dict[str, list[NamedRegion]] = {}
    entries: list[PlannedEntry] = []
    for file in files:
        for tensor in file.tensors:
            items.append(tensor_item(file.file, tensor, cache.space, progress))
            tensors.setdefault(tensor.named.fqn, []).append(tensor)
        _add_file(file, items, entries, progress)
    entries += [_tensor_entry(parts, store.options.block_elements) for parts in tensors.values()]
    with ExitStack() as stack:
        for file in files[:_OPEN_FILES]:
            stack.enter_context(file.file)
        receipt = write_items(store, items, branch=key.branch, step=key.step, writer=0, settings=settings, cache=cache)
    changed = next((file.file.path for file in files if not file.file.is_unchanged()), None)
    if changed is not None:
        withdraw(store, [receipt.pending.id])
        raise DamagedFileError(
            "the file changed while it was imported",
            where=str(changed),
            hint="import it when nobody writes to it any more; nothing of this step was committed",
        )
    about = {"deltackpt": __version__, "files": len(files), **writer}
    return commit_step(store, StepDraft(key, entries, metrics, about), [receipt])


def tensor_item(file: SourceFile, tensor: NamedRegion, space: Workspace, progress: Callable[[int], None]) -> SaveItem:
    """A tensor of a file as an item of a save.

    Args:
        space: where the memory of blocks comes from.
        progress: called with the number of bytes of each block that was taken from the file.
    """
    region, named, whole = tensor.region, tensor.named, tensor.box
    item = region.dtype.itemsize
    strides = [math.prod(region.shape[d + 1 :]) for d in range(len(region.shape))]

    def read(box: Box) -> Bytes:
        corner = box.relative_to(whole).offsets
        first = sum(offset * stride for offset, stride in zip(corner, strides, strict=True))
        # A block is rows of its shard, one after another in the file.
        data = space.block(box.numel * item)
        file.read_into(data, region.start + first * item)
        progress(len(data))
        return data

    return SaveItem(named.fqn, "tensor", region.dtype, whole, named.artifact, named.role, named.place, read)


def _tensor_entry(parts: Sequence[NamedRegion], block_elements: int) -> PlannedEntry:
    """The entry of a tensor, whose parts may lie in several files."""
    first = parts[0]
    named = first.named
    entry = _entry(
        named.fqn,
        "tensor",
        named.artifact,
        named.role,
        first.region.dtype.code,
        block_elements,
        first.shape,
        len(parts),
        path=named.path,
    )
    return PlannedEntry(entry, tuple(sorted((part.box for part in parts), key=lambda box: box.offsets)))


def _add_file(
    file: ExaminedFile, items: list[SaveItem], entries: list[PlannedEntry], progress: Callable[[int], None]
) -> None:
    """The two entries of a file itself."""
    body, info = file.body, file.info
    chunks = tuple(Box((start,), (length,)) for start, length in body.chunks)

    def read_body(box: Box) -> Bytes:
        data = body.read(box)
        progress(max(0, box.offsets[0] + box.sizes[0] - max(box.offsets[0], info.structure)))
        return data

    items.extend(
        SaveItem(
            info.body,
            "tensor",
            _BYTES,
            chunk,
            file.artifact,
            FILE_ROLE,
            (info.body,),
            read_body,
            block_elements=body.size,
            moves=True,
        )
        for chunk in chunks
    )
    entries.append(
        PlannedEntry(
            _entry(info.body, "tensor", file.artifact, FILE_ROLE, _BYTES.code, body.size, (body.size,), len(chunks)),
            chunks,
        )
    )
    description = np.frombuffer(encode_info(info), dtype=np.uint8)
    whole = Box.whole(description.shape)

    def read_info(box: Box) -> Bytes:
        return description[box.slices()].copy()

    items.append(
        SaveItem(
            info.fqn,
            "object",
            _BYTES,
            whole,
            file.artifact,
            FILE_ROLE,
            (info.fqn,),
            read_info,
            block_elements=len(description),
        )
    )
    entries.append(
        PlannedEntry(
            _entry(
                info.fqn,
                "object",
                file.artifact,
                FILE_ROLE,
                _BYTES.code,
                len(description),
                description.shape,
                encoding=FILE,
            ),
            (whole,),
        )
    )


def _entry(
    fqn: str,
    kind: Literal["tensor", "object"],
    artifact: str,
    role: str,
    dtype: int,
    block_elements: int,
    shape: tuple[int, ...],
    shards: int = 1,
    *,
    path: tuple[str | int, ...] | None = None,
    encoding: str = "",
) -> Entry:
    return Entry(
        fqn=fqn,
        kind=kind,
        artifact=artifact,
        role=role,
        dtype=dtype,
        block_elements=block_elements,
        requires_grad=False,
        pinned=False,
        shape=shape,
        shards=shards,
        path=path,
        encoding=encoding,
    )
