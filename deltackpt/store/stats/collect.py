"""Statistics of a store, from one walk over its steps and one look at the records that they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from deltackpt.codec.registry import CODERS, PREDICTORS
from deltackpt.codec.types import Coder, Predictor
from deltackpt.format.index import Index
from deltackpt.format.keys import INDEXES, PACKS, index_key, pack_key
from deltackpt.store.base import UNUSABLE
from deltackpt.store.closure import find_closure
from deltackpt.store.listing import DamagedStep
from deltackpt.store.opened import OpenStore
from deltackpt.store.stats.advice import advise
from deltackpt.store.stats.blocks import Ints
from deltackpt.store.stats.report import DeadBytes, ObjectLoss, Share, StoreStats
from deltackpt.store.stats.walk import Sum, Walk
from deltackpt.store.visible import parents_first, visible_steps

__all__ = ["collect_stats"]

_BASES = "(bases)"

Progress = Callable[[int, int], None]


def collect_stats(store: OpenStore, *, worst: int = 5, progress: Progress | None = None) -> StoreStats:
    """Where the bytes of a store are. Reads every manifest and index, and no pack.

    Args:
        worst: how many packs to name among those that most steps need.
        progress: called with the steps done and the steps in all.
    """
    visible = parents_first(store, visible_steps(store))
    walk = Walk(store)
    steps, damaged = [], []
    for number, step in enumerate(visible):
        try:
            steps.append(walk.add(step))
        except UNUSABLE as error:
            damaged.append(DamagedStep(step.key, error))
        if progress is not None:
            progress(number + 1, len(visible))
    records = _Records()
    records.add_all(walk)
    unnamed = _unnamed(store, walk)
    losses = sorted(walk.users.items(), key=lambda item: (-item[1][1], -item[1][0], item[0]))[:worst]
    roles = {**walk.roles, **({_BASES: records.bases} if records.bases.records else {})}
    found = StoreStats(
        steps=tuple(sorted(steps, key=lambda step: (step.branch, step.step))),
        damaged=tuple(damaged),
        raw_bytes=sum(step.raw_bytes for step in steps),
        pack_bytes=sum(size for size, _ in walk.users.values()),
        index_bytes=sum(walk.index_sizes.values()),
        manifest_bytes=sum(step.manifest_bytes for step in visible),
        roles=_shares(roles),
        coders=_shares(_named(records.coders, CODERS, "coder")),
        predictors=_shares(_named(records.predictors, PREDICTORS, "predictor")),
        duplicate_blocks=sum(step.duplicate_blocks for step in steps),
        duplicate_bytes=sum(step.duplicate_bytes for step in steps),
        dead=DeadBytes(len(unnamed), sum(unnamed), records.dead.records, records.dead.stored),
        losses=tuple(
            ObjectLoss(pack_key(name), records.artifacts.get(name, ""), size, count) for name, (size, count) in losses
        ),
        packs=len(walk.users),
        advice=(),
    )
    return advise(found)


@dataclass(slots=True)
class _Records:
    """All records of the indexes that steps name.

    Attributes:
        coders, predictors: of those that some step needs, by id.
        bases: those that are needed by others only: no step has such a block.
        dead: those that nothing needs, in packs that are named for others.
        artifacts: of each pack.
    """

    coders: dict[int, Sum] = field(default_factory=dict)
    predictors: dict[int, Sum] = field(default_factory=dict)
    bases: Sum = field(default_factory=Sum)
    dead: Sum = field(default_factory=Sum)
    artifacts: dict[bytes, str] = field(default_factory=dict)

    def add_all(self, walk: Walk) -> None:
        """Add the records of every index that a step has been seen to name."""
        direct = dict(walk.seen.rows())
        needed = find_closure(direct.items(), walk.lookup).rows
        for identity in walk.objects:
            index = walk.lookup(identity)
            live = needed.get(identity, np.zeros(0, dtype=np.int64))
            self.artifacts.update((pack.name, pack.artifact) for pack in index.location.packs)
            _add_by(self.coders, index.identity.coder, index, live)
            _add_by(self.predictors, index.identity.predictor, index, live)
            self.bases.add(index, np.setdiff1d(live, direct.get(identity, live[:0])))
            dead = np.setdiff1d(np.arange(index.rows), live)
            named = np.array([pack.name in walk.users for pack in index.location.packs], dtype=np.bool_)
            self.dead.add(index, dead[named[index.location.pack[dead]]])


def _unnamed(store: OpenStore, walk: Walk) -> list[int]:
    """The sizes of packs and indexes that no step names."""
    named = {pack_key(name) for name in walk.users} | {index_key(name) for name in walk.index_sizes}
    return [found.size for prefix in (PACKS, INDEXES) for found in store.backend.list(prefix) if found.key not in named]


def _add_by(sums: dict[int, Sum], column: Ints, index: Index, live: Ints) -> None:
    kinds = column[live]
    for kind in np.unique(kinds).tolist():
        sums.setdefault(kind, Sum()).add(index, live[kinds == kind])


def _named(sums: Mapping[int, Sum], known: Sequence[Coder | Predictor], what: str) -> dict[str, Sum]:
    names = {coder.id: coder.name for coder in known}
    return {names.get(number, f"{what} {number}"): total for number, total in sums.items()}


def _shares(found: Mapping[str, Sum]) -> tuple[Share, ...]:
    """The largest first."""
    shares = (total.share(name) for name, total in found.items())
    return tuple(sorted(shares, key=lambda share: (-share.stored_bytes, share.name)))
