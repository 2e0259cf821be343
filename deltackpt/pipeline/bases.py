"""The bases of one save: chosen from what is visible, taken from memory or decoded from the store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import DeltackptError
from deltackpt.format.manifest import Manifest
from deltackpt.pipeline.decode import BlockDecoder
from deltackpt.store.base import UNUSABLE, BaseBlock, BaseView
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.catalog import find_place, newest_before
from deltackpt.store.chain import Chain, choose_chain
from deltackpt.store.opened import OpenStore
from deltackpt.store.pending import Announcement

__all__ = ["Bases", "GroupBases", "choose_base"]

_LOG = logging.getLogger("deltackpt")

Bytes = NDArray[np.uint8]


def choose_base(store: OpenStore, branch: str, step: int, announcement: Announcement) -> tuple[BaseView | None, Chain]:
    """The chain of a new step, and its base as it is visible now. The save is announced, with its base.

    Without a base that can be read and that nobody is about to delete, the step starts a new chain; the reason is
    logged.
    """
    manifest, chain = _find_base(store, branch, step)
    usable = announcement.claim([] if manifest is None else [manifest])
    if usable:
        return BaseView(store, usable[0]), chain
    if manifest is not None:
        _LOG.warning(
            "step %s:%d is written without a base: %s is about to be deleted", branch, step, manifest.header.key
        )
    return None, choose_chain(store.options, None)


def _find_base(store: OpenStore, branch: str, step: int) -> tuple[Manifest | None, Chain]:
    alone = choose_chain(store.options, None)
    try:
        newest = newest_before(store, branch, step)
        if newest is None:
            return None, alone
        chain = choose_chain(store.options, store.header(newest.key, newest.manifest_bytes))
        base = None if chain.base is None else find_place(store, *chain.base)
        if base is None:
            return None, alone
        return store.manifest(base.key), chain
    except UNUSABLE as error:
        _LOG.warning("step %s:%d is written without a base: %s", branch, step, error)
        return None, alone


class Bases:
    """Gives the bytes of base blocks; safe to use from many threads."""

    def __init__(self, store: OpenStore, view: BaseView | None, cache: BaseCache) -> None:
        self._cache = cache
        self._decoder = None if view is None else BlockDecoder(store, view.lookup)
        self._counts = {"cached": 0, "decoded": 0}
        self._damaged: set[str | None] = set()
        self._lock = threading.Lock()

    @property
    def cached(self) -> int:
        """How many blocks were found in memory."""
        return self._counts["cached"]

    @property
    def decoded(self) -> int:
        """How many blocks were decoded from the store."""
        return self._counts["decoded"]

    def read(self, block: BaseBlock) -> Bytes | None:
        """The bytes of a base block; None where it cannot be read any more, which is logged once an object."""
        held = self._cache.get(block.address)
        if held is not None:
            return self._count("cached", held)
        if self._decoder is None:
            return None
        try:
            return self._count("decoded", self._decoder.decode(block.ref))
        except UNUSABLE as error:
            self._log_once(error)
            return None

    def _log_once(self, error: DeltackptError) -> None:
        with self._lock:
            known = error.where in self._damaged
            self._damaged.add(error.where)
        if not known:
            _LOG.warning("blocks are stored whole because their base cannot be read: %s", error)

    def _count(self, source: str, data: Bytes) -> Bytes:
        with self._lock:
            self._counts[source] += 1
        return data


class GroupBases:
    """The base blocks of one group, each read once; used by one thread."""

    def __init__(self, bases: Bases) -> None:
        self._bases = bases
        self._read: dict[bytes, Bytes | None] = {}

    def read(self, block: BaseBlock) -> Bytes | None:
        """The bytes of a base block; None where it cannot be read."""
        if block.address not in self._read:
            self._read[block.address] = self._bases.read(block)
        return self._read[block.address]

    def read_all(self, blocks: Sequence[BaseBlock]) -> dict[bytes, Bytes] | None:
        """The bytes of several base blocks by address; None where one of them cannot be read."""
        found: dict[bytes, Bytes] = {}
        for block in blocks:
            data = self.read(block)
            if data is None:
                return None
            found[block.address] = data
        return found
