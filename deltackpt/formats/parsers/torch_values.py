"""The tensors in a value that ``torch.save`` pickled, whatever else is in it.

torch pickles a tensor as a call of ``torch._utils._rebuild_tensor_v2`` or a relative of it, with its storage, offset,
shape and strides; a storage is a persistent id ``("storage", class, key, location, number of elements)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from deltackpt.errors import DamagedFileError, UnsafeFileError
from deltackpt.formats.parsers.found import FoundTensor, Storage
from deltackpt.formats.parsers.pickles import Call, Global, Pairs, Persistent, Value
from deltackpt.tensor.dtypes import DTYPES, DType

__all__ = ["PlaceOf", "SavedValue", "StoredStorage", "as_tensor", "find_tensors", "is_rebuild", "storages_of"]

_MAX_VISITS: Final = 8_000_000
_MAX_DEPTH: Final = 200
_MAX_NDIM: Final = 64
_MAX_NUMBER: Final = (1 << 62) - 1

_BY_TORCH_NAME: Final = {dtype.name: dtype for dtype in DTYPES}
_STORAGES: Final = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
_QUANTIZED: Final = {
    "QInt8Storage": 1,
    "QUInt8Storage": 1,
    "QInt32Storage": 4,
    "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1,
}
# The position of (storage, offset, shape, strides) and of an explicit dtype among the arguments.
_REBUILDS: Final = {"_rebuild_tensor": None, "_rebuild_tensor_v2": None, "_rebuild_tensor_v3": 6}

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class StoredStorage:
    """A storage as a pickle names it.

    Attributes:
        key: its name in the file.
        dtype: of its elements; None for one that cannot be stored as a tensor (quantized types).
        itemsize: bytes of one element; None where the type is unknown.
        numel: how many elements the pickle says it has; for an untyped storage, bytes.
    """

    key: str
    dtype: DType | None
    itemsize: int | None
    numel: int


PlaceOf = Callable[[StoredStorage], "Storage | None"]
"""Where in the file a storage lies; None if it is not there as plain bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class SavedValue:
    """What a file of ``torch.save`` holds.

    Attributes:
        value: as the pickle says, nothing of it called.
        place_of: where its storages lie.
    """

    value: Value
    place_of: PlaceOf


def storages_of(value: Value, where: str) -> dict[str, StoredStorage]:
    """Every storage that a value refers to, by key, in the order of the value."""
    found: dict[str, StoredStorage] = {}
    for _, node in _walk(value, lambda _: False, where):
        storage = _as_storage(node)
        if storage is not None:
            found.setdefault(storage.key, storage)
    return found


def find_tensors(value: Value, place_of: PlaceOf, where: str) -> list[FoundTensor]:
    """Every tensor in a value, in its order. One that cannot be stored as a tensor is left out.

    Args:
        place_of: where in the file a storage lies.
        where: the file, for errors.

    Raises:
        DamagedFileError: a tensor reaches beyond its storage, or its shape makes no sense.
        UnsafeFileError: the value refers to itself so often that nobody could walk through it.
    """
    found = []
    for place, node in _walk(value, is_rebuild, where):
        if is_rebuild(node):
            tensor = as_tensor(place, node, place_of, where)
            if tensor is not None:
                found.append(tensor)
    return found


def _walk(value: Value, is_leaf: Callable[[Value], bool], where: str) -> Iterator[tuple[Place, Value]]:
    """Every node of a value with its place, depth first. Containers are entered once, however often they occur.

    Leaves are given every time, so that a tensor that occurs under two names is found under both.
    """
    entered: set[int] = set()
    todo: list[tuple[Place, Value]] = [((), value)]
    visits = 0
    while todo:
        place, node = todo.pop()
        visits += 1
        if visits > _MAX_VISITS or len(place) > _MAX_DEPTH:
            raise UnsafeFileError("its pickle holds a value that is too large or too deep to walk through", where=where)
        yield place, node
        if is_leaf(node) or not isinstance(node, (list, tuple, Pairs, Call, Persistent)) or id(node) in entered:
            continue
        entered.add(id(node))
        todo.extend(reversed(list(_children(place, node))))


def _children(place: Place, node: Value) -> Iterator[tuple[Place, Value]]:
    if isinstance(node, (list, tuple)):
        for position, member in enumerate(node):
            yield (*place, position), member
    elif isinstance(node, Pairs):
        for key, member in node.items:
            yield (*place, _key(key)), member
    elif isinstance(node, Call):
        # An object's own name says nothing of what it holds: a Parameter is its tensor, an OrderedDict its items.
        args = node.args if isinstance(node.args, (list, tuple)) else (node.args,)
        for argument in args:
            yield place, argument
        yield place, node.state
        for key, member in node.pairs:
            yield (*place, _key(key)), member
        for position, member in enumerate(node.members):
            yield (*place, position), member
    elif isinstance(node, Persistent):
        yield place, node.id


def _key(key: Value) -> str:
    return key if isinstance(key, str) else str(key) if isinstance(key, (int, float, bool, type(None))) else "?"


def is_rebuild(node: Value) -> bool:
    """Whether a call makes a tensor of a storage."""
    return (
        isinstance(node, Call)
        and isinstance(node.function, Global)
        and node.function.module == "torch._utils"
        and node.function.name in _REBUILDS
    )


def _as_storage(node: Value) -> StoredStorage | None:
    identity = node.id if isinstance(node, Persistent) else None
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] not in ("storage", b"storage"):
        return None
    kind, key, _, numel = identity[1:5]
    if not isinstance(kind, Global) or not isinstance(key, (str, int)) or not _is_count(numel):
        return None
    name = _STORAGES.get(kind.name)
    if name is None:
        return StoredStorage(str(key), None, _QUANTIZED.get(kind.name), numel)
    dtype = _BY_TORCH_NAME[name]
    return StoredStorage(str(key), dtype, dtype.itemsize, numel)


def _is_count(value: Value) -> bool:
    return type(value) is int and 0 <= value <= _MAX_NUMBER


def as_tensor(place: Place, node: Call, place_of: PlaceOf, where: str) -> FoundTensor | None:
    """The tensor that a call makes; None where it cannot be stored as one.

    Raises:
        DamagedFileError: it reaches beyond its storage, or its shape makes no sense.
    """

    def fail(message: str) -> NoReturn:
        name = ".".join(str(part) for part in place)
        raise DamagedFileError(f"tensor {name[:200]!r}: {message}", where=where)

    args: Sequence[Value] = node.args if isinstance(node.args, (list, tuple)) else ()
    if len(args) < 4:
        fail("it is described by too little")
    storage = _as_storage(args[0])
    offset, shape, strides = args[1:4]
    if storage is None:
        return None
    if (
        not _is_count(offset)
        or not _are_counts(shape)
        or not _are_counts(strides)
        or not len(shape) == len(strides) <= _MAX_NDIM
    ):
        fail("its shape or strides make no sense")
    dtype = _dtype(node, args, storage)
    lies_at = place_of(storage)
    if dtype is None or lies_at is None:
        return None
    found = FoundTensor(place, dtype, lies_at, offset, tuple(shape), tuple(strides))
    if found.numel and (offset + found.span) * dtype.itemsize > lies_at.length:
        fail("it reaches beyond its storage")
    return found


def _are_counts(values: Value) -> bool:
    return isinstance(values, (list, tuple)) and all(map(_is_count, values))


def _dtype(node: Call, args: Sequence[Value], storage: StoredStorage) -> DType | None:
    position = _REBUILDS[node.function.name]
    if position is None:
        return storage.dtype
    named = args[position] if len(args) > position else None
    return _BY_TORCH_NAME.get(named.name) if isinstance(named, Global) and named.module == "torch" else None
