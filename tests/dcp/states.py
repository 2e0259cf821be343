"""What the tests of this folder share: stores, states, and saving and loading them in one process."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from deltackpt import StepInfo, Store
from deltackpt.backend.base import Backend
from deltackpt.backend.memory import MemoryBackend
from deltackpt.dcp import DeltaStorageReader, DeltaStorageWriter
from deltackpt.store.opened import create_store
from deltackpt.store.options import StoreOptions

State = dict[str, Any]


def new_store(backend: Backend | None = None, **options: Any) -> Store:
    """An empty store, in memory unless a backend is given; blocks are small, so that little tensors have several."""
    options.setdefault("block_elements", 64)
    return Store(
        create_store(MemoryBackend() if backend is None else backend, StoreOptions(**{"chain": "previous", **options}))
    )


def save_state(store: Store, step: int, state: Mapping[str, Any], **options: Any) -> StepInfo:
    """Save in this process alone."""
    save(dict(state), storage_writer=DeltaStorageWriter(store, step=step, **options), no_dist=True)
    return store.step(step, options.get("branch", "main")).info


def load_state(store: Store, step: int | str, state: State, **options: Any) -> State:
    """Load into ``state``, which is changed and returned."""
    load(state, storage_reader=DeltaStorageReader(store, step=step, **options), no_dist=True)
    return state


def blank(state: State) -> State:
    """The same nested state with other content: tensors of zeros, objects replaced by None."""
    return copy.deepcopy(_mapped(state, lambda _: None))


def _mapped(value: Any, replace: Callable[[Any], Any]) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.zeros(value.shape, dtype=torch.uint8).to(value.dtype) if _castable(value) else _zero_bits(value)
    if isinstance(value, Mapping):
        return {key: _mapped(member, replace) for key, member in value.items()}
    if isinstance(value, list) and any(isinstance(member, torch.Tensor | Mapping | list) for member in value):
        return [_mapped(member, replace) for member in value]
    return replace(value)


def _castable(tensor: torch.Tensor) -> bool:
    return str(tensor.dtype) not in ("torch.float4_e2m1fn_x2", "torch.float8_e8m0fnu")


def _zero_bits(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros(tensor.numel() * tensor.element_size(), dtype=torch.uint8).view(tensor.dtype).view(tensor.shape)


def pickled(value: Any) -> Any:
    """The value after a pickle, which is how DCP takes it from rank to rank."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - bytes made on this line


def bits(tensor: torch.Tensor) -> list[int]:
    """The bytes of a tensor, element by element in C order."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    found: list[int] = plain.view(torch.uint8).tolist()
    return found
