"""Which steps a store has, and which one a user means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deltackpt.errors import InvalidArgumentError, StepNotFoundError
from deltackpt.format.keys import MANIFESTS, StepKey, branch_prefix, check_branch, parse_manifest_key, step_prefix
from deltackpt.store.opened import OpenStore

__all__ = [
    "DEFAULT_BRANCH",
    "StepRef",
    "VisibleStep",
    "find_place",
    "find_step",
    "newest_before",
    "parse_step",
    "steps_before",
    "visible_steps",
]

DEFAULT_BRANCH = "main"


@dataclass(frozen=True, slots=True, order=True)
class VisibleStep:
    """A step that exists: its newest generation and the size of that manifest in bytes."""

    key: StepKey
    manifest_bytes: int


@dataclass(frozen=True, slots=True)
class StepRef:
    """What a user wrote for a step: a branch and a number, or the newest (``step`` None)."""

    branch: str
    step: int | None


def visible_steps(store: OpenStore, branch: str | None = None) -> list[VisibleStep]:
    """All steps in order of branch and number; only those of one branch if it is given."""
    prefix = MANIFESTS if branch is None else branch_prefix(branch)
    newest: dict[tuple[str, int], VisibleStep] = {}
    for key, size in _manifests(store, prefix):
        place = (key.branch, key.step)
        if place not in newest or newest[place].key.generation < key.generation:
            newest[place] = VisibleStep(key, size)
    return sorted(newest.values())


def _manifests(store: OpenStore, prefix: str) -> Iterator[tuple[StepKey, int]]:
    for found in store.backend.list(prefix):
        key = parse_manifest_key(found.key)
        if key is not None:
            yield key, found.size


def parse_step(spec: int | str, branch: str = DEFAULT_BRANCH) -> StepRef:
    """Read a step as users write it: ``1000``, ``"latest"``, ``"BRANCH:1000"``, ``"BRANCH:latest"``.

    Raises:
        InvalidArgumentError: it is none of these.
        InvalidNameError: the branch is not a name.
    """
    text = str(spec)
    if ":" in text:
        branch, text = text.split(":", 1)
    check_branch(branch)
    if text == "latest":
        return StepRef(branch, None)
    if text.isascii() and text.isdigit() and len(text) <= 12:
        return StepRef(branch, int(text))
    raise InvalidArgumentError(f"{spec!r} is not a step", hint="write 1000, latest, BRANCH:1000 or BRANCH:latest")


def find_step(store: OpenStore, ref: StepRef) -> VisibleStep:
    """The step that is meant, as it is now.

    Raises:
        StepNotFoundError: there is none; the message says what there is.
    """
    steps = visible_steps(store, ref.branch)
    if not steps:
        branches = sorted({s.key.branch for s in visible_steps(store)})
        raise StepNotFoundError(
            f"branch {ref.branch} has no steps",
            where=store.url,
            hint=f"branches: {', '.join(branches)}" if branches else "nothing has been saved yet",
        )
    if ref.step is None:
        return steps[-1]
    for step in steps:
        if step.key.step == ref.step:
            return step
    near = sorted(sorted(steps, key=lambda s: abs(s.key.step - (ref.step or 0)))[:3])
    raise StepNotFoundError(
        f"there is no step {ref.branch}:{ref.step}",
        where=store.url,
        hint=f"the nearest are {', '.join(str(s.key.step) for s in near)}",
    )


def find_place(store: OpenStore, branch: str, step: int) -> VisibleStep | None:
    """The newest generation of exactly this step, or None where it does not exist."""
    newest = [VisibleStep(key, size) for key, size in _manifests(store, step_prefix(branch, step)) if key.step == step]
    return max(newest, default=None)


def steps_before(store: OpenStore, branch: str, step: int) -> list[VisibleStep]:
    """The steps that a step with this number comes after, newest first."""
    return [s for s in reversed(visible_steps(store, branch)) if s.key.step < step]


def newest_before(store: OpenStore, branch: str, step: int) -> VisibleStep | None:
    """The newest step that a step with this number comes after."""
    return next(iter(steps_before(store, branch, step)), None)
