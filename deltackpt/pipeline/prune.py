"""Thin out a history: plan what goes and what that frees, then do it (``docs/retention.md``)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from deltackpt.errors import InvalidArgumentError, StepNotFoundError
from deltackpt.format.keys import StepKey, index_key, pack_key, step_prefix
from deltackpt.pipeline.rewrite import rewrite_step
from deltackpt.pipeline.save import SaveSettings
from deltackpt.store.listing import ListedStep, list_steps
from deltackpt.store.names import read_branch_starts
from deltackpt.store.opened import OpenStore
from deltackpt.store.remove import remove_manifests, remove_steps
from deltackpt.store.retained import plan_retention
from deltackpt.store.retention import Retention
from deltackpt.store.thin import thin_manifest, thin_step
from deltackpt.store.usage import Listed, all_objects, read_listed
from deltackpt.store.visible import all_manifests, visible_steps

__all__ = ["KeptStep", "PruneReport", "PrunedStep", "prune_store"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class KeptStep:
    """A step that stays.

    Attributes:
        reasons: the rules that keep it.
        pinned_bytes: stored for steps that go, and listed by this one. Several steps may pin the same bytes.
    """

    branch: str
    step: int
    reasons: tuple[str, ...]
    pinned_bytes: int


@dataclass(frozen=True, slots=True)
class PrunedStep:
    """A step that goes, or goes in part.

    Attributes:
        metrics, tags: as listed.
        artifacts: what goes of it; None for all.
    """

    branch: str
    step: int
    tags: tuple[str, ...]
    artifacts: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune did, or would do.

    Attributes:
        kept, pruned: the steps of the branches in question.
        damaged: steps whose manifest cannot be read, as ``"BRANCH:STEP"``: they stay.
        spared: steps that were to go, but that a save in progress builds on, as ``"BRANCH:STEP"``.
        rebased: steps that were written anew so that they need nothing of those that go, as ``"BRANCH:STEP"``.
        freed_bytes: what no step lists any more and gc may delete, with the manifests themselves. Without bytes that
            rebasing frees.
        pinned_bytes: stored for the steps that go, but listed by steps that stay; each byte counted once.
        dry_run: whether nothing was done.
    """

    kept: tuple[KeptStep, ...]
    pruned: tuple[PrunedStep, ...]
    damaged: tuple[str, ...]
    spared: tuple[str, ...]
    rebased: tuple[str, ...]
    freed_bytes: int
    pinned_bytes: int
    dry_run: bool


@dataclass(slots=True)
class _Plan:
    kept: dict[StepKey, tuple[str, ...]] = field(default_factory=dict)
    pruned: list[ListedStep] = field(default_factory=list)
    damaged: list[StepKey] = field(default_factory=list)


def prune_store(
    store: OpenStore,
    retention: Retention,
    *,
    branches: Collection[str] | None,
    settings: SaveSettings,
    only: Collection[str] = (),
    rebase: bool = False,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> PruneReport:
    """Delete the steps of branches that no rule keeps; each branch by itself.

    Args:
        branches: None for all.
        only: artifacts: of steps that no rule keeps, only these go.
        rebase: write steps that stay anew where they need what belongs to steps that go.
        force: whether the newest step of a branch may go, too.
        dry_run: only say what would be done.
        progress: called with the manifests read and the manifests in all.

    Raises:
        StepNotFoundError: there is no such branch.
        InvalidArgumentError: ``only`` and ``rebase`` exclude each other.
        CorruptObjectError: with ``dry_run``, a manifest that cannot be read keeps the bytes from being counted.
    """
    if only and rebase:
        raise InvalidArgumentError("only and rebase exclude each other", hint="prune twice")
    plan = _plan(store, retention, branches, force=force)
    pruned = [step for step in plan.pruned if not only or set(only) & set(step.header.artifacts)]
    thinned = [step for step in pruned if only and set(step.header.artifacts) - set(only)]
    removed = {(s.key.branch, s.key.step) for s in pruned} - {(s.key.branch, s.key.step) for s in thinned}
    readable = [step for step in all_manifests(store) if step.key not in plan.damaged]
    before = read_listed(store, chosen=readable, progress=progress)
    after = before.without(key for key in before.by_step if (key.branch, key.step) in removed)
    after = after.replaced(thin_manifest(store, store.manifest(step.key), only) for step in thinned)
    freed, pinned, by_step = _count(store, before, after, removed)
    spared: list[StepKey] = []
    rebased: list[StepKey] = []
    if not dry_run:
        if rebase:
            rebased = [key for key in sorted(plan.kept) if by_step.get(key)]
            for key in rebased:
                rewrite_step(store, store.manifest(key), settings=settings)
                spared += _remove_replaced(store, key)
        for step in thinned:
            thin_step(store, store.manifest(step.key), only)
            spared += _remove_replaced(store, step.key)
        spared += remove_steps(store, removed).spared
    return PruneReport(
        kept=tuple(KeptStep(k.branch, k.step, why, by_step.get(k, 0)) for k, why in sorted(plan.kept.items())),
        pruned=tuple(
            PrunedStep(
                s.key.branch,
                s.key.step,
                s.tags if (s.key.branch, s.key.step) in removed else (),
                tuple(sorted(set(only) & set(s.header.artifacts))) if only else None,
            )
            for s in pruned
        ),
        damaged=tuple(map(_name, plan.damaged)),
        spared=tuple(dict.fromkeys(map(_name, spared))),
        rebased=tuple(map(_name, rebased)),
        freed_bytes=freed,
        pinned_bytes=pinned,
        dry_run=dry_run,
    )


def _plan(store: OpenStore, retention: Retention, branches: Collection[str] | None, *, force: bool) -> _Plan:
    plan = _Plan()
    there = sorted({step.key.branch for step in visible_steps(store)})
    wanted = there if branches is None else sorted(set(branches))
    starts = {
        (s.start.branch, s.start.step): name for name, s in read_branch_starts(store).items() if name not in there
    }
    for branch in wanted:
        if branch not in there:
            raise StepNotFoundError(
                f"branch {branch} has no steps", where=store.url, hint=f"branches: {', '.join(there)}"
            )
        listing = list_steps(store, branch)
        plan.damaged += [damaged.key for damaged in listing.damaged]
        reasons = plan_retention(listing.steps, retention)
        for step in listing.steps:
            why = reasons[step.key]
            if (step.key.branch, step.key.step) in starts:
                why += (f"branch {starts[step.key.branch, step.key.step]} starts here and has no steps yet",)
            if step is listing.steps[-1] and not force:
                why += ("newest",)
            if why:
                plan.kept[step.key] = why
            else:
                plan.pruned.append(step)
    return plan


def _count(
    store: OpenStore, before: Listed, after: Listed, removed: Collection[tuple[str, int]]
) -> tuple[int, int, dict[StepKey, int]]:
    """Bytes that come free, bytes that stay for others' sake, and for each step that stays how many of those it lists.

    An object belongs to the step that its writer saved. What some manifest that stays lists is not free.
    """
    if after.by_step == before.by_step:
        return 0, 0, {}
    sizes = all_objects(store)
    listed = after.objects()
    freed = sum(sizes.get(key, 0) for key in before.objects() - listed)
    freed += sum(size for key, size in before.sizes.items() if key not in after.sizes)
    owned: set[str] = set()
    gone = [key for key in before.by_step if (key.branch, key.step) in removed]
    for name in sorted({name for key in gone for name in before.by_step[key][0] if index_key(name) in listed}):
        index = store.index(name)
        if (index.header.branch, index.header.step) in removed:
            owned.add(index_key(name))
            owned.update(pack_key(pack.name) for pack in index.location.packs)
    owned &= listed
    pinned = {key: sum(sizes.get(name, 0) for name in after.objects([key]) & owned) for key in after.by_step}
    return freed, sum(sizes.get(key, 0) for key in owned), pinned


def _remove_replaced(store: OpenStore, key: StepKey) -> tuple[StepKey, ...]:
    """Delete the generations of a step but for the newest; which of them stay for the sake of a save in progress."""
    *older, _ = sorted(found.key for found in all_manifests(store, step_prefix(key.branch, key.step)))
    return remove_manifests(store, older).spared


def _name(key: StepKey) -> str:
    return f"{key.branch}:{key.step}"
