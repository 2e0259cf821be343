"""Typed trees -> Python values. The bytes may be anything: what is no tree is an error, and nothing is executed."""

from __future__ import annotations

import io
import math
import re
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Final, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from deltackpt.errors import CorruptObjectError, InvalidArgumentError, TruncatedObjectError
from deltackpt.formats.tree import HEADER_BYTES, HINT, INT_LIMIT, MAX_DEPTH, array_dtype, is_immutable, named_constant
from deltackpt.formats.tree_json import Json, parse_json
from deltackpt.tensor.dtypes import by_code
from deltackpt.tensor.torch_bridge import tensor_from_bytes

__all__ = ["decode_tree"]

_MAX_NDIM: Final = 64
_HEX_INT = re.compile("-?[1-9a-f][0-9a-f]*")
_HEX_FLOAT = re.compile("[0-9a-f]{16}")
_MAX_CODE_POINT: Final = 0x10FFFF


def decode_tree(data: bytes, source: str) -> object:
    """The value of a typed tree.

    Tensors and arrays own their memory. No more is allocated than a small multiple of ``len(data)``.

    Args:
        data: the tree.
        source: the name of the object, for errors.

    Raises:
        CorruptObjectError: the bytes are not a tree.
        UnknownVersionError: a tensor has a dtype that this version does not know.
        UnsupportedDataError: a tensor has a dtype that the installed torch does not have.
    """
    if len(data) < HEADER_BYTES:
        raise TruncatedObjectError("a typed tree is at least 8 bytes long", where=source, offset=len(data), hint=HINT)
    (length,) = struct.unpack_from("<Q", data)
    if length > len(data) - HEADER_BYTES:
        raise TruncatedObjectError(
            f"the tree's JSON should have {length} bytes, but only {len(data) - HEADER_BYTES} follow",
            where=source,
            offset=HEADER_BYTES,
            hint=HINT,
        )
    tree = parse_json(data[HEADER_BYTES : HEADER_BYTES + length], source)
    decoder = _Decoder(data, HEADER_BYTES + length, source)
    value = decoder.value(tree, 0)
    decoder.finish()
    return value


class _Decoder:
    """Builds the values of one tree; ``data[start:]`` is its binary data, which must be used up in order."""

    def __init__(self, data: bytes, start: int, source: str) -> None:
        self._binary = np.frombuffer(data, dtype=np.uint8)[start:]
        self._start = start
        self._used = 0
        self._source = source

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        offset = None if at is None else self._start + at
        raise CorruptObjectError(message, where=self._source, offset=offset, hint=HINT)

    def finish(self) -> None:
        """Check that nothing is left over."""
        if self._used != len(self._binary):
            self.fail(f"{len(self._binary) - self._used} bytes belong to no value of the tree", self._used)

    def value(self, node: Json, depth: int) -> object:
        """The value of one JSON value at this depth; 0 is the root."""
        if depth >= MAX_DEPTH:
            self.fail(f"the tree is nested deeper than {MAX_DEPTH} values")
        if isinstance(node, list):
            return [self.value(member, depth + 1) for member in node]
        if isinstance(node, dict):
            if len(node) != 1:
                self.fail(f"a tagged value has one member, not {len(node)}")
            ((tag, content),) = node.items()
            handler = _HANDLERS.get(tag)
            if handler is None:
                self.fail(f"unknown tag {tag[:40]!r}")
            return handler(self, content, depth)
        if type(node) is int and not -INT_LIMIT <= node < INT_LIMIT:
            self.fail("a JSON number does not fit in 64 bits")
        plain: object = node
        return plain

    def _items(self, content: Json, what: str) -> list[Json]:
        if not isinstance(content, list):
            self.fail(f"the content of {what} must be a list")
        return content

    def _text(self, content: Json, what: str) -> str:
        if not isinstance(content, str):
            self.fail(f"the content of {what} must be a string")
        return content

    def _numbers(self, content: Json, what: str) -> list[int]:
        numbers = self._items(content, what)
        if not all(type(number) is int and 0 <= number < INT_LIMIT for number in numbers):
            self.fail(f"{what} must consist of integers that are not negative")
        return numbers

    def _shape(self, content: Json) -> list[int]:
        shape = self._numbers(content, "a shape")
        if len(shape) > _MAX_NDIM:
            self.fail(f"a shape has at most {_MAX_NDIM} dimensions, not {len(shape)}")
        return shape

    def _members(self, content: Json, what: str, names: set[str]) -> dict[str, Json]:
        if not isinstance(content, dict) or content.keys() != names:
            self.fail(f"{what} must have exactly the members {', '.join(sorted(names))}")
        return content

    def _span(self, content: Json) -> NDArray[np.uint8]:
        span = self._numbers(content, "the place of binary data")
        if len(span) != 2:
            self.fail("the place of binary data is an offset and a length")
        offset, length = span
        if offset != self._used:
            self.fail(f"binary data should start at byte {self._used} of its section, not at {offset}", self._used)
        if length > len(self._binary) - offset:
            self.fail(f"{length} bytes of binary data should follow, but {len(self._binary) - offset} do", offset)
        self._used += length
        return self._binary[offset : offset + length]

    def _tuple(self, content: Json, depth: int) -> object:
        return tuple(self.value(member, depth + 1) for member in self._items(content, "a tuple"))

    def _unique(self, content: Json, depth: int) -> set[object]:
        members = [self.value(member, depth + 1) for member in self._items(content, "a set")]
        for member in members:
            self._check_key(member)
        found = set(members)
        if len(found) != len(members):
            self.fail("a set has a member twice")
        return found

    def _frozenset(self, content: Json, depth: int) -> object:
        return frozenset(self._unique(content, depth))

    def _pairs(self, content: Json, depth: int) -> list[tuple[object, object]]:
        pairs = []
        for pair in self._items(content, "a dict"):
            if not isinstance(pair, list) or len(pair) != 2:
                self.fail("a dict consists of pairs of key and value")
            key = self.value(pair[0], depth + 1)
            self._check_key(key)
            pairs.append((key, self.value(pair[1], depth + 1)))
        if len({key for key, _ in pairs}) != len(pairs):
            self.fail("a dict has a key twice")
        return pairs

    def _check_key(self, value: object) -> None:
        if not is_immutable(value):
            self.fail(f"a {type(value).__name__} cannot be a key of a dict or a member of a set")

    def _dict(self, content: Json, depth: int) -> object:
        return dict(self._pairs(content, depth))

    def _ordered(self, content: Json, depth: int) -> object:
        return OrderedDict(self._pairs(content, depth))

    def _ordered_attributes(self, content: Json, depth: int) -> object:
        parts = self._items(content, "an OrderedDict with attributes")
        if len(parts) != 2:
            self.fail("an OrderedDict with attributes has two parts")
        value = OrderedDict(self._pairs(parts[0], depth))
        attributes = self.value(parts[1], depth + 1)
        if type(attributes) is not dict or not all(type(name) is str for name in attributes):
            self.fail("the attributes of an OrderedDict must be a dict with strings as keys")
        vars(value).update(attributes)
        return value

    def _counter(self, content: Json, depth: int) -> object:
        counts: Any = self._pairs(content, depth)  # counts of any type: Counter does not check them either
        value: Counter[object] = Counter()
        dict.update(value, counts)
        return value

    def _int(self, content: Json, depth: int) -> object:
        text = self._text(content, "an int")
        if not _HEX_INT.fullmatch(text):
            self.fail("a long integer must be hexadecimal digits")
        return int(text, 16)

    def _float(self, content: Json, depth: int) -> object:
        text = self._text(content, "a float")
        if not _HEX_FLOAT.fullmatch(text):
            self.fail("a float that is not finite must be 16 hexadecimal digits")
        (number,) = struct.unpack(">d", bytes.fromhex(text))
        if math.isfinite(number):
            self.fail("a finite float must be a JSON number")
        return number

    def _str(self, content: Json, depth: int) -> object:
        points = self._numbers(content, "a string with surrogates")
        if max(points, default=0) > _MAX_CODE_POINT:
            self.fail(f"characters end at {_MAX_CODE_POINT}")
        return "".join(map(chr, points))

    def _complex(self, content: Json, depth: int) -> object:
        parts = [self.value(part, depth + 1) for part in self._items(content, "a complex number")]
        floats = [part for part in parts if isinstance(part, float)]
        if len(parts) != 2 or len(floats) != 2:
            self.fail("a complex number consists of two floats")
        return complex(*floats)

    def _bytes(self, content: Json, depth: int) -> object:
        return self._span(content).tobytes()

    def _bytearray(self, content: Json, depth: int) -> object:
        return bytearray(self._span(content))

    def _stream(self, content: Json, depth: int) -> object:
        parts = self._items(content, "a stream")
        if len(parts) != 2:
            self.fail("a stream consists of its bytes and a position")
        data = self.value(parts[0], depth + 1)
        (position,) = self._numbers(parts[1:], "a position")
        if type(data) is not bytes:
            self.fail("the content of a stream must be bytes")
        stream = io.BytesIO(data)
        stream.seek(position)
        return stream

    def _size(self, content: Json, depth: int) -> object:
        return torch.Size(self._numbers(content, "a torch.Size"))

    def _constant(self, tag: str, content: Json) -> object:
        name = self._text(content, f"a {tag}")
        found = named_constant(tag, name)
        if found is None:
            self.fail(f"torch has no {tag} {name[:40]!r}")
        return found

    def _tensor(self, content: Json, depth: int) -> torch.Tensor:
        tensor, requires_grad = self._dense(content, "a tensor")
        return tensor.requires_grad_(requires_grad) if requires_grad else tensor

    def _parameter(self, content: Json, depth: int) -> torch.nn.Parameter:
        return torch.nn.Parameter(*self._dense(content, "a parameter"))

    def _dense(self, content: Json, what: str) -> tuple[torch.Tensor, bool]:
        members = self._members(content, what, {"dtype", "shape", "requires_grad", "at"})
        code, requires_grad = members["dtype"], members["requires_grad"]
        if type(code) is not int or type(requires_grad) is not bool:
            self.fail(f"{what} has a number as its dtype and a boolean as requires_grad")
        dtype = by_code(code, where=self._source)
        at = self._used
        try:
            tensor = tensor_from_bytes(self._span(members["at"]), dtype, self._shape(members["shape"]))
        except InvalidArgumentError as exc:
            self.fail(exc.message, at)
        if requires_grad and not (tensor.is_floating_point() or tensor.is_complex()):
            self.fail(f"a tensor of dtype {dtype.name} cannot have gradients", at)
        return tensor, requires_grad

    def _array(self, content: Json, depth: int) -> object:
        members = self._members(content, "an array", {"dtype", "shape", "at"})
        descriptor = self._text(members["dtype"], "an array's dtype")
        dtype = array_dtype(descriptor)
        if dtype is None:
            self.fail(f"an array cannot have the dtype {descriptor[:40]!r}")
        shape = self._shape(members["shape"])
        at = self._used
        data = self._span(members["at"])
        if math.prod(shape) * dtype.itemsize != len(data):
            self.fail(f"an array of shape {shape} and dtype {descriptor} cannot have {len(data)} bytes", at)
        if dtype.kind == "U" and (data.view(dtype.str[0] + "u4") > _MAX_CODE_POINT).any():
            self.fail(f"characters end at {_MAX_CODE_POINT}", at)
        try:
            return data.copy().view(dtype).reshape(shape)
        except ValueError as exc:
            self.fail(f"an array of shape {shape} cannot be made: {exc}", at)

    def _scalar(self, content: Json, depth: int) -> object:
        array = self._array(content, depth)
        if not isinstance(array, np.ndarray) or array.ndim != 0 or array.dtype.kind == "V":
            self.fail("a scalar has the shape []")
        scalar: object = array[()]
        return scalar


_HANDLERS: dict[str, Callable[[_Decoder, Json, int], object]] = {
    "tuple": _Decoder._tuple,
    "set": _Decoder._unique,
    "frozenset": _Decoder._frozenset,
    "dict": _Decoder._dict,
    "odict": _Decoder._ordered,
    "odict_attributes": _Decoder._ordered_attributes,
    "counter": _Decoder._counter,
    "int": _Decoder._int,
    "float": _Decoder._float,
    "str": _Decoder._str,
    "complex": _Decoder._complex,
    "bytes": _Decoder._bytes,
    "bytearray": _Decoder._bytearray,
    "stream": _Decoder._stream,
    "size": _Decoder._size,
    "dtype": lambda decoder, content, _: decoder._constant("dtype", content),
    "device": lambda decoder, content, _: decoder._constant("device", content),
    "layout": lambda decoder, content, _: decoder._constant("layout", content),
    "memory_format": lambda decoder, content, _: decoder._constant("memory_format", content),
    "tensor": _Decoder._tensor,
    "parameter": _Decoder._parameter,
    "array": _Decoder._array,
    "scalar": _Decoder._scalar,
}
