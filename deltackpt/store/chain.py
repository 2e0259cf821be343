"""Chain policies: against which step a save writes its deltas, and when it starts anew with a key step. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import ManifestHeader
from deltackpt.store.options import StoreOptions

__all__ = ["Chain", "choose_chain"]


@dataclass(frozen=True, slots=True)
class Chain:
    """Where a new step stands in its chain.

    Attributes:
        base: (branch, step) of the step that deltas and duplicates refer to, or None at the start of a line.
        delta: whether deltas may be written; without, only key records of the base are reused.
        key: (branch, step) of the key step of the chain, or None where the new step is it.
        distance: steps since that key step; 0 for a key step.
        keep: whether later steps will want this step's blocks as their bases.
    """

    base: tuple[str, int] | None
    delta: bool
    key: tuple[str, int] | None
    distance: int
    keep: bool


def choose_chain(options: StoreOptions, previous: ManifestHeader | None) -> Chain:
    """The chain for the step after ``previous``, the newest earlier step of the line (None where there is none)."""
    if previous is None:
        return Chain(None, False, None, 0, keep=True)
    place = _place(previous.key)
    if previous.distance + 1 >= options.key_every:
        base = place if options.chain == "previous" else previous.chain_key
        return Chain(base, False, None, 0, keep=True)
    if options.chain == "anchor":
        return Chain(previous.chain_key, True, previous.chain_key, previous.distance + 1, keep=False)
    return Chain(place, True, previous.chain_key, previous.distance + 1, keep=True)


def _place(key: StepKey) -> tuple[str, int]:
    return key.branch, key.step
