"""Python values -> typed trees (``docs/format.md``, section 10), wherever that loses nothing."""

from __future__ import annotations

import io
import math
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deltackpt.formats.tree import INT_LIMIT, MAX_DEPTH, SURROGATE, array_dtype, is_constant, is_immutable
from deltackpt.formats.tree_json import Json, dump_json
from deltackpt.tensor.dtypes import DTYPES
from deltackpt.tensor.torch_bridge import tensor_bytes

__all__ = ["encode_tree"]

# A tuple or frozenset that occurs in several places is written again in each. Tuples of tuples that occur twice could
# then grow without bound: 2^n nodes out of n objects.
_MAX_REPEATED_NODES = 1 << 17

# Members of sets are encoded twice, once for their order: at the third set in sets that is 8 times.
_MAX_SET_LEVEL = 3

_CODES = {getattr(torch, d.name): d.code for d in DTYPES if hasattr(torch, d.name)}


def encode_tree(value: object) -> bytes | None:
    """The typed tree of a value, or None where a tree would lose something.

    Exact types count (a subclass is another type), and so does identity: no mutable object may occur twice, nor two
    tensors or arrays that share memory. Of tensors only dense, contiguous ones on the CPU are taken, without gradients,
    hooks, attributes or a graph behind them. A tensor that is a part of a larger storage is taken: the rest of that
    storage is no part of the value. Equal values give equal bytes in every process: members of sets are sorted.
    """
    encoder = _Encoder()
    try:
        tree = encoder.value(value, 0)
        encoder.check_memory()
    except _LossyError:
        return None
    text = dump_json(tree)
    return b"".join((struct.pack("<Q", len(text)), text, *encoder.chunks))


class _LossyError(Exception):
    """A tree cannot hold this value."""


class _Encoder:
    """One tree in the making.

    Args:
        set_level: how many sets the value is a member of, where only the order of members is wanted.

    Attributes:
        chunks: the binary data so far, in order.
    """

    def __init__(self, set_level: int = 0) -> None:
        self.chunks: list[bytes | memoryview] = []
        self._set_level = set_level
        self._length = 0
        self._mutable: set[int] = set()
        self._immutable: set[int] = set()
        self._repeating = False
        self._repeated_nodes = 0
        self._memory: list[tuple[int, int]] = []

    def value(self, value: object, depth: int) -> Json:
        """The JSON for one value at this depth; 0 is the root."""
        if depth >= MAX_DEPTH:
            raise _LossyError
        kind = type(value)
        if value is None or kind is bool:
            return value
        if self._repeating:
            self._repeated_nodes += 1
            if self._repeated_nodes > _MAX_REPEATED_NODES:
                raise _LossyError
        plain = _PLAIN.get(kind)
        if plain is not None:
            return plain(value)
        handler = _HANDLERS.get(kind)
        if handler is not None:
            return handler(self, value, depth)
        tag = is_constant(value)
        if tag is not None:
            return {tag: str(value)}
        if isinstance(value, np.generic):
            return self._scalar(value)
        raise _LossyError

    def check_memory(self) -> None:
        """Refuse trees in which two tensors or arrays share memory."""
        self._memory.sort()
        for (_, end), (start, _) in zip(self._memory, self._memory[1:], strict=False):
            if start < end:
                raise _LossyError

    def _once(self, value: object) -> None:
        if id(value) in self._mutable:
            raise _LossyError
        self._mutable.add(id(value))

    def _span(self, data: bytes | memoryview) -> list[int]:
        span = [self._length, len(data)]
        self.chunks.append(data)
        self._length += len(data)
        return span

    def _members(self, values: Iterable[object], depth: int) -> list[Json]:
        return [self.value(member, depth + 1) for member in values]

    def _list(self, value: list[object], depth: int) -> Json:
        self._once(value)
        return self._members(value, depth)

    def _tuple(self, value: tuple[object, ...], depth: int) -> Json:
        return {"tuple": self._repeatable(value, depth)}

    def _frozenset(self, value: frozenset[object], depth: int) -> Json:
        return {"frozenset": self._repeatable(value, depth)}

    def _repeatable(self, value: tuple[object, ...] | frozenset[object], depth: int) -> list[Json]:
        outermost_repeat = id(value) in self._immutable and not self._repeating
        self._immutable.add(id(value))
        self._repeating |= outermost_repeat
        members = self._sorted(value) if isinstance(value, frozenset) else value
        encoded = self._members(members, depth)
        if outermost_repeat:
            self._repeating = False
        return encoded

    def _set(self, value: set[object], depth: int) -> Json:
        self._once(value)
        return {"set": self._members(self._sorted(value), depth)}

    def _sorted(self, members: Iterable[object]) -> list[object]:
        """Members of a set in an order that does not depend on hashes, which differ from process to process."""
        if self._set_level >= _MAX_SET_LEVEL:
            raise _LossyError

        def key(member: object) -> tuple[bytes, bytes]:
            alone = _Encoder(self._set_level + 1)
            text = dump_json(alone.value(member, 0))
            return text, b"".join(alone.chunks)

        return sorted(members, key=key)

    def _dict(self, value: dict[object, object], depth: int) -> Json:
        self._once(value)
        return {"dict": self._pairs(value, depth)}

    def _ordered(self, value: OrderedDict[object, object], depth: int) -> Json:
        self._once(value)
        pairs = self._pairs(value, depth)
        attributes = vars(value)
        if not attributes:
            return {"odict": pairs}
        # What nn.Module.state_dict() gives: an OrderedDict with the attribute `_metadata`.
        return {"odict_attributes": [pairs, self.value(attributes, depth + 1)]}

    def _counter(self, value: Counter[object], depth: int) -> Json:
        self._once(value)
        if vars(value):
            raise _LossyError
        return {"counter": self._pairs(value, depth)}

    def _pairs(self, value: dict[Any, Any], depth: int) -> list[Json]:
        pairs = []
        for key, member in value.items():
            pairs.append([self.value(key, depth + 1), self.value(member, depth + 1)])
            if not is_immutable(key):
                raise _LossyError
        return pairs

    def _bytes(self, value: bytes, depth: int) -> Json:
        return {"bytes": self._span(value)}

    def _bytearray(self, value: bytearray, depth: int) -> Json:
        self._once(value)
        return {"bytearray": self._span(bytes(value))}

    def _stream(self, value: io.BytesIO, depth: int) -> Json:
        self._once(value)
        if value.closed or vars(value):
            raise _LossyError
        return {"stream": [self.value(value.getvalue(), depth + 1), value.tell()]}

    def _parameter(self, value: torch.nn.Parameter, depth: int) -> Json:
        return {"parameter": self._dense(value)}

    def _tensor(self, value: torch.Tensor, depth: int) -> Json:
        return {"tensor": self._dense(value)}

    def _dense(self, value: torch.Tensor) -> Json:
        self._once(value)
        if not _is_simple(value):
            raise _LossyError
        storage = value.untyped_storage()
        if storage.nbytes():
            self._memory.append((storage.data_ptr(), storage.data_ptr() + storage.nbytes()))
        return {
            "dtype": _CODES[value.dtype],
            "shape": list(value.shape),
            "requires_grad": value.requires_grad,
            "at": self._span(tensor_bytes(value).data),
        }

    def _array(self, value: NDArray[Any], depth: int) -> Json:
        self._once(value)
        dtype = array_dtype(value.dtype.str)
        if dtype is None or not _is_same_dtype(dtype, value.dtype) or not value.flags.c_contiguous:
            raise _LossyError
        if value.nbytes:
            start = value.__array_interface__["data"][0]
            self._memory.append((start, start + value.nbytes))
        return {"array": {"dtype": dtype.str, "shape": list(value.shape), "at": self._span(value.tobytes())}}

    def _scalar(self, value: np.generic) -> Json:
        array = np.asarray(value)
        dtype = array_dtype(array.dtype.str)
        if (
            dtype is None
            or dtype.kind == "V"
            or dtype.type is not type(value)
            or not _is_same_dtype(dtype, array.dtype)
        ):
            raise _LossyError
        if isinstance(value, np.str_ | np.bytes_) and len(value) != len(array[()]):
            # numpy cuts zeros off the end when an array gives back its text.
            raise _LossyError
        return {"scalar": {"dtype": dtype.str, "shape": [], "at": self._span(array.tobytes())}}


def _is_simple(tensor: torch.Tensor) -> bool:
    """Whether dtype, shape, elements and ``requires_grad`` are all that there is to know about a tensor."""
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.dtype in _CODES
        and not tensor.is_nested
        and tensor.is_contiguous()
        and not tensor.is_conj()
        and not tensor.is_neg()
        and not any(getattr(tensor, "names", ()))  # names were removed in torch 2.13
        and tensor.is_leaf
        and tensor.grad is None
        and not tensor._backward_hooks
        and not vars(tensor)
    )


def _is_same_dtype(rebuilt: np.dtype[Any], original: np.dtype[Any]) -> bool:
    return (
        rebuilt == original and rebuilt.type is original.type and original.metadata is None and original.names is None
    )


def _encode_int(value: int) -> Json:
    return value if -INT_LIMIT <= value < INT_LIMIT else {"int": f"{value:x}"}


def _encode_float(value: float) -> Json:
    return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}


def _encode_str(value: str) -> Json:
    return {"str": [ord(character) for character in value]} if SURROGATE.search(value) else value


_PLAIN: dict[type, Callable[[Any], Json]] = {
    int: _encode_int,
    float: _encode_float,
    str: _encode_str,
    complex: lambda value: {"complex": [_encode_float(value.real), _encode_float(value.imag)]},
    torch.Size: lambda value: {"size": list(value)},
}

_HANDLERS: dict[type, Callable[[_Encoder, Any, int], Json]] = {
    list: _Encoder._list,
    tuple: _Encoder._tuple,
    set: _Encoder._set,
    frozenset: _Encoder._frozenset,
    dict: _Encoder._dict,
    OrderedDict: _Encoder._ordered,
    Counter: _Encoder._counter,
    bytes: _Encoder._bytes,
    bytearray: _Encoder._bytearray,
    io.BytesIO: _Encoder._stream,
    torch.Tensor: _Encoder._tensor,
    torch.nn.Parameter: _Encoder._parameter,
    np.ndarray: _Encoder._array,
}
