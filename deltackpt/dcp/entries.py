"""DCP's ``Metadata`` <-> the entries of a manifest. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from deltackpt.errors import IncompleteSaveError, UnsupportedDataError
from deltackpt.format.manifest import Entry, Manifest
from deltackpt.store.commit import PlannedEntry
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_code, by_name
from deltackpt.tensor.roles import classify_all, role_of
from deltackpt.tensor.torch_bridge import from_torch_dtype, to_torch_dtype

__all__ = ["OBJECT_DTYPE", "Path", "chunk_box", "classify_entries", "dcp_metadata", "places", "planned_entries"]

Path = tuple[str | int, ...]

OBJECT_DTYPE = by_name("uint8")


def chunk_box(chunk: ChunkStorageMetadata) -> Box:
    """A chunk of DCP as a box."""
    return Box(tuple(chunk.offsets), tuple(chunk.sizes))


def classify_entries(paths: Mapping[str, Path], is_tensor: Mapping[str, bool]) -> dict[str, tuple[str, str]]:
    """FQN to (artifact, role), for all that either argument names: the rest of a state says what a part of it is.

    Args:
        paths: the places in the state, as far as they are known.
        is_tensor: for each entry, whether it is a tensor.
    """
    names = dict.fromkeys([*paths, *is_tensor])
    artifacts = classify_all({fqn: (paths.get(fqn), is_tensor.get(fqn, False)) for fqn in names})
    return {fqn: (artifacts[fqn], role_of(paths.get(fqn, tuple(fqn.split("."))), artifacts[fqn])) for fqn in names}


def planned_entries(
    metadata: Metadata, objects: Mapping[str, tuple[int, str]], block_elements: int
) -> list[PlannedEntry]:
    """The entries of a step, from what DCP planned.

    Args:
        metadata: DCP's global metadata.
        objects: for each object that was written, its bytes and encoding.
        block_elements: the grid that tensors were cut by.

    Raises:
        IncompleteSaveError: an object was planned but not written.
    """
    paths = places(metadata.planner_data)
    kinds = classify_entries(
        paths, {fqn: isinstance(stored, TensorStorageMetadata) for fqn, stored in metadata.state_dict_metadata.items()}
    )
    planned = []
    for fqn, stored in metadata.state_dict_metadata.items():
        artifact, role = kinds[fqn]
        if isinstance(stored, TensorStorageMetadata):
            boxes = tuple(chunk_box(chunk) for chunk in stored.chunks)
            entry = Entry(
                fqn=fqn,
                kind="tensor",
                artifact=artifact,
                role=role,
                dtype=from_torch_dtype(stored.properties.dtype, where=fqn).code,
                block_elements=block_elements,
                requires_grad=stored.properties.requires_grad,
                pinned=stored.properties.pin_memory,
                shape=tuple(stored.size),
                shards=len(boxes),
                path=paths.get(fqn),
                encoding="",
            )
        else:
            if fqn not in objects:
                raise IncompleteSaveError(f"the object {fqn} was planned but no rank wrote it")
            size, encoding = objects[fqn]
            boxes = (Box((0,), (size,)),)
            entry = Entry(
                fqn=fqn,
                kind="object",
                artifact=artifact,
                role="other",
                dtype=OBJECT_DTYPE.code,
                block_elements=block_elements,
                requires_grad=False,
                pinned=False,
                shape=(size,),
                shards=1,
                path=paths.get(fqn),
                encoding=encoding,
            )
        planned.append(PlannedEntry(entry, boxes))
    return planned


def places(data: object) -> dict[str, Path]:
    """FQN to place in the state, as DCP's planner records it in its ``planner_data`` when it flattens a nested state.

    Raises:
        UnsupportedDataError: ``data`` is something else.
    """
    if data is None:
        return {}
    if not isinstance(data, Mapping) or not all(
        isinstance(path, tuple) and all(type(part) in (str, int) for part in path) for path in data.values()
    ):
        raise UnsupportedDataError(
            "the save planner recorded planner_data that is not a map of names to places in the state",
            hint="use DefaultSavePlanner, or a planner that leaves planner_data as that one makes it",
        )
    return dict(data)


def dcp_metadata(manifest: Manifest, storage_meta: StorageMeta | None) -> Metadata:
    """The ``Metadata`` that DCP plans a load with, rebuilt from a manifest.

    Raises:
        UnsupportedDataError: the installed torch lacks a dtype.
    """
    described: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
    for number, entry in enumerate(manifest.entries):
        if entry.kind == "object":
            described[entry.fqn] = BytesStorageMetadata()
            continue
        described[entry.fqn] = TensorStorageMetadata(
            properties=TensorProperties(
                dtype=to_torch_dtype(by_code(entry.dtype), where=entry.fqn),
                requires_grad=entry.requires_grad,
                pin_memory=entry.pinned,
            ),
            size=torch.Size(entry.shape),
            chunks=[
                ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes))
                for box in manifest.shard_boxes(number)
            ],
        )
    paths = {entry.fqn: entry.path for entry in manifest.entries if entry.path is not None}
    return Metadata(
        state_dict_metadata=described, planner_data=paths or None, storage_data={}, storage_meta=storage_meta
    )
