"""Where encoded records go: packs of one artifact each, put whole while the next one fills."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from deltackpt.backend.base import Backend
from deltackpt.format.hashing import Buffer, blake3_digest
from deltackpt.format.index import PackInfo
from deltackpt.format.keys import pack_key
from deltackpt.format.pack import PackBuilder

__all__ = ["PackSink"]


@dataclass(slots=True)
class _Open:
    """A pack that fills: its number among all packs, and what it holds."""

    number: int
    builder: PackBuilder


class PackSink:
    """Appends records to packs. In memory are one pack that fills for each artifact, and one that is being put."""

    def __init__(self, backend: Backend, pack_bytes: int) -> None:
        self._backend = backend
        self._pack_bytes = pack_bytes
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="deltackpt-put")
        self._open: dict[str, _Open] = {}
        self._packs: list[PackInfo | None] = []
        self._put: Future[None] | None = None

    def add(self, artifact: str, record: Buffer) -> tuple[int, int]:
        """Append a copy of a record; gives the number of its pack and its offset there."""
        filling = self._open.get(artifact)
        if filling is not None and filling.builder.size + len(record) > self._pack_bytes:
            self._close(artifact)
            filling = None
        if filling is None:
            filling = self._open[artifact] = _Open(len(self._packs), PackBuilder())
            self._packs.append(None)
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

    def _close(self, artifact: str) -> None:
        filled = self._open.pop(artifact)
        data = filled.builder.finish()
        name = blake3_digest(data)
        self._packs[filled.number] = PackInfo(name, len(data), artifact)
        self._wait()
        self._put = self._executor.submit(self._backend.put, pack_key(name), data)

    def _wait(self) -> None:
        if self._put is not None:
            self._put.result()
            self._put = None
