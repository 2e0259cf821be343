"""What ``benchmarks.save_load`` compares: deltackpt, DCP's own files with and without zstd, torch.save.

Each saves a step into a place of its own, in the background or not, and loads it. All make what they write durable.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.distributed.checkpoint._extension import ZStandard
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save
from torch.distributed.tensor import DTensor

from deltackpt import Store
from deltackpt.backend.base import Backend, Buffer, ObjectInfo
from deltackpt.dcp import DeltaStorageReader, DeltaStorageWriter
from deltackpt.store.base_cache import shared_cache
from deltackpt.store.opened import OpenStore

__all__ = ["PEERS", "Files", "OurStore", "Peer", "Throttle", "TorchSave"]

State = dict[str, Any]


class Throttle:
    """Lets so many bytes a second through, counted from the first; for all threads together."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()

    def wait(self, nbytes: int) -> None:
        """Return when ``nbytes`` more have had their time."""
        with self._lock:
            self._free_at = max(self._free_at, time.perf_counter()) + nbytes / self._rate
            pause = self._free_at - time.perf_counter()
        time.sleep(max(0.0, pause))


class Peer(Protocol):
    """One way to save and load."""

    name: str

    def begin(self) -> None:
        """Forget what was saved. A collective."""

    def save(self, step: int, state: State, throttle: Throttle | None = None) -> None:
        """Save and return when all is durable."""

    def start(self, step: int, state: State) -> Callable[[], object]:
        """Save in the background; what is returned waits for its end."""

    def load(self, step: int, state: State) -> None:
        """Load into the tensors of ``state``."""

    def stored(self, step: int) -> int:
        """Bytes written for a step."""


def _waiter(response: Any) -> Callable[[], object]:
    future: Future[Any] = getattr(response, "upload_completion", response)
    return future.result


def _clear(folder: Path) -> None:
    """Remove what all ranks have put into a folder."""
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    dist.barrier()


def _tree_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


class OurStore:
    """A store on disk; every step is a delta on the one before."""

    name = "deltackpt"

    def __init__(self, folder: Path, threads: int, group: dist.ProcessGroup | None) -> None:
        self.store: Store | None = None
        self._folder = folder / "deltackpt"
        self._threads, self._group = threads, group

    def begin(self) -> None:
        if self.store is not None:
            shared_cache(self.store.opened.config.id).begin_save(0)  # the bases of a store that is gone
        _clear(self._folder)
        if dist.get_rank() == 0:
            Store.create(self._folder, chain="previous")
        dist.barrier()
        self.store = Store.open(self._folder)

    def save(self, step: int, state: State, throttle: Throttle | None = None) -> None:
        assert self.store is not None
        store = self.store if throttle is None else _throttled(self.store, throttle)
        save(state, storage_writer=DeltaStorageWriter(store, step, threads=self._threads))

    def start(self, step: int, state: State) -> Callable[[], object]:
        assert self.store is not None
        writer = DeltaStorageWriter(self.store, step, threads=self._threads)
        return _waiter(async_save(state, storage_writer=writer, process_group=self._group))

    def load(self, step: int, state: State) -> None:
        assert self.store is not None
        load(state, storage_reader=DeltaStorageReader(self.store, step, threads=self._threads))

    def stored(self, step: int) -> int:
        assert self.store is not None
        return self.store.step(step).info.stored_bytes


class _ThrottledBackend:
    """A backend that takes its time to put."""

    def __init__(self, inner: Backend, throttle: Throttle) -> None:
        self._inner, self._throttle = inner, throttle

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, key: str, data: Buffer) -> None:
        self._throttle.wait(len(data))
        self._inner.put(key, data)

    def put_if_absent(self, key: str, data: Buffer) -> None:
        self._throttle.wait(len(data))
        self._inner.put_if_absent(key, data)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return self._inner.get(key, start, length)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list(prefix)

    def delete(self, key: str) -> None:
        self._inner.delete(key)


def _throttled(store: Store, throttle: Throttle) -> Store:
    opened = store.opened
    return Store(OpenStore(_ThrottledBackend(opened.backend, throttle), opened.config, opened.options))


class _ThrottledFiles(FileSystem):
    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Any:
        with super().create_stream(path, mode) as stream:
            if "w" in mode:
                write = stream.write

                class Slow:
                    def __getattr__(_, name: str) -> Any:  # noqa: N805
                        return getattr(stream, name)

                    def write(_, data: Any) -> int:  # noqa: N805
                        self._throttle.wait(memoryview(data).nbytes)
                        return int(write(data))

                yield Slow()
            else:
                yield stream


class Files:
    """DCP's own files, a folder a step."""

    name = "FileSystemWriter"

    def __init__(self, folder: Path, threads: int, group: dist.ProcessGroup | None, *, zstd: bool = False) -> None:
        self.name = "FileSystemWriter, zstd" if zstd else self.name
        self._folder = folder / ("zstd" if zstd else "files")
        self._threads, self._group = threads, group
        self._zstd = zstd

    def begin(self) -> None:
        _clear(self._folder)

    def _writer(self, step: int) -> FileSystemWriter:
        return FileSystemWriter(
            self._folder / str(step), thread_count=self._threads, _extensions=[ZStandard()] if self._zstd else None
        )

    def save(self, step: int, state: State, throttle: Throttle | None = None) -> None:
        writer = self._writer(step)
        if throttle is not None:
            writer.fs = _ThrottledFiles(throttle)
        save(state, storage_writer=writer)

    def start(self, step: int, state: State) -> Callable[[], object]:
        return _waiter(async_save(state, storage_writer=self._writer(step), process_group=self._group))

    def load(self, step: int, state: State) -> None:
        load(state, storage_reader=FileSystemReader(self._folder / str(step)))

    def stored(self, step: int) -> int:
        return _tree_bytes(self._folder / str(step))


class TorchSave:
    """One file a rank, of what the rank holds."""

    name = "torch.save"

    def __init__(self, folder: Path, threads: int, group: dist.ProcessGroup | None) -> None:
        self._folder = folder / "torch"

    def begin(self) -> None:
        _clear(self._folder)

    def _file(self, step: int, rank: int) -> Path:
        return self._folder / f"{step}-{rank}.pt"

    def save(self, step: int, state: State, throttle: Throttle | None = None) -> None:
        with self._file(step, dist.get_rank()).open("wb") as file:
            torch.save({name: _local(value) for name, value in state.items()}, file)
            file.flush()
            os.fsync(file.fileno())
        dist.barrier()

    def start(self, step: int, state: State) -> Callable[[], object]:
        self.save(step, state)  # torch.save has no background
        return lambda: None

    def load(self, step: int, state: State) -> None:
        loaded = torch.load(self._file(step, dist.get_rank()), mmap=True)
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                _local(value).copy_(loaded[name])

    def stored(self, step: int) -> int:
        return sum(self._file(step, rank).stat().st_size for rank in range(dist.get_world_size()))


def _local(value: Any) -> Any:
    return value.to_local() if isinstance(value, DTensor) else value


PEERS: dict[str, Callable[[Path, int, dist.ProcessGroup | None], Peer]] = {
    OurStore.name: OurStore,
    Files.name: Files,
    "FileSystemWriter, zstd": lambda folder, threads, group: Files(folder, threads, group, zstd=True),
    TorchSave.name: TorchSave,
}
