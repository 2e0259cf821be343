"""The items of a DCP plan as what the pipelines save and load."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributed.checkpoint.planner import ReadItem, SavePlanner, WriteItem, WriteItemType

from deltackpt.codec import Workspace
from deltackpt.dcp.device import DeviceCopies
from deltackpt.dcp.entries import OBJECT_DTYPE, chunk_box
from deltackpt.errors import IncompleteSaveError, InvalidArgumentError, UnsupportedDataError
from deltackpt.format.manifest import Entry
from deltackpt.formats.objects import object_to_stored
from deltackpt.pipeline.items import Place, SaveItem
from deltackpt.pipeline.plan_load import Wanted
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_code
from deltackpt.tensor.torch_bridge import check_dense, from_torch_dtype, to_torch_dtype

__all__ = ["PlanResolver", "tensor_target"]

Bytes = NDArray[np.uint8]


class PlanResolver:
    """Turns write items into what the pipeline saves. Tensors are asked for one by one, while they are written.

    Args:
        space: where the memory of blocks comes from.
    """

    def __init__(self, planner: SavePlanner, space: Workspace) -> None:
        self._planner = planner
        self._copies = DeviceCopies(space)
        # Planners are not written for many threads.
        self._lock = threading.Lock()

    def item(self, item: WriteItem, place: Place, artifact: str, role: str) -> tuple[SaveItem, str | None]:
        """What the pipeline saves for an item, and the encoding of an object.

        Raises:
            UnsupportedDataError: the planner gives another kind of data than it planned, or of a dtype that cannot be
                stored.
        """
        if item.type == WriteItemType.BYTE_IO:
            return self._object(item, place, artifact, role)
        fqn = item.index.fqn
        if item.tensor_data is None:
            raise UnsupportedDataError("planned as a tensor without a shape", where=fqn)
        box = chunk_box(item.tensor_data.chunk)
        dtype = from_torch_dtype(item.tensor_data.properties.dtype, where=fqn)
        tensor = _LazyTensor(lambda: self._tensor(item, box), self._copies, box, fqn)
        return SaveItem(fqn, "tensor", dtype, box, artifact, role, place, tensor.read), None

    def _object(self, item: WriteItem, place: Place, artifact: str, role: str) -> tuple[SaveItem, str]:
        fqn = item.index.fqn
        with self._lock:
            stream = self._planner.resolve_data(item)
        if isinstance(stream, torch.Tensor):
            raise UnsupportedDataError("planned as an object, but the planner gave a tensor", where=fqn)
        # The stream is positioned at its end.
        encoding, data = object_to_stored(bytes(stream.getbuffer()))
        content = np.frombuffer(data, dtype=np.uint8)

        def read(part: Box) -> Bytes:
            return content[part.slices()].copy()

        box = Box((0,), (len(data),))
        return SaveItem(fqn, "object", OBJECT_DTYPE, box, artifact, role, place, read), encoding

    def _tensor(self, item: WriteItem, box: Box) -> torch.Tensor:
        fqn, tensor_data = item.index.fqn, item.tensor_data
        with self._lock:
            tensor = self._planner.resolve_data(item)
        if not isinstance(tensor, torch.Tensor) or tensor_data is None:
            raise UnsupportedDataError("planned as a tensor, but the planner gave an object", where=fqn)
        check_dense(tensor, fqn=fqn)
        planned = tensor_data.properties.dtype
        if tuple(tensor.shape) != box.sizes or tensor.dtype != planned:
            raise IncompleteSaveError(
                f"planned as {planned} of shape {list(box.sizes)}, but it is {tensor.dtype} of shape "
                f"{list(tensor.shape)}",
                where=fqn,
                hint="a planner that changes tensors must change its plan, too",
            )
        return tensor.detach()


@dataclass(slots=True, eq=False)
class _LazyTensor:
    """A shard that is resolved when its first block is read and let go with its last: planners may allocate it."""

    resolve: Callable[[], torch.Tensor]
    copies: DeviceCopies
    shard: Box
    fqn: str
    _tensor: torch.Tensor | None = None
    _read: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, box: Box) -> Bytes:
        """A private copy of a box: DCP's stagers reuse their buffers, so no view may outlive the save."""
        return self.copies.read(self._take(box)[box.relative_to(self.shard).slices()], fqn=self.fqn)

    def _take(self, box: Box) -> torch.Tensor:
        with self._lock:
            tensor = self.resolve() if self._tensor is None else self._tensor
            self._read += box.numel
            self._tensor = tensor if self._read < self.shard.numel else None
            return tensor


def tensor_target(entry: Entry, item: ReadItem, target: torch.Tensor) -> Wanted:
    """The box of a stored tensor that an item reads, written into the tensor that the planner gave for it.

    Args:
        target: any tensor of the item's shape: on any device, with any strides, of another dtype (then it is cast).

    Raises:
        InvalidArgumentError: the planner gave a tensor of another shape than it planned.
    """
    fqn = item.storage_index.fqn
    chunk = item.storage_index.offset or (0,) * len(item.storage_offsets)
    box = Box(tuple(a + b for a, b in zip(chunk, item.storage_offsets, strict=True)), tuple(item.lengths))
    if tuple(target.shape) != box.sizes:
        raise InvalidArgumentError(
            f"a target of shape {list(target.shape)} for a part of shape {list(box.sizes)}", where=fqn
        )
    dtype = to_torch_dtype(by_code(entry.dtype), where=fqn)
    # A mode of the calling thread; the blocks come from others.
    inference = torch.is_inference_mode_enabled()

    def write(place: Box, elements: NDArray[np.generic]) -> None:
        source = torch.from_numpy(elements).view(dtype)
        with torch.inference_mode(inference):
            target[place.relative_to(box).slices()].copy_(source)

    return Wanted(fqn, box, write)
