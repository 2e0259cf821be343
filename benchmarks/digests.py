"""What a nested state was, kept as one short hash per leaf: enough to prove equality, too little to restore from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["differences", "digest_state"]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            # Integer keys show as [0], so that they differ from the strings that DCP makes of them.
            yield from _leaves(f"{path}.{key}" if isinstance(key, str) else f"{path}[{key!r}]", item)
    elif isinstance(value, (list, tuple)) and value:
        for number, item in enumerate(value):
            yield from _leaves(f"{path}{'[]' if isinstance(value, list) else '()'}{number}", item)
    else:
        yield path, value


def _digest(value: Any) -> str:
    if isinstance(value, Tensor):
        digest = hashlib.sha256(f"{value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()
    # repr of a float has all its digits; the type keeps 1, 1.0 and True apart.
    return hashlib.sha256(f"{type(value).__name__} {value!r}".encode()).hexdigest()


def digest_state(state: Mapping[str, Any]) -> dict[str, str]:
    """Path of each leaf in ``state`` to a hash of its type, shape and bytes (tensors), or type and value (all else)."""
    return {path.removeprefix("."): _digest(value) for path, value in _leaves("", state)}


def differences(kept: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """One line for each leaf that is missing, new or not the same; empty if all are equal."""
    lines = [f"{path}: missing" for path in kept if path not in found]
    lines += [f"{path}: was not there" for path in found if path not in kept]
    lines += [f"{path}: not the same" for path in kept if path in found and kept[path] != found[path]]
    return lines
