"""Chain policies: against which step a save writes its deltas, and when it starts anew with a key step. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from deltackpt.errors import InvalidArgumentError
from deltackpt.format.manifest import ManifestHeader

__all__ = ["POLICIES", "Chain", "base_distance", "choose_chain", "key_chain"]

POLICIES = ("previous", "anchor", "skip")
"""The fixed policies. ``auto`` picks one of them (``store/chain_choice.py``)."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Where a new step stands in its chain.

    Attributes:
        base: the distance from its key step of the step that deltas and duplicates refer to: ``distance - 1`` is the
            step before. None at the start of a line.
        delta: whether deltas may be written; without, only key records of the base are reused.
        key: (branch, step) of the key step of the chain, or None where the new step is it.
        distance: how many steps were written since that key step; 0 for a key step.
        keep: whether later steps will want this step's blocks as their bases.
        last: whether none after this one will want those of its base.
    """

    base: int | None
    delta: bool
    key: tuple[str, int] | None
    distance: int
    keep: bool
    last: bool


def base_distance(policy: str, distance: int) -> int:
    """How far from the key step the base of the step at ``distance`` (at least 1) stands.

    ``skip`` clears the lowest set bit, as the skip-deltas of Subversion do (``subversion/libsvn_fs_fs/structure``): as
    many deltas lead to a step as its distance has bits that are set.

    Raises:
        InvalidArgumentError: an unknown policy.
    """
    if policy == "previous":
        return distance - 1
    if policy == "anchor":
        return 0
    if policy == "skip":
        return distance & (distance - 1)
    raise InvalidArgumentError(f"unknown chain {policy!r}", hint=f"one of: {', '.join(POLICIES)}")


def choose_chain(policy: str, key_every: int, previous: ManifestHeader | None) -> Chain:
    """The chain for the step after ``previous``, the newest earlier step of the line (None where there is none)."""
    if previous is None:
        return Chain(None, False, None, 0, keep=True, last=True)
    distance = previous.distance + 1
    if distance >= key_every:
        return key_chain(policy, previous)
    base = base_distance(policy, distance)
    # With skip, a step is the base of those that differ from it in one bit below its lowest one.
    return Chain(
        base,
        True,
        previous.chain_key,
        distance,
        keep={"previous": True, "anchor": False, "skip": distance % 2 == 0}[policy],
        last={"previous": True, "anchor": False, "skip": 2 * _lowest(distance) == _lowest(base)}[policy],
    )


def key_chain(policy: str, previous: ManifestHeader) -> Chain:
    """A key step after ``previous``: what it has in common with an earlier step is not written again."""
    base = 0 if policy == "anchor" else previous.distance
    return Chain(base, False, None, 0, keep=True, last=True)


def _lowest(number: int) -> int:
    """The lowest set bit, as a number."""
    return number & -number
