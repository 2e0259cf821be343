"""Values that imported files of ``torch.save`` hold, from the store: plain ones and tensors, without unpickling.

The pickle is read by ``parsers/pickles.py``; what it would call is not called, but what a few well known names mean is
known here. Anything else is an error with its name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Final, NoReturn

import torch

from deltackpt.errors import CorruptObjectError, DamagedFileError, UnsupportedDataError
from deltackpt.formats.image import FileImage
from deltackpt.formats.image_file import ImageFile
from deltackpt.formats.parsers.found import FoundTensor, Storage
from deltackpt.formats.parsers.pickles import Call, Global, Pairs, Value
from deltackpt.formats.parsers.recognise import read_saved
from deltackpt.formats.parsers.source import Readable
from deltackpt.formats.parsers.torch_values import SavedValue, as_tensor, is_rebuild
from deltackpt.formats.source import StepSource
from deltackpt.formats.torch_image import StoredTensors
from deltackpt.tensor.dtypes import by_name
from deltackpt.tensor.torch_bridge import to_torch_dtype

__all__ = ["ImageReadable", "Rebuild", "build_value", "read_value", "saved_value"]

_MAX_DEPTH: Final = 200
_LEAVES: Final = (type(None), bool, int, float, str, bytes)
_HINT: Final = "restore the step with the format original, or another artifact with only="

Rebuild = Callable[["Call", Callable[[Value], object]], object]
"""Gives what a call would give, or None; the second argument gives the value of a part of it."""


class ImageReadable:
    """A file of a step, for parsers: only what they read is decoded."""

    def __init__(self, source: StepSource, image: FileImage) -> None:
        self._file = ImageFile(source, image)

    @property
    def path(self) -> Path:
        return Path(self._file.name)

    @property
    def size(self) -> int:
        return self._file.size

    def bytes(self, start: int, length: int) -> bytes:
        """Bytes ``[start, start + length)``.

        Raises:
            DamagedFileError: the file ends before that.
        """
        if start < 0 or length < 0 or start + length > self.size:
            raise DamagedFileError(
                f"bytes {start} to {start + length} of a file of {self.size} bytes", where=str(self.path)
            )
        self._file.seek(start)
        data = bytearray(length)
        self._file.readinto(data)
        return bytes(data)


def saved_value(
    source: StepSource,
    image: FileImage,
    stored: StoredTensors,
    rebuild: Rebuild | None = None,
    *,
    wanted: Callable[[object], bool] | None = None,
) -> object:
    """What ``torch.load`` of an imported file would give; tensors stand for stored ones.

    Numbers, texts, bytes, lists, tuples, sets, dicts, ``OrderedDict``, tensors, and torch's dtypes, sizes and devices.

    Args:
        rebuild: knows more calls.
        wanted: which keys of the outermost dict are wanted; the others are left out, and may hold anything.

    Raises:
        UnsupportedDataError: it holds something else, which is named.
        CorruptObjectError: the store gives another file than was imported.
    """
    return read_value(ImageReadable(source, image), image, stored, rebuild, wanted=wanted)


def read_value(
    file: Readable,
    image: FileImage,
    stored: StoredTensors,
    rebuild: Rebuild | None = None,
    *,
    wanted: Callable[[object], bool] | None = None,
    at: int = 0,
) -> object:
    """The same of a part of a file that begins at byte ``at``."""
    try:
        saved = read_saved(file)
        if isinstance(saved, str):
            raise UnsupportedDataError(f"its values cannot be read: {saved}", where=image.path, hint=_HINT)
        value = saved.value
        if wanted is not None and isinstance(value, Pairs):
            value = Pairs([(key, member) for key, member in value.items if type(key) in _LEAVES and wanted(key)])
        return _Builder(saved, image, stored, rebuild, at).value(value, ())
    except UnsupportedDataError:
        raise
    except DamagedFileError as error:
        # Its bytes were sound when they were imported.
        raise CorruptObjectError(error.message, where=image.path, hint="run `deltackpt verify --deep`") from error


def build_value(
    saved: SavedValue, image: FileImage, stored: StoredTensors, node: Value, place: tuple[object, ...]
) -> object:
    """What a part of a file's value would be.

    Args:
        place: of the part, for errors.

    Raises:
        UnsupportedDataError: it holds what is not plain data, which is named.
    """
    return _Builder(saved, image, stored, None, 0).value(node, place)


class _Builder:
    """Values from what a pickle says of them. What occurs twice is built once, so that shared parts stay shared."""

    def __init__(
        self, saved: SavedValue, image: FileImage, stored: StoredTensors, rebuild: Rebuild | None, at: int
    ) -> None:
        self._saved = saved
        self._image = image
        self._stored = stored
        self._rebuild = rebuild
        self._at = at
        self._known: dict[int, object] = {}
        self._open: set[int] = set()
        self._storages: dict[Storage, torch.Tensor] = {}

    def fail(self, what: str, place: tuple[object, ...]) -> NoReturn:
        name = ".".join(map(str, place))[:200]
        raise UnsupportedDataError(
            f"{f'{name!r}: ' if name else ''}{what}, which is not plain data; nothing is unpickled",
            where=self._image.path,
            hint=_HINT,
        )

    def value(self, node: Value, place: tuple[object, ...]) -> object:
        if type(node) in _LEAVES:
            plain: object = node
            return plain
        if id(node) in self._known:
            return self._known[id(node)]
        if id(node) in self._open or len(place) > _MAX_DEPTH:
            self.fail("a value that holds itself, or is nested too deep", place)
        self._open.add(id(node))
        found = self._built(node, place)
        self._open.discard(id(node))
        self._known[id(node)] = found
        return found

    def _built(self, node: Value, place: tuple[object, ...]) -> object:
        if isinstance(node, list):
            return [self.value(member, (*place, number)) for number, member in enumerate(node)]
        if isinstance(node, tuple):
            return tuple(self.value(member, (*place, number)) for number, member in enumerate(node))
        if isinstance(node, Pairs):
            return self._dict(node.items, place)
        if isinstance(node, Global):
            return self._constant(node, place)
        if isinstance(node, Call):
            return self._called(node, place)
        self.fail(f"a {type(node).__name__}", place)

    def _dict(self, pairs: list[tuple[Value, Value]], place: tuple[object, ...]) -> dict[Any, object]:
        found: dict[Any, object] = {}
        for key, member in pairs:
            name = self.value(key, (*place, "key"))
            try:
                hash(name)
            except TypeError:
                self.fail(f"a {type(name).__name__} as a key", place)
            found[name] = self.value(member, (*place, name))
        return found

    def _constant(self, node: Global, place: tuple[object, ...]) -> object:
        if node.module == "torch":
            found = getattr(torch, node.name, None) if node.name.isidentifier() else None
            if isinstance(found, torch.dtype):
                return found
        self.fail(f"{node.module}.{node.name}", place)

    def _called(self, node: Call, place: tuple[object, ...]) -> object:
        if is_rebuild(node):
            return self._tensor(node, place)
        if self._rebuild is not None:
            found = self._rebuild(node, lambda part: self.value(part, place))
            if found is not None:
                return found
        function = node.function
        if not isinstance(function, Global):
            self.fail("the result of a call", place)
        args = node.args if isinstance(node.args, (list, tuple)) else ()
        name = f"{function.module}.{function.name}".replace("__builtin__", "builtins")
        if name == "collections.OrderedDict":
            # Its state is torch's _metadata, versions of modules, which torch.load gives and load_state_dict may lack.
            first = self.value(args[0], place) if args else []
            return OrderedDict([*_items(first), *self._dict(node.pairs, place).items()])
        if name == "collections.defaultdict":
            return self._dict(node.pairs, place)
        if name == "torch._utils._rebuild_parameter" and args:
            return self.value(args[0], place)
        if name in ("builtins.set", "builtins.frozenset", "torch.Size"):
            members = [*_listed(self.value(args[0], place) if args else []), *self.value(node.members, place)]  # type: ignore[misc]
            kinds: dict[str, Callable[[list[Any]], object]] = {"builtins.set": set, "builtins.frozenset": frozenset}
            return kinds.get(name, torch.Size)(members)
        if name in ("torch.device", "builtins.complex"):
            values: list[Any] = [self.value(argument, place) for argument in args]
            return torch.device(*values) if name == "torch.device" else complex(*values)
        if name.startswith("pathlib.") and function.name in ("PosixPath", "PurePosixPath"):
            return PurePosixPath(*(str(self.value(argument, place)) for argument in args))
        if name == "_codecs.encode" and len(args) == 2 and args[1] == "latin1" and isinstance(args[0], str):
            return args[0].encode("latin1", "replace")
        self.fail(name, place)

    def _tensor(self, node: Call, place: tuple[object, ...]) -> torch.Tensor:
        found = as_tensor(tuple(map(str, place)), node, self._saved.place_of, self._image.path)
        if found is None:
            self.fail("a tensor of a kind that cannot be stored as one", place)
        dtype = to_torch_dtype(found.dtype, where=self._image.path)
        base = self._base(found)
        return base.view(dtype).as_strided(found.shape, found.strides, found.offset)

    def _base(self, found: FoundTensor) -> torch.Tensor:
        """All of a storage, as bytes."""
        storage = found.storage
        if storage not in self._storages:
            pieces = self._image.cut(self._at + storage.start, storage.length)
            self._storages[storage] = self._stored.add(
                pieces, by_name("uint8"), (storage.length,), fqn=self._image.path
            )
        return self._storages[storage]


def _items(value: object) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return [(pair[0], pair[1]) for pair in value if len(pair) == 2] if isinstance(value, list) else []


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else []
