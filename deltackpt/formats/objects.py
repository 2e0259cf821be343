"""DCP's byte objects -> what the store keeps, and back. Nothing is unpickled freely unless the caller asks for it."""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from deltackpt.errors import UnknownVersionError, UnsupportedDataError, UntrustedObjectError
from deltackpt.formats.tree_decode import decode_tree
from deltackpt.formats.tree_encode import encode_tree

__all__ = ["TORCH", "TREE", "check_trust", "object_to_stored", "stored_to_object", "stored_to_torch_bytes"]

TREE: Final = "tree"
"""The encoding of typed trees."""

TORCH: Final = "torch"
"""The encoding of what ``torch.save`` wrote."""

_ZIP_MAGIC = b"PK\x03\x04"

_Global = Callable[..., Any] | tuple[Callable[..., Any], str]

# torch.serialization.safe_globals changes a list that the whole process shares.
_safe_globals_lock = threading.Lock()


def object_to_stored(data: bytes) -> tuple[str, bytes]:
    """What to store for a byte object of DCP.

    Args:
        data: all of the stream that the save planner gave, as a rule what ``torch.save`` wrote.

    Returns:
        The encoding and the bytes: a typed tree where that holds the same value, else ``data`` as it is.
    """
    if not data.startswith(_ZIP_MAGIC):
        return TORCH, data
    try:
        value, locations = _load_restricted(data)
    except Exception:  # whatever the reason is, these bytes can be kept only as they are
        return TORCH, data
    if locations - {"cpu"}:
        # A tree's tensors are on the CPU.
        return TORCH, data
    tree = encode_tree(value)
    return (TORCH, data) if tree is None else (TREE, tree)


def stored_to_object(encoding: str, data: bytes, *, trust_objects: bool, fqn: str) -> object:
    """The value of a stored object. Tensors are on the CPU.

    Args:
        encoding: what the manifest says ``data`` is.
        trust_objects: whether ``data`` may be unpickled, which lets it run any code.
        fqn: the object's name, for errors.

    Raises:
        UntrustedObjectError: it is a pickle, and not ``trust_objects``.
        CorruptObjectError: it is no tree.
        UnknownVersionError: the encoding is unknown.
        UnsupportedDataError: this process cannot unpickle it.
    """
    check_trust(encoding, trust_objects=trust_objects, fqn=fqn)
    if encoding == TREE:
        return decode_tree(data, fqn)
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
    except Exception as exc:  # a pickle can raise anything
        raise UnsupportedDataError(
            f"the object cannot be unpickled here: {type(exc).__name__}: {exc}",
            where=fqn,
            hint="import the modules that define its classes first, in the versions it was saved with",
        ) from exc


def stored_to_torch_bytes(encoding: str, data: bytes, *, trust_objects: bool, fqn: str) -> io.BytesIO:
    """A stored object as a stream for DCP's ``load_bytes``, which unpickles it freely. Positioned at 0.

    For a tree that is what ``torch.save`` writes for its value, so nothing in the store chooses what runs.

    Raises:
        UntrustedObjectError: it is a pickle, and not ``trust_objects``.
        CorruptObjectError: it is no tree.
        UnknownVersionError: the encoding is unknown.
    """
    check_trust(encoding, trust_objects=trust_objects, fqn=fqn)
    if encoding != TREE:
        return io.BytesIO(data)
    stream = io.BytesIO()
    torch.save(decode_tree(data, fqn), stream)
    stream.seek(0)
    return stream


def check_trust(encoding: str, *, trust_objects: bool, fqn: str) -> None:
    """Make sure that an object of this encoding may be loaded.

    Raises:
        UntrustedObjectError: it is a pickle, and not ``trust_objects``.
        UnknownVersionError: the encoding is unknown.
    """
    if encoding == TREE:
        return
    if encoding != TORCH:
        raise UnknownVersionError(
            f"unknown encoding {encoding!r} of an object", where=fqn, hint="was it written by a newer deltackpt?"
        )
    if not trust_objects:
        raise UntrustedObjectError(
            "this object is a pickle, and loading it runs code that its file chooses",
            where=fqn,
            hint="if you trust whoever wrote this store, load with trust_objects=True; otherwise leave this name out",
        )


def _load_restricted(data: bytes) -> tuple[object, set[str]]:
    """The value, by torch's restricted unpickler with plain numpy allowed, and the devices its tensors were on."""
    locations: set[str] = set()

    def stay(storage: Any, location: str) -> Any:
        locations.add(location)
        return storage

    def load() -> object:
        return torch.load(io.BytesIO(data), map_location=stay, weights_only=True)

    try:
        return load(), locations
    except pickle.UnpicklingError:
        needed = set(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data)))
        if not needed or not needed <= _ALLOWED.keys():
            raise
    with _safe_globals_lock:
        # Leaving the context takes out what it put in; what the user had allowed before must stay.
        mine = [entry for entry in _ALLOWED.values() if entry not in torch.serialization.get_safe_globals()]
        with torch.serialization.safe_globals(mine):
            return load(), locations


def _allowed_globals() -> dict[str, _Global]:
    """What pickles of numpy values, empty bytes, frozensets and streams name; it does no more than to build them."""
    reconstruct, scalar = np.empty(0).__reduce__()[0], np.float32(0).__reduce__()[0]
    assert callable(reconstruct)
    assert callable(scalar)
    allowed: dict[str, Callable[..., Any]] = {
        "builtins.bytes": bytes,
        "builtins.frozenset": frozenset,
        "_io.BytesIO": io.BytesIO,
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
    }
    # numpy 2 renamed its modules; a state that was saved under the other name is met after an upgrade.
    for package in ("numpy.core", "numpy._core"):
        allowed[f"{package}.multiarray._reconstruct"] = reconstruct
        allowed[f"{package}.multiarray.scalar"] = scalar
    # The class of a dtype is looked up when its state is set.
    for kind in {type(np.dtype(code)) for code in "?bBhHiIlLqQefdFDmMSUV"}:
        allowed[f"{kind.__module__}.{kind.__qualname__}"] = kind
    return {name: (what, name) for name, what in allowed.items()}


_ALLOWED = _allowed_globals()
