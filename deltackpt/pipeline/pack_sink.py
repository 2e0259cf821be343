"""Where encoded records go: packs of one artifact each, put whole while the next one fills."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from deltackpt.backend.base import Backend
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.index import PackInfo
from deltackpt.format.keys import pack_key
from deltackpt.format.pack import PackBuilder

__all__ = ["PackSink"]


class PackSink:
    """Appends records to packs. Holds at most two packs in memory: the one that fills and the one being put."""

    def __init__(self, backend: Backend, pack_bytes: int) -> None:
        self._backend = backend
        self._pack_bytes = pack_bytes
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="deltackpt-put")
        self._open: PackBuilder | None = None
        self._artifact = ""
        self._packs: list[PackInfo] = []
        self._put: Future[None] | None = None

    def add(self, artifact: str, record: bytes) -> tuple[int, int]:
        """Append a record; gives the number of its pack and its offset there."""
        if self._open is not None and (artifact != self._artifact or self._open.size + len(record) > self._pack_bytes):
            self._close()
        if self._open is None:
            self._open, self._artifact = PackBuilder(), artifact
        return len(self._packs), self._open.add(record)

    def finish(self) -> tuple[PackInfo, ...]:
        """Wait until everything is durable; gives the packs in order of their numbers."""
        self._close()
        self._wait()
        return tuple(self._packs)

    def __enter__(self) -> PackSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _close(self) -> None:
        if self._open is None:
            return
        data = self._open.finish()
        self._open = None
        name = blake3_digest(data)
        self._packs.append(PackInfo(name, len(data), self._artifact))
        self._wait()
        self._put = self._executor.submit(self._backend.put, pack_key(name), data)

    def _wait(self) -> None:
        if self._put is not None:
            self._put.result()
            self._put = None
