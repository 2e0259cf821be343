"""What must hold of a store after anything went wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from deltackpt.backend.base import Backend
from deltackpt.format.hashing import blake3_digest
from deltackpt.pipeline.verify import verify_store
from deltackpt.store.catalog import visible_steps
from deltackpt.store.collect import collect
from deltackpt.store.opened import OpenStore, open_store
from deltackpt.testing.arrays import State, load_step, save_step, state_bytes

__all__ = ["ABSENT", "Place", "Possible", "check_store", "digest", "digests"]

Place: TypeAlias = tuple[str, int]

# The digest that stands for a step that is not there.
ABSENT = b""

# For each step what it may be: the digests of states, or ABSENT.
Possible: TypeAlias = Mapping[Place, Set[bytes]]


def digest(content: Mapping[str, bytes]) -> bytes:
    """One digest for the bytes of all tensors of a step."""
    return blake3_digest(b"".join(name.encode() + b"\0" + blake3_digest(content[name]) for name in sorted(content)))


def digests(store: OpenStore) -> dict[Place, bytes]:
    """What every visible step holds."""
    return {
        (found.key.branch, found.key.step): digest(load_step(store, f"{found.key.branch}:{found.key.step}"))
        for found in visible_steps(store)
    }


@dataclass(frozen=True, slots=True)
class Seen:
    """What a check found: the steps, so that a test can tell that both ends of an action occur."""

    steps: Mapping[Place, bytes]


def check_store(backend: Backend, possible: Possible, *, next_state: State | None = None) -> Seen:
    """Demand that a store opens, lists only what it may and all of it exact, is whole, and goes on.

    Args:
        possible: what each step may hold; those not named must not be there.
        next_state: what is saved next; after that gc has to leave nothing that no step needs.
    """
    store = open_store(backend)
    found = digests(store)
    for place in set(possible) | set(found):
        held = found.get(place, ABSENT)
        assert held in possible.get(place, {ABSENT}), f"{place} is not what was saved"
    report = verify_store(store, deep=True, threads=1)
    assert report.ok, report.problems
    if next_state is not None:
        last = max((step for branch, step in found if branch == "main"), default=0)
        save_step(store, next_state, step=last + 1)
        wanted = {**found, ("main", last + 1): digest(state_bytes(next_state))}
        collect(open_store(backend), grace=timedelta(0))
        left = verify_store(open_store(backend), deep=False, threads=1)
        assert left.ok, left.problems
        assert left.unreferenced_bytes == 0
        assert digests(open_store(backend)) == wanted
    return Seen(found)
