"""Tensors on a GPU, copied out while the next chunk is under way.

A save reads block by block, from several threads. Each thread has a stream of its own beside the one that computes, and
two pinned buffers: while the device fills one, the thread empties the other into the block that is kept. So a block is
never larger in pinned memory than two chunks, and copying out overlaps hashing, coding, and the other threads' copies.
"""

from __future__ import annotations

import threading
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from deltackpt.codec import Workspace
from deltackpt.tensor.torch_bridge import check_dense, tensor_bytes

__all__ = ["CHUNK_BYTES", "DeviceCopies", "Lane", "copy_chunks"]

Bytes = NDArray[np.uint8]

# Two of these a thread are pinned: pinned memory is scarce, and a chunk has to be large beside the cost of a launch.
CHUNK_BYTES: Final = 4 << 20


class Lane(Protocol):
    """One thread's way out of a device: two buffers that are filled in the background."""

    def start(self, slot: int, source: torch.Tensor) -> None:
        """Begin to fill buffer ``slot`` (0 or 1) with a flat uint8 tensor of at most a chunk."""

    def wait(self, slot: int) -> Bytes:
        """The buffer, once it is filled. It stays as it is until it is started again."""


def copy_chunks(lane: Lane, source: torch.Tensor, space: Workspace, chunk: int = CHUNK_BYTES) -> Bytes:
    """A private copy of a flat uint8 tensor; the device works on a chunk while the one before is taken."""
    out = space.block(source.numel())
    starts = range(0, out.size, chunk)

    def take(number: int) -> None:
        part = out[starts[number] : starts[number] + chunk]
        part[:] = lane.wait(number % 2)[: part.size]

    for number, start in enumerate(starts):
        lane.start(number % 2, source[start : start + chunk])
        if number:
            take(number - 1)
    if starts:
        take(len(starts) - 1)
    return out


class _CudaLane:
    def __init__(self, device: torch.device, written: torch.cuda.Event) -> None:
        self.stream = torch.cuda.Stream(device)
        self.stream.wait_event(written)
        self._buffers = [torch.empty(CHUNK_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        self._filled = [torch.cuda.Event() for _ in range(2)]

    def start(self, slot: int, source: torch.Tensor) -> None:
        with torch.cuda.stream(self.stream):
            self._buffers[slot][: source.numel()].copy_(source, non_blocking=True)
            self._filled[slot].record(self.stream)

    def wait(self, slot: int) -> Bytes:
        self._filled[slot].synchronize()
        found: Bytes = self._buffers[slot].numpy()
        return found


class _Own(threading.local):
    """What each thread has for itself: its lane to every device."""

    def __init__(self) -> None:
        self.lanes: dict[int, _CudaLane] = {}


class DeviceCopies:
    """The bytes of tensors, wherever they are, as private copies. One for each save, made by the thread that saves.

    What that thread has queued on its current streams until then is waited for; what it queues later is not.

    Args:
        space: where the memory of the copies comes from.
    """

    def __init__(self, space: Workspace) -> None:
        self._space = space
        self._own = _Own()
        self._written: dict[int, torch.cuda.Event] = {}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            for device in range(torch.cuda.device_count()):
                event = torch.cuda.Event()
                event.record(torch.cuda.current_stream(device))
                self._written[device] = event

    def read(self, tensor: torch.Tensor, *, fqn: str) -> Bytes:
        """The elements in C order as a new uint8 array of shape [its bytes].

        Raises:
            UnsupportedDataError: the tensor has no plain bytes.
        """
        if tensor.device.type == "cuda" and tensor.device.index in self._written:
            check_dense(tensor, fqn=fqn)
            return self._read_cuda(tensor)
        data = tensor_bytes(tensor, fqn=fqn)
        shared = tensor.device.type == "cpu" and tensor.is_contiguous()
        if not shared:
            return data
        out = self._space.block(data.size)
        out[:] = data
        return out

    def _read_cuda(self, tensor: torch.Tensor) -> Bytes:
        index = tensor.device.index
        lane = self._own.lanes.get(index)
        if lane is None:
            lane = self._own.lanes[index] = _CudaLane(tensor.device, self._written[index])
        with torch.cuda.stream(lane.stream):
            plain = tensor.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg().contiguous()
            return copy_chunks(lane, plain.reshape(-1).view(torch.uint8), self._space)
