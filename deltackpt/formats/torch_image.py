"""What ``torch.save`` would write for a state whose tensors are in the store: its image."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

from deltackpt.errors import UnsupportedDataError
from deltackpt.formats.image import FileImage, Piece, cut_pieces
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
        self._storages: dict[int, tuple[torch.Tensor, tuple[Piece, ...]]] = {}

    def add(self, pieces: Sequence[Piece], dtype: DType, shape: tuple[int, ...], *, fqn: str) -> torch.Tensor:
        """A tensor that stands for the bytes of some pieces, one after another.

        Args:
            fqn: its name, for errors.
        """
        tensor, _ = new_tensor(dtype, shape, where=fqn)
        self._storages[tensor.untyped_storage()._cdata] = (tensor, tuple(pieces))
        return tensor

    def find(self, storage: torch.UntypedStorage) -> tuple[Piece, ...] | None:
        """What the storage of a tensor stands for; None where it is one that has its bytes."""
        found = self._storages.get(storage._cdata)
        return None if found is None else found[1]

    def pieces(self, tensor: torch.Tensor, *, fqn: str) -> tuple[Piece, ...]:
        """The bytes of a tensor in C order, of one that stands for a stored one or a part of it, or of any other.

        Raises:
            UnsupportedDataError: it stands for elements that are not side by side.
        """
        stored = self.find(tensor.untyped_storage())
        if stored is None:
            data = tensor_bytes(tensor, fqn=fqn).tobytes()
            return (data,) if data else ()
        if not tensor.is_contiguous():
            raise UnsupportedDataError(
                "the tensor is a view with strides, which this format does not have",
                where=fqn,
                hint="restore it with the format torch or original",
            )
        itemsize = tensor.element_size()
        return cut_pieces(stored, int(tensor.storage_offset()) * itemsize, tensor.numel() * itemsize)


def torch_image(path: str, value: object, stored: StoredTensors) -> FileImage:
    """The image of the file that ``torch.save(value, path)`` writes.

    Args:
        value: the state; tensors that ``stored`` knows stand for those in the store.

    Raises:
        UnsupportedDataError: the value cannot be pickled.
    """
    data, storages = _pickle(path, value)
    members: list[tuple[str, Sequence[Piece]]] = [
        ("data.pkl", [data]),
        (".format_version", [b"1"]),
        (".storage_alignment", [str(ALIGNMENT).encode()]),
        ("byteorder", [b"little"]),
    ]
    for key, storage in storages.items():
        pieces = stored.find(storage)
        members.append((f"data/{key}", [_bytes_of(storage)] if pieces is None else pieces))
    members.append(("version", [b"3\n"]))
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
