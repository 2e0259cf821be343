"""Does a state survive a save and a load exactly? An assertion for the tests of those who save one."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.tensor import DTensor

from deltackpt.api import Store
from deltackpt.dcp import DeltaStorageReader, DeltaStorageWriter
from deltackpt.errors import InvalidArgumentError
from deltackpt.formats.tree_encode import encode_tree
from deltackpt.tensor.torch_bridge import check_dense, tensor_bytes

__all__ = ["assert_round_trip"]

_SHOWN = 10


def assert_round_trip(
    state: Mapping[str, Any], *, store: Store | str | os.PathLike[str] | None = None, trust_objects: bool = False
) -> None:
    """Assert that DCP gives this state back from a store: tensors bit for bit, objects equal in type and value.

    The state is saved three times: alone; with some bits changed; and as a delta on that. The first and the last are
    loaded into targets of other content and compared. It takes memory for three copies of the state.

    What DCP itself does not keep is compared as DCP has it: keys of dicts are strings, dicts have no subclass, a
    Parameter is a tensor.

    Args:
        state: as for ``dcp.save``. Of several ranks, each passes its own; it may have DTensors.
        store: a new store for it, the same on all ranks. Without it, one in memory, which serves one process.
        trust_objects: whether objects that only a pickle can hold may be loaded.

    Raises:
        AssertionError: something came back changed; names the first entries.
        InvalidArgumentError: several ranks without a store, or a store that has steps.
        UnsupportedDataError, UntrustedObjectError: as from the save and the load.

    Example:
        >>> import torch
        >>> from deltackpt.testing import assert_round_trip
        >>> model = torch.nn.Linear(4, 4)
        >>> assert_round_trip({"model": model.state_dict(), "step": 3})
    """
    opened = _open(store)
    saved = {name: value.state_dict() if isinstance(value, Stateful) else value for name, value in state.items()}
    saved, _ = flatten_state_dict(saved)
    for branch, step, content in (("alone", 0, saved), ("main", 0, _each(saved, _nudged)), ("main", 1, saved)):
        _quietly(lambda: save(dict(content), storage_writer=DeltaStorageWriter(opened, step, branch=branch)))  # noqa: B023
    for branch, step in (("alone", 0), ("main", 1)):
        target = _each(saved, _spoiled)
        reader = DeltaStorageReader(opened, step, branch=branch, trust_objects=trust_objects)
        _quietly(lambda: load(target, storage_reader=reader))  # noqa: B023
        wrong = [f"{name}: {why}" for name, value in saved.items() if (why := _difference(value, target[name]))]
        if wrong:
            more = f"\n  and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            listed = "\n  ".join(wrong[:_SHOWN])
            raise AssertionError(f"{len(wrong)} of {len(saved)} entries did not survive:\n  {listed}{more}")


def _open(store: Store | str | os.PathLike[str] | None) -> Store:
    if store is None:
        if dist.is_initialized() and dist.get_world_size() > 1:
            raise InvalidArgumentError(
                "a store in memory serves one process only", hint="pass the URL of a new store on disk, on all ranks"
            )
        return Store.create(f"memory://round-trip-{uuid.uuid4().hex}")
    opened = store if isinstance(store, Store) else Store.open(store)
    if opened.branches():
        raise InvalidArgumentError("the store for a round trip has steps", where=opened.url, hint="pass an empty one")
    return opened


def _quietly(call: Callable[[], object]) -> None:
    """Without DCP's warning that there is no process group."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        call()


def _each(state: Mapping[str, Any], change: Callable[[torch.Tensor], None]) -> dict[str, Any]:
    """A copy in which all tensors are changed and all objects are None."""
    changed: dict[str, Any] = {}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            changed[name] = None
            continue
        copy = value.detach().clone()
        change(_local(copy, name))
        changed[name] = copy
    return changed


def _local(tensor: torch.Tensor, name: str) -> torch.Tensor:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    check_dense(local, fqn=name)
    return local


def _words(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, to be changed."""
    return tensor.resolve_conj().resolve_neg().reshape(-1).view(torch.uint8)


def _spoiled(tensor: torch.Tensor) -> None:
    """Turn all bits round, so that what is not loaded shows; bools stay bools."""
    if tensor.dtype == torch.bool:
        tensor.logical_not_()
    elif tensor.numel():
        flipped = _words(tensor).bitwise_not().view(tensor.dtype).reshape(tensor.shape)
        tensor.copy_(flipped)


def _nudged(tensor: torch.Tensor) -> None:
    """Change a bit of every eighth byte, as a step of training changes a few."""
    if tensor.dtype == torch.bool:
        return
    if tensor.numel():
        data = _words(tensor).clone()
        data[::8] ^= 1
        tensor.copy_(data.view(tensor.dtype).reshape(tensor.shape))


def _difference(expected: Any, found: Any) -> str:
    """In words how one entry differs; empty where it does not."""
    if isinstance(expected, torch.Tensor):
        if not isinstance(found, torch.Tensor):
            return f"a tensor came back as {type(found).__name__}"
        before, after = _local(expected.detach(), ""), _local(found.detach(), "")
        if before.dtype != after.dtype or before.shape != after.shape:
            return f"{before.dtype} of shape {list(before.shape)} came back as {after.dtype} of {list(after.shape)}"
        changed = int((tensor_bytes(before) != tensor_bytes(after)).sum())
        return f"{changed} of {before.nbytes} bytes differ" if changed else ""
    if type(expected) is not type(found):
        return f"{type(expected).__name__} came back as {type(found).__name__}"
    trees = encode_tree(expected), encode_tree(found)
    same = trees[0] == trees[1] if None not in trees else bool(expected == found)
    return "" if same else f"{expected!r} came back as {found!r}"
