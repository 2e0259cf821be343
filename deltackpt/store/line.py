"""The steps that a new one comes after."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import ManifestHeader
from deltackpt.store.catalog import VisibleStep
from deltackpt.store.opened import OpenStore

__all__ = ["find_holders", "find_in_chain"]

# How many steps are asked whether they hold a part of the state: each is a read, also where none ever held it.
_MOST_ASKED = 256


def find_in_chain(store: OpenStore, earlier: Sequence[VisibleStep], distance: int) -> StepKey:
    """The step that stands so far from the key step of its chain.

    Where it is gone, the nearest one before it in the chain; where there is none, the oldest one that is left.

    Args:
        earlier: the steps of the line, newest first, the first one of the chain in question.
        distance: of the step that is wanted; at most that of the first one.

    Raises:
        MissingObjectError, CorruptObjectError, UnknownVersionError: a manifest on the way cannot be read.
    """
    newest = found = _header(store, earlier[0])
    steps = newest.distance - distance
    if 0 < steps < len(earlier):
        # Where it is if no step was left out, added later or written anew: one read instead of many.
        guess = _header(store, earlier[steps])
        if (guess.chain_key, guess.distance) == (newest.chain_key, distance):
            return guess.key
    for step in earlier[1:]:
        if found.distance <= distance or _is_before(step.key, newest.chain_key):
            break
        header = _header(store, step)
        # Others came between later, or were written anew.
        if header.chain_key == newest.chain_key and header.distance < found.distance:
            found = header
    return found.key


def find_holders(
    store: OpenStore, earlier: Sequence[VisibleStep], base: StepKey, artifacts: Collection[str]
) -> dict[str, StepKey]:
    """For each artifact the newest step before ``base`` that has entries of it; those without one are left out.

    Args:
        earlier: the steps of the line, newest first.
        base: one of them.

    Raises:
        MissingObjectError, CorruptObjectError, UnknownVersionError: a manifest on the way cannot be read.
    """
    found: dict[str, StepKey] = {}
    start = next(number for number, step in enumerate(earlier) if step.key == base) + 1
    for step in earlier[start : start + _MOST_ASKED]:
        held = _header(store, step).artifacts.keys()
        found.update({artifact: step.key for artifact in artifacts if artifact in held and artifact not in found})
        if len(found) == len(artifacts):
            break
    return found


def _is_before(key: StepKey, place: tuple[str, int]) -> bool:
    return key.branch == place[0] and key.step < place[1]


def _header(store: OpenStore, step: VisibleStep) -> ManifestHeader:
    return store.header(step.key, step.manifest_bytes)
