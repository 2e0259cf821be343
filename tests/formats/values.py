"""Values that trees hold, and what it means that two are the same. Shared by the tests of this folder."""

from __future__ import annotations

import io
import struct
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from deltackpt.tensor.dtypes import DTYPES, DType
from deltackpt.tensor.torch_bridge import tensor_bytes, tensor_from_bytes

TORCH_DTYPES = [d for d in DTYPES if hasattr(torch, d.name)]
ARRAY_DTYPES = [
    "|b1",
    "|i1",
    "<i4",
    ">i2",
    "<u8",
    "<f2",
    ">f8",
    "<c8",
    "|S3",
    "<U2",
    ">U1",
    "<M8[ns]",
    "<m8[25us]",
    "|V5",
]


def identical(one: object, other: object) -> bool:
    """Whether two values are equal in type and bits, all the way down; NaNs by payload, dicts by order."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and isinstance(other, float) and type(one) is float:
        return struct.pack(">d", one) == struct.pack(">d", other)
    if isinstance(one, complex) and isinstance(other, complex) and type(one) is complex:
        return identical(one.real, other.real) and identical(one.imag, other.imag)
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = (one.dtype, one.shape, one.requires_grad) == (other.dtype, other.shape, other.requires_grad)
        return same and np.array_equal(tensor_bytes(one), tensor_bytes(other))
    if isinstance(one, np.ndarray | np.generic) and isinstance(other, np.ndarray | np.generic):
        return one.dtype.str == other.dtype.str and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict) and isinstance(other, dict):
        attributes = isinstance(one, OrderedDict) and isinstance(other, OrderedDict)
        return identical(list(one.items()), list(other.items())) and (
            not attributes or identical(vars(one), vars(other))
        )
    if isinstance(one, set | frozenset) and isinstance(other, set | frozenset):
        return len(one) == len(other) and all(any(identical(a, b) for b in other) for a in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(identical, one, other))
    if isinstance(one, io.BytesIO) and isinstance(other, io.BytesIO):
        return (one.getvalue(), one.tell(), vars(one)) == (other.getvalue(), other.tell(), vars(other))
    return one == other


def a_tensor(dtype: DType, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """A tensor with random bits; bools are 0 or 1."""
    size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    bits = np.random.default_rng(seed).integers(0, 2 if dtype.name == "bool" else 256, size, dtype=np.uint8)
    return tensor_from_bytes(bits, dtype, shape)


def _array(descriptor: str, shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    dtype = np.dtype(descriptor)
    size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if dtype.kind in "bSU":
        # Ones and zeros are bools, characters of text, and ends of text.
        bits = np.random.default_rng(seed).integers(0, 2, size // (4 if dtype.kind == "U" else 1))
        data = bits.astype(dtype.str[0] + "u4" if dtype.kind == "U" else "u1").view(np.uint8)
    else:
        data = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    return data.view(dtype).reshape(shape)


_shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
_doubles = st.integers(0, 2**64 - 1).map(lambda bits: float(struct.unpack(">d", struct.pack(">Q", bits))[0]))
_texts = st.text(st.characters(categories=None), max_size=6)
_ints = st.integers() | st.integers(-(2**70), 2**70) | st.integers(2**4000, 2**4001)
_scalars = st.builds(
    lambda name, seed: _array(name, (), seed)[()], st.sampled_from(ARRAY_DTYPES[:-1]), st.integers(0, 99)
)

immutables: st.SearchStrategy[object] = st.recursive(
    st.none()
    | st.booleans()
    | _ints
    | st.floats()
    | _doubles
    | st.builds(complex, _doubles, _doubles)
    | _texts
    | st.binary(max_size=6)
    | st.builds(torch.Size, st.lists(st.integers(0, 2**40), max_size=3))
    | st.sampled_from(
        [torch.float32, torch.qint8, torch.device("cuda:1"), torch.device("cpu"), torch.sparse_csr, torch.channels_last]
    )
    | _scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)

tensors: st.SearchStrategy[torch.Tensor] = st.builds(
    a_tensor, st.sampled_from(TORCH_DTYPES), _shapes, st.integers(0, 99)
)


def _stream(data: bytes, position: int) -> io.BytesIO:
    stream = io.BytesIO(data)
    stream.seek(position)
    return stream


def _ordered(pairs: dict[object, object], attributes: dict[str, object]) -> OrderedDict[object, object]:
    value = OrderedDict(pairs)
    vars(value).update(attributes)
    return value


def _containers(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    dicts: st.SearchStrategy[dict[object, object]] = st.dictionaries(immutables, inner, max_size=3)
    return (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | dicts
        | st.builds(_ordered, dicts, st.just({}) | st.dictionaries(_texts, inner, max_size=2))
        | st.dictionaries(immutables, st.integers(-9, 9), max_size=3).map(Counter)
        | st.sets(immutables, max_size=3)
        | st.frozensets(immutables, max_size=3)
    )


values: st.SearchStrategy[object] = st.recursive(
    immutables
    | st.binary(max_size=6).map(bytearray)
    | st.builds(_stream, st.binary(max_size=6), st.integers(0, 9))
    | tensors
    | st.builds(
        lambda dtype, n: torch.nn.Parameter(torch.ones(n, dtype=dtype)), st.sampled_from([torch.float16]), st.just(2)
    )
    | st.builds(_array, st.sampled_from(ARRAY_DTYPES), _shapes, st.integers(0, 99)),
    _containers,
    max_leaves=8,
)
