"""Decoded blocks kept in memory, so that the next save need not decode its bases from the store.

Entries are found by address. A saver looks up the address that a visible manifest gives for its base, so an entry of
a step that never became visible is simply never asked for. Every entry is rehashed before use: memory that changed in
between is not a base.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import psutil
from numpy.typing import NDArray

from deltackpt.codec.workspace import Workspace
from deltackpt.errors import InvalidArgumentError
from deltackpt.format import hashing
from deltackpt.tensor.box import Box

__all__ = ["BaseCache", "CacheStats", "Samples", "parse_base_memory", "shared_cache"]

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache holds and how often it helped.

    Attributes:
        blocks, bytes: held now.
        hits, misses: look-ups that found an intact entry, and those that did not.
        damaged: entries whose bytes no longer had their address.
    """

    blocks: int
    bytes: int
    hits: int
    misses: int
    damaged: int


@dataclass(slots=True, eq=False)
class _Held:
    block: Bytes
    save: int  # the last save that put it or used it
    put: int  # the last save that put it


# Samples of two steps, eight groups of five tensors, 2048 elements of 16 bytes, and as much again for other branches.
_SAMPLE_BYTES = 8 << 20


class Samples:
    """Small boxes of blocks, by the address of the block: the most recently used, up to 8 MiB. Safe to use from many
    threads.

    What is predicted from them only steers choices, so they are not hashed again.
    """

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[bytes, Box], Bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, address: bytes, box: Box) -> Bytes | None:
        """The sample of this block at this box (global coordinates), or None."""
        with self._lock:
            held = self._held.get((address, box))
            if held is not None:
                self._held.move_to_end((address, box))
            return held

    def put(self, address: bytes, box: Box, sample: Bytes) -> None:
        with self._lock:
            if (address, box) in self._held:
                return
            self._held[address, box] = sample
            self._bytes += sample.nbytes
            while self._bytes > _SAMPLE_BYTES:
                self._bytes -= self._held.popitem(last=False)[1].nbytes


class BaseCache:
    """Blocks by address, up to a budget in bytes; safe to use from many threads.

    A save walks all blocks of a state in order, so evicting the least recently used would drop each block just before
    it is needed. Instead a block that is not needed any more makes room for its successor (:meth:`discard`), what does
    not fit is not kept, and only what no save has used for two saves is evicted.

    Attributes:
        samples: small parts of blocks that saves went by when they chose their bases.
        space: where saves have memory from: that of a base which is forgotten becomes its successor's. What is free of
            it stays from save to save until it is cleared.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._bytes = 0
        self._save = 0
        self._hits = self._misses = self._damaged = 0
        self._lock = threading.Lock()
        self.samples = Samples()
        self.space = Workspace()

    def begin_save(self, budget: int) -> None:
        """Note that a save starts, and the budget it brings; blocks beyond that are dropped."""
        with self._lock:
            self._save += 1
            self._budget = budget
            while self._bytes > budget:
                self._drop(next(iter(self._held)))

    def get(self, address: bytes) -> Bytes | None:
        """The block of this address, or None. The caller must not change it."""
        with self._lock:
            held = self._held.get(address)
        intact = held is not None and hashing.address(held.block.data) == address
        with self._lock:
            if held is not None and intact:
                self._hits += 1
                held.save = self._save
                if address in self._held:
                    self._held.move_to_end(address)
                return held.block
            self._misses += 1
            if held is not None:
                self._damaged += 1
                if self._held.get(address) is held:
                    self._drop(address)
            return None

    def put(self, address: bytes, block: Bytes) -> None:
        """Keep a block that nobody else will change, if it fits."""
        with self._lock:
            held = self._held.get(address)
            if held is not None:
                held.save = held.put = self._save
                self._held.move_to_end(address)
                return
            while self._held and self._bytes + block.nbytes > self._budget:
                oldest = next(iter(self._held))
                if self._held[oldest].save >= self._save - 1:
                    return
                self._drop(oldest)
            if self._bytes + block.nbytes <= self._budget:
                self._held[address] = _Held(block, self._save, self._save)
                self._bytes += block.nbytes

    def discard(self, address: bytes) -> None:
        """Forget a block that was a base, if it is here and the save in progress did not put it itself."""
        with self._lock:
            held = self._held.get(address)
            if held is not None and held.put != self._save:
                self._drop(address)

    def discard_unused(self) -> None:
        """Forget what neither the save in progress nor the one before it put or used."""
        with self._lock:
            for address in [address for address, held in self._held.items() if held.save < self._save - 1]:
                self._drop(address)

    def stats(self) -> CacheStats:
        with self._lock:
            return CacheStats(len(self._held), self._bytes, self._hits, self._misses, self._damaged)

    def _drop(self, address: bytes) -> None:
        self._bytes -= self._held.pop(address).block.nbytes


# One cache per process and store: DCP's process-based saver unpickles a new writer for every save, and only what the
# process itself keeps can be found again.
_CACHES: dict[str, BaseCache] = {}
_CACHES_LOCK = threading.Lock()


def shared_cache(store_id: str) -> BaseCache:
    """The cache of this process for a store."""
    with _CACHES_LOCK:
        return _CACHES.setdefault(store_id, BaseCache(0))


def parse_base_memory(value: int | str) -> int:
    """A budget in bytes: an integer, or ``"auto"``, a quarter of the free memory divided by the ranks on this machine.

    Raises:
        InvalidArgumentError: it is neither.
    """
    if value == "auto":
        ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
        return int(psutil.virtual_memory().available) // 4 // (int(ranks) if ranks.isdigit() and int(ranks) else 1)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise InvalidArgumentError(f"base_memory must be 'auto' or a number of bytes, not {value!r}")
