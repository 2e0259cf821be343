"""Things that are done to a store, and what may be left of each when it is stopped at any moment."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from deltackpt import Retention, Store
from deltackpt.backend.base import Backend
from deltackpt.backend.memory import MemoryBackend
from deltackpt.pipeline.prune import prune_store
from deltackpt.pipeline.save import SaveSettings
from deltackpt.store.collect import collect
from deltackpt.store.opened import OpenStore, create_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import State, Stored, save_step, split, state_bytes
from tests.reliability.checks import ABSENT, Place, Possible, digest, digests

__all__ = ["ACTIONS", "Action", "build_store", "state"]

_STEPS = range(4)
_SETTINGS = SaveSettings(1, 0)


def state(number: int) -> State:
    """A small model with a moment, a part that never changes, and an object."""
    rng = np.random.default_rng(7)
    base = rng.standard_normal((24, 16)).astype(np.float32)
    drift = np.random.default_rng(number).standard_normal((24, 16)).astype(np.float32)
    return {
        "w": Stored((base * (1 + 1e-5 * number * drift)).astype(np.float32), boxes=split((24, 16), 2)),
        "m": Stored(drift / 8, artifact="optim", role="exp_avg"),
        "frozen": rng.standard_normal((8, 16)).astype(np.float32),
        "o": Stored(np.arange(40, dtype=np.uint8) + number, kind="object", artifact="train"),
    }


def digest_of(number: int) -> bytes:
    """The digest of a state."""
    return digest(state_bytes(state(number)))


def build_store(backend: Backend) -> OpenStore:
    """A store with steps 0 to 3 on main, made of several packs and blocks."""
    store = create_store(backend, StoreOptions(block_elements=64, pack_bytes=1024))
    for step in _STEPS:
        save_step(store, state(step), step=step, writers=2)
    return store


@dataclass(frozen=True, slots=True)
class Action:
    """Something done to the store of :func:`build_store`.

    Attributes:
        run: does it.
        before, after: what steps it may change hold, before it and when it is done. One that is stopped leaves each
            of them as in one of the two, which are the same where steps are only written anew.
    """

    name: str
    run: Callable[[OpenStore], object]
    before: dict[Place, bytes]
    after: dict[Place, bytes]

    def possible(self, *, done: bool = False) -> Possible:
        """What every step may be when it was stopped, or when it is done."""
        steps = {("main", step): {digest_of(step)} for step in _STEPS}
        for place, held in self.after.items():
            steps[place] = {held} if done else {held, self.before[place]}
        return steps


def _save(store: OpenStore) -> None:
    save_step(store, state(4), step=4, writers=2)


def _overwrite(store: OpenStore) -> None:
    save_step(store, state(9), step=3)


def _branch(store: OpenStore) -> None:
    save_step(store, state(3), step=7, branch="anneal")


def _prune(store: OpenStore) -> None:
    prune_store(store, Retention(keep_last=2), branches=["main"], settings=_SETTINGS)


def _prune_and_rebase(store: OpenStore) -> None:
    prune_store(store, Retention(keep_last=2), branches=["main"], settings=_SETTINGS, rebase=True)


def _prune_and_collect(store: OpenStore) -> None:
    _prune(store)
    collect(store, grace=timedelta(0))


def _replace_and_collect(store: OpenStore) -> None:
    """What was overwritten is garbage, in packs that other steps need as well."""
    _overwrite(store)
    collect(store, grace=timedelta(0))


def _repack(store: OpenStore) -> None:
    Store(store).repack("smallest", max_depth=3)


def _repack_and_collect(store: OpenStore) -> None:
    _repack(store)
    collect(store, grace=timedelta(0))


def _import(store: OpenStore) -> None:
    """Two checkpoints, as files."""
    with tempfile.TemporaryDirectory() as name:
        for step in (7, 8):
            path = Path(name) / f"step{step}.npy"
            np.save(path, np.full((16, 16), step, dtype=np.float32))
            os.utime(path, (step, step))  # what is kept of a file covers when it was changed
        Store(store).import_checkpoints([name], branch="files", pattern="step{step}.npy")


_THINNED = {("main", 0): digest_of(0), ("main", 1): digest_of(1)}
_SAME = {("main", step): digest_of(step) for step in _STEPS}
_GONE = dict.fromkeys(_THINNED, ABSENT)


def _imported() -> dict[Place, bytes]:
    """What the import leaves, as one that nothing stops leaves it."""
    store = build_store(MemoryBackend())
    _import(store)
    return {place: held for place, held in digests(store).items() if place[0] == "files"}


ACTIONS = (
    Action("save", _save, {("main", 4): ABSENT}, {("main", 4): digest_of(4)}),
    Action("overwrite", _overwrite, {("main", 3): digest_of(3)}, {("main", 3): digest_of(9)}),
    Action("prune", _prune, _THINNED, _GONE),
    Action("rebase", _prune_and_rebase, _THINNED, _GONE),
    Action("gc", _prune_and_collect, _THINNED, _GONE),
    Action("repack", _repack, _SAME, _SAME),
    Action("repack, gc", _repack_and_collect, _SAME, _SAME),
    Action("replace", _replace_and_collect, {("main", 3): digest_of(3)}, {("main", 3): digest_of(9)}),
    Action("import", _import, dict.fromkeys(_imported(), ABSENT), _imported()),
    Action("branch", _branch, {("anneal", 7): ABSENT}, {("anneal", 7): digest_of(3)}),
)
