"""Tensors on a GPU. What needs one is marked ``gpu``; how chunks follow each other is tested without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from deltackpt import Store
from deltackpt.codec import Workspace
from deltackpt.dcp import DeltaStorageWriter
from deltackpt.dcp.device import CHUNK_BYTES, DeviceCopies, copy_chunks
from tests.dcp.states import load_state, save_state

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


class LateLane:
    """Fills a buffer only when it is waited for, as a device may, and knows what is under way."""

    def __init__(self, chunk: int) -> None:
        self.buffers = [np.zeros(chunk, dtype=np.uint8) for _ in range(2)]
        self.under_way: dict[int, torch.Tensor] = {}
        self.most = 0

    def start(self, slot: int, source: torch.Tensor) -> None:
        assert slot not in self.under_way, "a buffer is filled again before it was taken"
        self.under_way[slot] = source
        self.most = max(self.most, len(self.under_way))

    def wait(self, slot: int) -> NDArray[np.uint8]:
        source = self.under_way.pop(slot)
        self.buffers[slot][: source.numel()] = source.numpy()
        return self.buffers[slot]


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20, 35, 100])
def test_chunks_overlap_and_none_is_lost(size: int) -> None:
    source = torch.randint(0, 256, (size,), dtype=torch.uint8)
    lane = LateLane(10)
    assert copy_chunks(lane, source, Workspace(), chunk=10).tolist() == source.tolist()
    assert lane.under_way == {}
    assert lane.most == min(2, -(-size // 10))


def test_copies_of_tensors_on_the_cpu_are_private() -> None:
    tensor = torch.arange(12.0).reshape(3, 4)
    for part in (tensor, tensor[1:], tensor.t()):
        data = DeviceCopies(Workspace()).read(part, fqn="x")
        before = data.copy()
        tensor += 1
        assert data.tolist() == before.tolist()
        assert torch.equal(torch.from_numpy(data).view(torch.float32).reshape(part.shape), part - 1)


def states() -> list[dict[str, torch.Tensor]]:
    tensors = {
        "large": torch.randn(3 * CHUNK_BYTES // 4 + 7, device="cuda"),
        "strided": torch.randn(300, 200, device="cuda").t(),
        "half": torch.randn(1000, device="cuda").bfloat16(),
        "lazy": torch.randn(50, dtype=torch.complex64, device="cuda").conj(),
        "scalar": torch.tensor(3, device="cuda"),
        "empty": torch.zeros(0, 4, device="cuda"),
    }
    return [tensors, {name: value + 1 for name, value in tensors.items()}]


@pytest.mark.parametrize("threads", [pytest.param(1, marks=gpu), pytest.param(4, marks=gpu)])
def test_a_state_saved_from_cuda_loads_with_and_without_it(delta_store: Store, threads: int) -> None:
    both = states()
    for step, state in enumerate(both):
        save_state(delta_store, step, state, threads=threads)
    for step, state in enumerate(both):
        for device in ("cpu", "cuda"):
            loaded = load_state(delta_store, step, {n: torch.zeros_like(v, device=device) for n, v in state.items()})
            assert all(torch.equal(loaded[name].cpu(), value.cpu()) for name, value in state.items())


@pytest.mark.parametrize("side", [pytest.param(False, marks=gpu), pytest.param(True, marks=gpu)])
def test_a_save_waits_for_what_was_queued_before_it(delta_store: Store, side: bool) -> None:
    stream = torch.cuda.Stream() if side else torch.cuda.current_stream()
    with torch.cuda.stream(stream):
        weight = torch.eye(4096, device="cuda")
        for _ in range(30):
            weight = weight @ weight
        weight += 5
        save({"w": weight}, storage_writer=DeltaStorageWriter(delta_store, 1), no_dist=True)
        weight.zero_()
    assert torch.equal(delta_store.step(1).tensor("w"), torch.eye(4096) + 5)


@pytest.mark.parametrize("pinned", [pytest.param(False, marks=gpu), pytest.param(True, marks=gpu)])
def test_saves_from_cuda_in_the_background(delta_store: Store, pinned: bool) -> None:
    stager = DefaultStager(StagingOptions(pinned, False, pinned, pinned))
    weight = torch.zeros(1 << 20, device="cuda")
    for step in range(3):
        weight += 1
        writer = DeltaStorageWriter(delta_store, step)
        response: Any = async_save({"w": weight}, storage_writer=writer, async_stager=stager)
        getattr(response, "staging_completion", response).result(timeout=60)
        getattr(response, "upload_completion", response).result(timeout=60)
    stager.close()
    for step in range(3):
        assert torch.equal(delta_store.step(step).tensor("w"), torch.full((1 << 20,), step + 1.0))
