"""Four accelerators played by the CPU, for tests that ask for GPUs where they would do without one.

What names a CUDA device gets the CPU, and process groups are gloo's. What a test says of storage stays as it is.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.overrides import TorchFunctionMode
from torch.testing._internal import common_distributed

__all__ = ["install"]

_DEVICES = 4
_CPU = torch.device("cpu")


class _OnCPU(TorchFunctionMode):
    """Gives every function of torch the CPU where it was called with a GPU, as a number or by name."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if "device" in given:
            given["device"] = _cpu_for_gpu(given["device"])
        if func is torch.Tensor.to:
            args = (args[0], *(_cpu_for_gpu(arg) if isinstance(arg, str) else arg for arg in args[1:]))
        return func(*args, **given)


def _cpu_for_gpu(device: Any) -> Any:
    return _CPU if isinstance(device, int) or str(device).startswith("cuda") else device


def install() -> None:
    """Change torch in this process."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    _OnCPU().__enter__()  # type: ignore[no-untyped-call]
    _replace(common_distributed, "skip_if_lt_x_gpu", lambda original: _on_any_device)
    _replace(torch.cuda, "device_count", lambda original: lambda: _DEVICES)
    _replace(torch.accelerator, "device_count", lambda original: lambda: _DEVICES)
    _replace(torch.accelerator, "set_device_index", lambda original: lambda index: None)
    _replace(torch.Tensor, "cuda", lambda original: lambda tensor, *args, **kwargs: tensor)
    _replace(torch.nn.Module, "cuda", lambda original: lambda module, device=None: module)
    _replace(dist, "init_process_group", _over_gloo)
    _replace(dist, "barrier", _without_devices)
    _replace(DeviceMesh, "__init__", _mesh_of_cpus)
    _replace(FullyShardedDataParallel, "__init__", lambda original: functools.partialmethod(original, device_id=_CPU))
    # Imported after what it imports by name was replaced.
    from torch.testing._internal.distributed._tensor.common_dtensor import DTensorTestBase

    _replace(DTensorTestBase, "init_pg", _group_of_gloo)


def _replace(owner: Any, name: str, changed: Callable[[Any], Any]) -> None:
    setattr(owner, name, changed(getattr(owner, name)))


def _on_any_device(count: int, **unused: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return lambda function: function


def _over_gloo(original: Callable[..., None]) -> Callable[..., None]:
    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("device_id", None)
        return original("gloo", *args, **kwargs)

    return init_process_group


def _group_of_gloo(original: Callable[..., None]) -> Callable[..., None]:
    def init_pg(test: object, eager_init: bool, backend: str | None = None) -> None:
        original(test, eager_init, "gloo")

    return init_pg


def _without_devices(original: Callable[..., None]) -> Callable[..., None]:
    def barrier(*args: Any, device_ids: object = None, **kwargs: Any) -> None:
        original(*args, **kwargs)

    return barrier


def _mesh_of_cpus(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: DeviceMesh, device_type: str, *args: Any, **kwargs: Any) -> None:
        original(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    return init
