"""What ``torch.save`` would write for a state whose tensors are in the store: its image."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any, Final

import torch

from deltackpt.errors import UnsupportedDataError
from deltackpt.formats.image import FileImage, Piece, Stored
from deltackpt.formats.zip_image import ALIGNMENT, zip_image
from deltackpt.tensor.dtypes import DType
from deltackpt.tensor.torch_bridge import new_tensor, tensor_bytes

__all__ = ["StoredTensors", "torch_image"]

_PROTOCOL: Final = 2
_FOLDER: Final = "archive"


class StoredTensors:
    """Tensors that stand for stored ones in a state. Their elements are never read, so they take no memory.

    Fresh pages of large tensors are not touched; what is small costs little.
    """

    def __init__(self) -> None:
        self._storages: dict[int, tuple[torch.Tensor, Stored]] = {}

    def add(self, stored: Stored, dtype: DType, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor that stands for the bytes ``stored``."""
        tensor, _ = new_tensor(dtype, shape, where=stored.fqn)
        self._storages[tensor.untyped_storage()._cdata] = (tensor, stored)
        return tensor

    def find(self, storage: torch.UntypedStorage) -> Stored | None:
        """What the storage of a tensor stands for; None where it is one that has its bytes."""
        found = self._storages.get(storage._cdata)
        return None if found is None else found[1]

    def piece(self, tensor: torch.Tensor, *, fqn: str) -> Piece:
        """The bytes of a tensor in C order, of one that stands for a stored one or a part of it, or of any other.

        Raises:
            UnsupportedDataError: it stands for elements that are not side by side.
        """
        stored = self.find(tensor.untyped_storage())
        if stored is None:
            return tensor_bytes(tensor, fqn=fqn).tobytes()
        if not tensor.is_contiguous():
            raise UnsupportedDataError(
                "the tensor is a view with strides, which this format does not have",
                where=fqn,
                hint="restore it with the format torch or original",
            )
        itemsize = tensor.element_size()
        start = stored.start + int(tensor.storage_offset()) * itemsize
        return Stored(stored.fqn, start, tensor.numel() * itemsize)


def torch_image(path: str, value: object, stored: StoredTensors) -> FileImage:
    """The image of the file that ``torch.save(value, path)`` writes.

    Args:
        value: the state; tensors that ``stored`` knows stand for those in the store.

    Raises:
        UnsupportedDataError: the value cannot be pickled.
    """
    data, storages = _pickle(path, value)
    members: list[tuple[str, Piece]] = [
        ("data.pkl", data),
        (".format_version", b"1"),
        (".storage_alignment", str(ALIGNMENT).encode()),
        ("byteorder", b"little"),
    ]
    members += [(f"data/{key}", stored.find(storage) or _bytes_of(storage)) for key, storage in storages.items()]
    members.append(("version", b"3\n"))
    return zip_image(path, [(f"{_FOLDER}/{name}", content) for name, content in members])


class _Pickled(pickle.Pickler):
    """Pickles as torch.save does, with storages by their number."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=_PROTOCOL)
        self.storages: dict[str, torch.UntypedStorage] = {}
        self._keys: dict[int, str] = {}

    def persistent_id(self, obj: Any) -> tuple[object, ...] | None:
        if isinstance(obj, torch.storage.TypedStorage):
            storage, count = obj._untyped_storage, obj._size()
            kind = getattr(torch, obj._pickle_storage_type())
        elif isinstance(obj, torch.UntypedStorage):
            storage, count, kind = obj, obj.nbytes(), torch.UntypedStorage
        else:
            return None
        key = self._keys.setdefault(storage._cdata, str(len(self._keys)))
        self.storages[key] = storage
        return ("storage", kind, key, "cpu", count)


def _pickle(path: str, value: object) -> tuple[bytes, Mapping[str, torch.UntypedStorage]]:
    """The pickle of a state, and its storages by key."""
    buffer = io.BytesIO()
    pickler = _Pickled(buffer)
    try:
        pickler.dump(value)
    except (AttributeError, RuntimeError, TypeError, ValueError, pickle.PicklingError) as exc:
        raise UnsupportedDataError(
            f"the state cannot be pickled: {exc}", where=path, hint="restore the other parts without it"
        ) from exc
    return buffer.getvalue(), pickler.storages


def _bytes_of(storage: torch.UntypedStorage) -> bytes:
    flat = torch.empty(0, dtype=torch.uint8).set_(storage.cpu())
    return tensor_bytes(flat).tobytes()
