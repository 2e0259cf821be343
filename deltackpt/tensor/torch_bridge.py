"""torch tensors <-> plain bytes. The only module of the lower layers that knows torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch._subclasses import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from deltackpt.errors import InvalidArgumentError, UnsupportedDataError
from deltackpt.tensor.dtypes import DTYPES, DType

__all__ = ["check_dense", "from_torch_dtype", "new_tensor", "tensor_bytes", "tensor_from_bytes", "to_torch_dtype"]

# An older torch lacks some of the dtypes; they cannot occur in its tensors.
_TO_TORCH: dict[DType, torch.dtype] = {d: getattr(torch, d.name) for d in DTYPES if hasattr(torch, d.name)}
_FROM_TORCH: dict[torch.dtype, DType] = {t: d for d, t in _TO_TORCH.items()}


def to_torch_dtype(dtype: DType, *, where: str | None = None) -> torch.dtype:
    """torch's dtype for ``dtype``.

    Args:
        where: the FQN or object that has this dtype, for the error.

    Raises:
        UnsupportedDataError: the installed torch has no such dtype.
    """
    found = _TO_TORCH.get(dtype)
    if found is None:
        raise UnsupportedDataError(
            f"torch {torch.__version__} has no dtype {dtype.name}", where=where, hint="install a newer torch"
        )
    return found


def from_torch_dtype(dtype: torch.dtype, *, where: str | None = None) -> DType:
    """The format's dtype for torch's.

    Raises:
        UnsupportedDataError: the format has no such dtype (quantized, sub-byte and opaque ``bits`` types).
    """
    found = _FROM_TORCH.get(dtype)
    if found is None:
        raise UnsupportedDataError(
            f"tensors of dtype {str(dtype).removeprefix('torch.')} cannot be stored",
            where=where,
            hint="save the integer values and their scales as separate tensors, or leave it out of the state",
        )
    return found


def tensor_bytes(tensor: torch.Tensor, *, fqn: str | None = None) -> NDArray[np.uint8]:
    """The elements of a dense tensor, in C order, as bytes.

    The result shares memory with ``tensor`` where that is a contiguous tensor on the CPU, and writing to it then writes
    to the tensor. Otherwise (other devices, strides, lazy conjugation or negation) it is a private copy. Bytes of a
    copied ``bool`` tensor are 0 or 1 even where the tensor's were not.

    Args:
        tensor: any dense tensor; ``requires_grad`` does not matter. Of a DTensor or another wrapper pass the local one.
        fqn: its name, for the error.

    Returns:
        A uint8 array of shape [number of elements * bytes of one].

    Raises:
        UnsupportedDataError: the tensor is sparse, nested, quantized, without data, a wrapper, or of an unknown dtype.
    """
    check_dense(tensor, fqn=fqn)
    plain = tensor.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg().cpu().contiguous()
    array: NDArray[np.uint8] = plain.reshape(-1).view(torch.uint8).numpy()
    return array


def check_dense(tensor: torch.Tensor, *, fqn: str | None = None) -> None:
    """Make sure that :func:`tensor_bytes` can take a tensor, or parts of it.

    Raises:
        UnsupportedDataError: as there.
    """
    problem = _why_not_dense(tensor)
    if problem is not None:
        raise UnsupportedDataError(
            f"{problem} cannot be stored", where=fqn, hint="make it a dense tensor, or leave it out of the state"
        )
    from_torch_dtype(tensor.dtype, where=fqn)


def _why_not_dense(tensor: torch.Tensor) -> str | None:
    """What kind of tensor without plain bytes this is, in words; None for a dense one."""
    wrapper: bool = is_traceable_wrapper_subclass(tensor)
    if wrapper or isinstance(tensor, FakeTensor):
        return f"a {type(tensor).__name__}, which only wraps other tensors,"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout is not torch.strided:
        return f"a tensor of layout {str(tensor.layout).removeprefix('torch.')}"
    if tensor.is_quantized:
        return f"a quantized tensor ({str(tensor.dtype).removeprefix('torch.')})"
    if tensor.device.type == "meta":
        return "a tensor on the meta device, which has no data,"
    return None


def new_tensor(
    dtype: DType, shape: Sequence[int], *, where: str | None = None
) -> tuple[torch.Tensor, NDArray[np.uint8]]:
    """A new CPU tensor and its bytes, to be filled by writing to them.

    Returns:
        The tensor, contiguous and not initialised, and the uint8 array of shape [its bytes] that shares its memory.

    Raises:
        UnsupportedDataError: the installed torch has no such dtype.
        InvalidArgumentError: the shape is negative somewhere, or larger than torch can address.
    """
    torch_dtype = to_torch_dtype(dtype, where=where)
    if min(shape, default=0) < 0:
        raise InvalidArgumentError(f"a tensor cannot have the shape {list(shape)}", where=where)
    try:
        # As bytes: with deterministic algorithms torch fills new memory, which it cannot for every dtype.
        flat = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8)
        tensor = flat.view(torch_dtype).reshape(tuple(shape))
    except (RuntimeError, OverflowError, TypeError) as exc:
        reason = str(exc).split("\n", 1)[0]
        raise InvalidArgumentError(f"torch cannot make a tensor of shape {list(shape)}: {reason}", where=where) from exc
    return tensor, tensor_bytes(tensor, fqn=where)


def tensor_from_bytes(
    data: NDArray[np.uint8], dtype: DType, shape: Sequence[int], *, where: str | None = None
) -> torch.Tensor:
    """A new CPU tensor with these bytes; it owns its memory.

    Args:
        data: shape [number of elements * bytes of one], in C order.

    Raises:
        InvalidArgumentError: the length of ``data`` is not what the shape and dtype need.
        UnsupportedDataError: the installed torch has no such dtype.
    """
    needed = math.prod(shape) * dtype.itemsize
    if data.ndim != 1 or data.size != needed:
        raise InvalidArgumentError(
            f"{dtype.name} of shape {list(shape)} needs {needed} bytes, not an array of shape {list(data.shape)}",
            where=where,
        )
    tensor, own = new_tensor(dtype, shape, where=where)
    own[:] = data
    return tensor
