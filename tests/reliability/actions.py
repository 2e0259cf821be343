"""Things that are done to a store, and what may be left of each when it is stopped at any moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deltackpt.backend.base import Backend
from deltackpt.store.opened import OpenStore, create_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import State, Stored, save_step, split, state_bytes
from tests.reliability.checks import ABSENT, Place, Possible, digest

__all__ = ["ACTIONS", "Action", "build_store", "state"]

_STEPS = range(4)


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
            of them as in one of the two.
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


ACTIONS = (
    Action("save", _save, {("main", 4): ABSENT}, {("main", 4): digest_of(4)}),
    Action("overwrite", _overwrite, {("main", 3): digest_of(3)}, {("main", 3): digest_of(9)}),
    Action("branch", _branch, {("anneal", 7): ABSENT}, {("anneal", 7): digest_of(3)}),
)
