"""What encoder and decoder of typed trees (``docs/format.md``, section 10) share: limits, and what may stand where."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import torch

__all__ = [
    "HEADER_BYTES",
    "HINT",
    "INT_LIMIT",
    "MAX_DEPTH",
    "SURROGATE",
    "array_dtype",
    "is_constant",
    "is_immutable",
    "named_constant",
]

HEADER_BYTES: Final = 8
"""The length J of the JSON, a u64, is all that comes before it."""

HINT: Final = "run `deltackpt verify --deep` on the store, and load another step"
"""What to do about bytes that are no tree."""

MAX_DEPTH: Final = 64
"""How deep values may be nested. States are rarely deeper than 10; this keeps recursion far from Python's limit."""

INT_LIMIT: Final = 1 << 63
"""JSON numbers hold integers in ``[-INT_LIMIT, INT_LIMIT)``, which every reader has; others are written in hex."""

SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""Half a UTF-16 pair: legal in a Python string, but not in UTF-8 nor, on its own, in JSON."""

_ARRAY_DTYPE = re.compile(r"[<>|][biufcmMSUV][0-9]{1,10}(\[[0-9]{0,18}[a-zA-Z]{1,2}\])?|[<>][mM]8")
_ARRAY_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16), "m": (8,), "M": (8,)}
_CONSTANT_TYPES = {
    "dtype": torch.dtype,
    "device": torch.device,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}
_LEAF_TYPES = (type(None), bool, int, float, complex, str, bytes, *_CONSTANT_TYPES.values())


def is_constant(value: object) -> str | None:
    """The tag for torch's dtypes, devices, layouts and memory formats; None for other values."""
    return next((tag for tag, kind in _CONSTANT_TYPES.items() if type(value) is kind), None)


def named_constant(tag: str, name: str) -> object | None:
    """The dtype, device, layout or memory format that ``str()`` names so; None where torch has none."""
    if tag == "device":
        try:
            found: object = torch.device(name)
        except (RuntimeError, ValueError):
            return None
    else:
        prefix, _, attribute = name.partition(".")
        if prefix != "torch" or not re.fullmatch("[a-z][a-z0-9_]*", attribute):
            return None
        found = getattr(torch, attribute, None)
    return found if type(found) is _CONSTANT_TYPES[tag] and str(found) == name else None


def is_immutable(value: object) -> bool:
    """Whether a value of a tree may be a key or a member of a set: hashed by value, nothing in it can change."""
    if type(value) in (tuple, frozenset, torch.Size):
        return all(is_immutable(member) for member in value)  # type: ignore[attr-defined]
    return type(value) in _LEAF_TYPES or isinstance(value, np.generic)


def array_dtype(descriptor: str) -> np.dtype[np.generic] | None:
    """The numpy dtype with this descriptor; None unless its elements are bytes of the same meaning on every machine.

    Not among those are objects, structures and ``longdouble``, nor types without size.
    """
    if not _ARRAY_DTYPE.fullmatch(descriptor):
        return None
    try:
        dtype = np.dtype(descriptor)
    except (TypeError, ValueError):
        return None
    if (
        dtype.itemsize == 0
        or dtype.str != descriptor
        or dtype.itemsize not in _ARRAY_SIZES.get(dtype.kind, (dtype.itemsize,))
    ):
        return None
    return dtype
