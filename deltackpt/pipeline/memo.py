"""Decoded blocks kept for a while, so that chains which share records decode them once."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from deltackpt.store.base import RecordRef

__all__ = ["BlockMemo"]

Bytes = NDArray[np.uint8]


class BlockMemo:
    """The most recently used blocks by record, up to a number of bytes; safe to use from many threads."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._blocks: OrderedDict[RecordRef, Bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, ref: RecordRef) -> Bytes | None:
        """The block, which the caller must not change, or None."""
        with self._lock:
            block = self._blocks.get(ref)
            if block is not None:
                self._blocks.move_to_end(ref)
            return block

    def put(self, ref: RecordRef, block: Bytes) -> None:
        """Keep a block that nobody will change."""
        with self._lock:
            if ref in self._blocks or block.nbytes > self._budget:
                return
            self._blocks[ref] = block
            self._bytes += block.nbytes
            while self._bytes > self._budget:
                self._bytes -= self._blocks.popitem(last=False)[1].nbytes
