"""Which steps a store has: what its manifests' keys say, before any is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from deltackpt.format.keys import MANIFESTS, StepKey, branch_prefix, parse_manifest_key, step_prefix
from deltackpt.store.names import find_branch_start, read_branch_starts
from deltackpt.store.opened import OpenStore
from deltackpt.store.specs import DEFAULT_BRANCH

__all__ = [
    "VisibleStep",
    "all_manifests",
    "find_place",
    "newest_before",
    "parents_first",
    "steps_before",
    "visible_steps",
]


@dataclass(frozen=True, slots=True, order=True)
class VisibleStep:
    """A step that exists: its newest generation and the size of that manifest in bytes."""

    key: StepKey
    manifest_bytes: int


def all_manifests(store: OpenStore, prefix: str = MANIFESTS) -> Iterator[VisibleStep]:
    """Every generation of every step whose manifest's key starts with ``prefix``, in the order of the keys."""
    for found in store.backend.list(prefix):
        key = parse_manifest_key(found.key)
        if key is not None:
            yield VisibleStep(key, found.size)


def visible_steps(store: OpenStore, branch: str | None = None) -> list[VisibleStep]:
    """All steps in order of branch and number; only those of one branch if it is given."""
    newest: dict[tuple[str, int], VisibleStep] = {}
    for step in all_manifests(store, MANIFESTS if branch is None else branch_prefix(branch)):
        place = (step.key.branch, step.key.step)
        if place not in newest or newest[place].key.generation < step.key.generation:
            newest[place] = step
    return sorted(newest.values())


def parents_first(store: OpenStore, steps: Iterable[VisibleStep]) -> list[VisibleStep]:
    """Steps in an order in which those of a branch come after those of the branch that it starts in."""
    starts = read_branch_starts(store)

    def generation(branch: str) -> int:
        line = [branch]
        while line[-1] in starts and starts[line[-1]].start.branch not in line:
            line.append(starts[line[-1]].start.branch)
        return len(line)

    return sorted(steps, key=lambda step: (generation(step.key.branch), step))


def find_place(store: OpenStore, branch: str, step: int) -> VisibleStep | None:
    """The newest generation of exactly this step, or None where it does not exist."""
    found = (s for s in all_manifests(store, step_prefix(branch, step)) if s.key.step == step)
    return max(found, default=None)


def steps_before(store: OpenStore, branch: str, step: int) -> list[VisibleStep]:
    """The steps that a step with this number comes after, newest first: those of its branch, then of where it starts.

    A branch may number its steps anew: of its parent, the steps up to the one where it starts come before all.
    """
    line = [s for s in reversed(visible_steps(store, branch)) if s.key.step < step]
    seen = {branch}
    while branch != DEFAULT_BRANCH:
        found = find_branch_start(store, branch)
        if found is None or found.start.branch in seen:
            break
        branch = found.start.branch
        seen.add(branch)
        line += [s for s in reversed(visible_steps(store, branch)) if s.key.step <= found.start.step]
    return line


def newest_before(store: OpenStore, branch: str, step: int) -> VisibleStep | None:
    """The newest step that a step with this number comes after."""
    return next(iter(steps_before(store, branch, step)), None)
