"""Where encoded records go: packs of one artifact each, put whole while the next one fills."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deltackpt.backend.base import Backend
from deltackpt.codec import Workspace
from deltackpt.format.hashing import Buffer, blake3_digest
from deltackpt.format.index import PackInfo
from deltackpt.format.keys import pack_key
from deltackpt.format.pack import PackBuilder

__all__ = ["FIRST_BYTES", "PackSink"]

Bytes = NDArray[np.uint8]

# Larger packs begin small: nobody knows that they will be filled.
_MOST_AT_ONCE: Final = 1 << 28

FIRST_BYTES: Final = 8 << 20
"""The first pack of a save: most of a small one is put while the rest is encoded, and large ones have few packs."""


@dataclass(slots=True)
class _Open:
    """A pack that fills: its number among all packs, what it holds, and the memory for that."""

    number: int
    artifact: str
    builder: PackBuilder
    memory: Bytes


@dataclass(slots=True)
class _Leaving:
    """A pack that is being put."""

    pack: _Open
    done: Future[PackInfo]


class PackSink:
    """Appends records to packs. In memory are one pack that fills for each artifact, and one that is being put.

    Args:
        backend: where packs are put.
        pack_bytes: their size, where no record is larger.
        workspace: where the memory of a pack comes from, and goes to once it is put.
        first_bytes: the size of the first pack of each artifact, if that is less; each later one is twice as large.
    """

    def __init__(self, backend: Backend, pack_bytes: int, workspace: Workspace, first_bytes: int | None = None) -> None:
        self._backend = backend
        self._workspace = workspace
        self._pack_bytes = pack_bytes
        self._first = pack_bytes if first_bytes is None else min(pack_bytes, first_bytes)
        self._limits: dict[str, int] = {}
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="deltackpt-put")
        self._open: dict[str, _Open] = {}
        self._packs: list[PackInfo | None] = []
        self._leaving: _Leaving | None = None

    def add(self, artifact: str, record: Buffer) -> tuple[int, int]:
        """Append a copy of a record; gives the number of its pack and its offset there."""
        filling = self._open.get(artifact)
        if filling is not None and filling.builder.size + len(record) > self._limit(artifact):
            self._close(artifact)
            self._limits[artifact] = min(self._pack_bytes, 2 * self._limit(artifact))
            filling = None
        if filling is None:
            filling = self._open[artifact] = self._begin(artifact)
        return filling.number, filling.builder.add(record)

    def finish(self) -> tuple[PackInfo, ...]:
        """Wait until everything is durable; gives the packs in order of their numbers."""
        for artifact in list(self._open):
            self._close(artifact)
        self._wait()
        return tuple(pack for pack in self._packs if pack is not None)

    def __enter__(self) -> PackSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _limit(self, artifact: str) -> int:
        """The size of the artifact's pack that fills."""
        return self._limits.get(artifact, self._first)

    def _begin(self, artifact: str) -> _Open:
        number = len(self._packs)
        self._packs.append(None)
        # Memory that was never touched takes none.
        memory = self._workspace.take(min(self._limit(artifact), _MOST_AT_ONCE))
        return _Open(number, artifact, PackBuilder(memory=memory.data), memory)

    def _close(self, artifact: str) -> None:
        filled = self._open.pop(artifact)
        self._wait()
        self._leaving = _Leaving(filled, self._executor.submit(self._put, filled))

    def _put(self, filled: _Open) -> PackInfo:
        data = filled.builder.finish()
        name = blake3_digest(data)
        self._backend.put(pack_key(name), data)
        return PackInfo(name, len(data), filled.artifact)

    def _wait(self) -> None:
        if self._leaving is not None:
            gone, self._leaving = self._leaving, None
            self._packs[gone.pack.number] = gone.done.result()
            self._workspace.give(gone.pack.memory)
