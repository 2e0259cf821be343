"""The nested state of a model as a flat map of names to tensors, which is all that safetensors holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from deltackpt.errors import UnsupportedDataError
from deltackpt.formats.safetensors_image import FlatTensor
from deltackpt.formats.torch_image import StoredTensors
from deltackpt.tensor.torch_bridge import from_torch_dtype

__all__ = ["flat_tensors", "flatten"]


def flatten(state: object) -> dict[str, torch.Tensor]:
    """Names, joined by dots, to tensors.

    Raises:
        UnsupportedDataError: something in the state is not a tensor, or two of its names are the same.
    """
    found: dict[str, torch.Tensor] = {}

    def walk(value: object, name: str) -> None:
        if isinstance(value, torch.Tensor):
            if name in found:
                raise UnsupportedDataError("two tensors have this name", where=name, hint="restore it as torch files")
            found[name] = value
            return
        members: Mapping[object, object]
        if isinstance(value, Mapping):
            members = value
        elif isinstance(value, list | tuple):
            members = dict(enumerate(value))
        else:
            raise UnsupportedDataError(
                f"a {type(value).__name__} among the model's tensors, which safetensors cannot hold",
                where=name,
                hint="restore it with the format torch",
            )
        for key, member in members.items():
            walk(member, f"{name}.{key}" if name else str(key))

    walk(state, "")
    return found


def flat_tensors(tensors: Mapping[str, torch.Tensor], stored: StoredTensors) -> dict[str, FlatTensor]:
    """The same tensors by where their bytes are.

    Raises:
        UnsupportedDataError: one has a dtype or strides that cannot be written.
    """
    return {
        name: FlatTensor(
            from_torch_dtype(tensor.dtype, where=name), tuple(tensor.shape), stored.pieces(tensor, fqn=name)
        )
        for name, tensor in tensors.items()
    }
