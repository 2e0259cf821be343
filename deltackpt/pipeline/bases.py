"""The bases of one save: chosen from what is visible, taken from memory or decoded from the store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import DeltackptError
from deltackpt.format.manifest import Manifest, ManifestHeader
from deltackpt.pipeline.decode import BlockDecoder
from deltackpt.store.base import UNUSABLE, BaseBlock, BaseView
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.catalog import VisibleStep, steps_before
from deltackpt.store.chain import POLICIES, Chain, choose_chain, key_chain
from deltackpt.store.chain_choice import KEY, ChainChoice, Measured, is_measured_at, pick_policy
from deltackpt.store.line import find_holders, find_in_chain
from deltackpt.store.opened import OpenStore
from deltackpt.store.options import AUTO, StoreOptions
from deltackpt.store.pending import Announcement

__all__ = ["BaseReader", "Bases", "GroupBases", "Start", "choose_start"]

_LOG = logging.getLogger("deltackpt")

Bytes = NDArray[np.uint8]

Measure = Callable[[BaseView, BaseView | None], Measured | None]
"""What a new step would take against the step before it and the one before that."""


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """What a save builds on.

    Attributes:
        base: the step whose blocks it refers to, as it is visible now.
        chain: its place in the chain.
        choice: the policy that this follows from.
        other: a second step to predict from.
        max_depth: of records; None for that of the store's options.
        parts: for artifacts that ``base`` does not hold at all, the steps to refer to instead.
    """

    base: BaseView | None
    chain: Chain
    choice: ChainChoice
    other: BaseView | None = None
    max_depth: int | None = None
    parts: Mapping[str, BaseView] = field(default_factory=dict)

    @property
    def views(self) -> list[BaseView]:
        """The steps that blocks may refer to."""
        found = [view for view in (self.base, self.other, *self.parts.values()) if view is not None]
        return list(dict.fromkeys(found))

    @classmethod
    def alone(cls, options: StoreOptions) -> Start:
        """A new chain, on nothing."""
        return cls(None, choose_chain("previous", options.key_every, None), ChainChoice(KEY))


@dataclass(frozen=True, slots=True)
class _Found:
    """A base as it is visible, and for artifacts that it does not hold the steps that do."""

    base: Manifest
    parts: Mapping[str, Manifest]
    chain: Chain
    choice: ChainChoice


def choose_start(
    store: OpenStore,
    branch: str,
    step: int,
    announcement: Announcement,
    measure: Measure,
    artifacts: Collection[str] = (),
) -> Start:
    """The base of a new step, and its place in the chain. The save is announced, with its base.

    Of each of ``artifacts`` that the base does not hold, such as an optimizer that is saved less often than its model,
    the newest step before it that does is a base, too. Without a base that can be read and that nobody is about to
    delete, the step starts a new chain; the reason is logged.
    """
    found = _find_start(store, branch, step, measure, artifacts)
    wanted = {} if found is None else {m.header.key: m for m in (found.base, *found.parts.values())}
    views = {m.header.key: BaseView(store, m) for m in announcement.claim(list(wanted.values()))}
    for key in wanted.keys() - views.keys():
        _LOG.warning("step %s:%d is written without a base: %s is about to be deleted", branch, step, key)
    if found is None or found.base.header.key not in views:
        return Start.alone(store.options)
    parts = {name: views[m.header.key] for name, m in found.parts.items() if m.header.key in views}
    return Start(views[found.base.header.key], found.chain, found.choice, parts=parts)


def _find_start(
    store: OpenStore, branch: str, step: int, measure: Measure, artifacts: Collection[str]
) -> _Found | None:
    options = store.options
    try:
        earlier = steps_before(store, branch, step)
        if not earlier:
            return None
        previous = store.header(earlier[0].key, earlier[0].manifest_bytes)
        choice = _choose_policy(store, earlier, previous, measure)
        if choice.policy == KEY:
            chain = key_chain("previous", previous)
        else:
            chain = choose_chain(choice.policy, options.key_every, previous)
            if choice.measured is not None and choice.measured.far is None:
                # Too early to know which of the two the next step will want.
                chain = replace(chain, keep=True, last=False)
        assert chain.base is not None
        base = store.manifest(find_in_chain(store, earlier, chain.base))
    except UNUSABLE as error:
        _LOG.warning("step %s:%d is written without a base: %s", branch, step, error)
        return None
    return _Found(base, _find_parts(store, earlier, base.header, artifacts), chain, choice)


def _find_parts(
    store: OpenStore, earlier: Sequence[VisibleStep], base: ManifestHeader, artifacts: Collection[str]
) -> dict[str, Manifest]:
    missing = set(artifacts) - base.artifacts.keys()
    try:
        keys = find_holders(store, earlier, base.key, missing) if missing else {}
        manifests = {key: store.manifest(key) for key in set(keys.values())}
    except UNUSABLE as error:
        _LOG.warning("%s is stored whole: %s", ", ".join(sorted(missing)), error)
        return {}
    return {artifact: manifests[key] for artifact, key in keys.items()}


def _choose_policy(
    store: OpenStore, earlier: Sequence[VisibleStep], previous: ManifestHeader, measure: Measure
) -> ChainChoice:
    """The policy for the next step; with ``auto`` from what is measured, or was for the step before."""
    options = store.options
    if options.chain != AUTO:
        return ChainChoice(options.chain)
    kept, distance = previous.writer.get("chain"), previous.distance + 1
    usual = ChainChoice(str(kept) if kept in POLICIES else "previous")
    if distance >= options.key_every or (kept in POLICIES and not is_measured_at(distance)):
        return usual
    measured = measure(BaseView(store, store.manifest(earlier[0].key)), _view(store, earlier[1:]))
    if measured is None:
        return usual
    followed = str(kept) if kept in POLICIES else None
    return ChainChoice(pick_policy(measured, options.key_every, options.max_depth, followed), measured)


def _view(store: OpenStore, steps: Sequence[VisibleStep]) -> BaseView | None:
    """The first of the steps as a base, if there is one that can be read."""
    try:
        return BaseView(store, store.manifest(steps[0].key)) if steps else None
    except UNUSABLE as error:
        _LOG.warning("what a longer distance costs is not measured: %s", error)
        return None


class BaseReader(Protocol):
    """Gives the bytes of base blocks."""

    def read(self, block: BaseBlock) -> Bytes | None:
        """The bytes of a base block; None where it cannot be read."""
        ...

    def read_all(self, blocks: Sequence[BaseBlock]) -> dict[bytes, Bytes] | None:
        """The bytes of several base blocks by address; None where one of them cannot be read."""
        ...


class Bases:
    """Gives the bytes of base blocks; safe to use from many threads."""

    def __init__(self, store: OpenStore, views: Sequence[BaseView], cache: BaseCache) -> None:
        self._cache = cache
        self._decoders = [(view, BlockDecoder(store, view.lookup)) for view in views]
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
        decoder = next((decoder for view, decoder in self._decoders if view.lists(block.ref.identity)), None)
        if decoder is None:
            return None
        try:
            return self._count("decoded", decoder.decode(block.ref))
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
