"""Tensors of imported files that are no entries by themselves: transposed, overlapping or reinterpreted ones."""

from __future__ import annotations

import torch

from deltackpt.errors import CorruptObjectError
from deltackpt.format.manifest import Manifest
from deltackpt.formats.recipe import View
from deltackpt.formats.recorded import read_infos, read_structure
from deltackpt.pipeline.load import load_bytes
from deltackpt.store.opened import OpenStore
from deltackpt.tensor.dtypes import by_code
from deltackpt.tensor.torch_bridge import to_torch_dtype

__all__ = ["load_view"]


def load_view(store: OpenStore, manifest: Manifest, name: str, *, threads: int) -> torch.Tensor | None:
    """A tensor that a file of the step has as a view of an entry, as a new contiguous one; None where there is none.

    Decodes the entry that it is a view of.

    Raises:
        CorruptObjectError, MissingObjectError: a part of the store is damaged or gone.
    """
    for info in read_infos(store, manifest, threads=threads):
        for view in read_structure(store, manifest, info, threads=threads).views:
            if view.name == name:
                return _load(store, manifest, view, threads)
    return None


def _load(store: OpenStore, manifest: Manifest, view: View, threads: int) -> torch.Tensor:
    dtype = by_code(view.dtype, where=view.name)
    data = load_bytes(store, manifest, view.fqn, threads=threads)
    elements = torch.from_numpy(data[: len(data) // dtype.itemsize * dtype.itemsize])
    typed = elements.view(to_torch_dtype(dtype, where=view.name))
    last = view.offset + sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
    if 0 not in view.shape and last >= typed.numel():
        raise CorruptObjectError(f"it reaches beyond {view.fqn}, of which it is a view", where=view.name)
    return typed.as_strided(view.shape, view.strides, view.offset).clone(memory_format=torch.contiguous_format)
