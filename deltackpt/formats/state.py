"""Stored entries as torch tensors and Python values."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from types import EllipsisType
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from deltackpt.errors import InvalidArgumentError
from deltackpt.format.manifest import Entry, Manifest
from deltackpt.formats.objects import stored_to_object
from deltackpt.pipeline.load import load_wanted
from deltackpt.pipeline.plan_load import Wanted
from deltackpt.pipeline.shelf import Shelf
from deltackpt.pipeline.slots import element_view
from deltackpt.store.opened import OpenStore
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_code
from deltackpt.tensor.torch_bridge import new_tensor

__all__ = ["Index", "load_entries", "load_tensor", "object_target"]

Index: TypeAlias = "int | slice | EllipsisType | tuple[int | slice | EllipsisType, ...]"


def load_tensor(store: OpenStore, manifest: Manifest, fqn: str, index: Index | None, *, threads: int) -> torch.Tensor:
    """One tensor, or the part of it that an index takes; decodes only the blocks that the part touches.

    Raises:
        TensorNotFoundError: the step has no such entry.
        InvalidArgumentError: the entry is an object, or the index is not made of integers and slices of step 1.
    """
    entry = manifest.entries[manifest.find(fqn)]
    if entry.kind != "tensor":
        raise InvalidArgumentError("it is an object, not a tensor", where=fqn, hint="load() gives its value")
    box, shape = (Box.whole(entry.shape), entry.shape) if index is None else _read_index(index, entry)
    tensor, wanted = _target(entry, box)
    load_wanted(store, manifest, [wanted], threads=threads)
    return tensor.reshape(shape)


def load_entries(
    store: OpenStore,
    manifest: Manifest,
    entries: Sequence[Entry],
    *,
    trust_objects: bool,
    threads: int,
    shelf: Shelf | None = None,
) -> dict[str, object]:
    """FQN to tensor or value, for each of the entries.

    Args:
        shelf: where a walk over many steps keeps blocks.

    Raises:
        UntrustedObjectError: one of them is a pickle, and not ``trust_objects``.
    """
    # In the order of the entries, whatever is filled in first.
    values: dict[str, object] = dict.fromkeys(entry.fqn for entry in entries)
    objects = [(entry, *object_target(entry)) for entry in entries if entry.kind != "tensor"]
    load_wanted(store, manifest, [want for _, _, want in objects], threads=threads, shelf=shelf)
    for entry, data, _ in objects:
        values[entry.fqn] = stored_to_object(entry.encoding, data.tobytes(), trust_objects=trust_objects, fqn=entry.fqn)
    wanted = []
    for entry in entries:
        if entry.kind == "tensor":
            values[entry.fqn], want = _target(entry, Box.whole(entry.shape))
            wanted.append(want)
    load_wanted(store, manifest, wanted, threads=threads, shelf=shelf)
    return values


def object_target(entry: Entry) -> tuple[NDArray[np.uint8], Wanted]:
    """A new array for the bytes of an object, and the request that fills it. Many are loaded best with one call."""
    box = Box.whole(entry.shape)
    data = np.empty(box.numel, dtype=np.uint8)

    def write(place: Box, elements: NDArray[np.generic]) -> None:
        data[place.slices()] = elements

    return data, Wanted(entry.fqn, box, write)


def _target(entry: Entry, box: Box) -> tuple[torch.Tensor, Wanted]:
    """A new tensor for a box of an entry, and the request that fills it."""
    dtype = by_code(entry.dtype, where=entry.fqn)
    tensor, data = new_tensor(dtype, box.sizes, where=entry.fqn)
    target = element_view(data, dtype, box.sizes)

    def write(place: Box, elements: NDArray[np.generic]) -> None:
        target[place.relative_to(box).slices()] = elements

    return tensor, Wanted(entry.fqn, box, write)


def _read_index(index: Index, entry: Entry) -> tuple[Box, tuple[int, ...]]:
    """The box that an index means, and the shape of the result (integers drop their dimension)."""
    parts = list(index) if isinstance(index, tuple) else [index]
    ndim = len(entry.shape)
    dots = [n for n, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1 or len(parts) - len(dots) > ndim:
        raise InvalidArgumentError(f"{index!r} does not fit a tensor of shape {list(entry.shape)}", where=entry.fqn)
    at = dots[0] if dots else len(parts)
    fill = [slice(None)] * (ndim - len(parts) + len(dots))
    parts[at : at + len(dots)] = fill
    offsets, sizes, shape = [], [], []
    for part, length in zip(parts, entry.shape, strict=True):
        if isinstance(part, slice):
            start, stop, step = part.indices(length)
            if step != 1:
                raise InvalidArgumentError(f"a slice with step {step}; only steps of 1 are read", where=entry.fqn)
            size = max(0, stop - start)
            shape.append(size)
        else:
            start, size = _read_position(part, length, entry), 1
        offsets.append(min(start, length - size))
        sizes.append(size)
    return Box(tuple(offsets), tuple(sizes)), tuple(shape)


def _read_position(part: object, length: int, entry: Entry) -> int:
    if isinstance(part, bool) or not hasattr(part, "__index__"):
        raise InvalidArgumentError(
            f"{part!r} is not an index", where=entry.fqn, hint="use integers, slices with step 1, or ..."
        )
    position = operator.index(part)
    if not -length <= position < length:
        raise InvalidArgumentError(f"index {position} is out of range for {length} rows", where=entry.fqn)
    return position % length
