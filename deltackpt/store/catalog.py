"""Which steps a store has, and which one a user means."""

from __future__ import annotations

from deltackpt.errors import StepNotFoundError
from deltackpt.store.listing import ListedStep, list_steps, log_damaged
from deltackpt.store.names import read_tags
from deltackpt.store.opened import OpenStore
from deltackpt.store.specs import (
    DEFAULT_BRANCH,
    BestRef,
    StepRef,
    StepSpec,
    TagRef,
    TimeRef,
    best_of,
    parse_step,
)
from deltackpt.store.visible import VisibleStep, find_place, newest_before, steps_before, visible_steps

__all__ = [
    "DEFAULT_BRANCH",
    "StepRef",
    "StepSpec",
    "VisibleStep",
    "find_place",
    "find_step",
    "newest_before",
    "parse_step",
    "steps_before",
    "visible_steps",
]


def find_step(store: OpenStore, spec: StepSpec) -> VisibleStep:
    """The step that is meant, as it is now.

    Raises:
        StepNotFoundError: there is none; the message says what there is.
    """
    if isinstance(spec, StepRef):
        return _find_number(store, spec)
    if isinstance(spec, TagRef):
        return _find_tag(store, spec)
    steps = _steps_of(store, spec.branch)
    if isinstance(spec, TimeRef):
        return _find_time(store, spec, steps)
    return _find_best(store, spec, steps)


def _find_number(store: OpenStore, ref: StepRef) -> VisibleStep:
    steps = visible_steps(store, ref.branch)
    if not steps:
        raise _no_steps(store, ref.branch)
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


def _find_tag(store: OpenStore, ref: TagRef) -> VisibleStep:
    tags = read_tags(store)
    if ref.name not in tags:
        raise StepNotFoundError(
            f"there is no tag {ref.name!r}",
            where=store.url,
            hint=f"tags: {', '.join(sorted(tags))}" if tags else "make one with `deltackpt tag`",
        )
    return _find_number(store, StepRef(tags[ref.name].branch, tags[ref.name].step))


def _find_time(store: OpenStore, ref: TimeRef, steps: list[ListedStep]) -> VisibleStep:
    earlier = [step for step in steps if step.created <= ref.time]
    if not earlier:
        first = min(step.header.created for step in steps)
        raise StepNotFoundError(
            f"branch {ref.branch} has no step from before {ref.time:%Y-%m-%d %H:%M:%S} UTC",
            where=store.url,
            hint=f"its first was saved at {first}",
        )
    return _visible(max(earlier, key=lambda step: (step.created, step.key)))


def _find_best(store: OpenStore, ref: BestRef, steps: list[ListedStep]) -> VisibleStep:
    best = best_of([step.metrics.get(ref.metric) for step in steps], 1, largest=ref.largest)
    if not best:
        # Those that have a best: texts, booleans and NaN have none.
        known = sorted({n for step in steps for n, value in step.metrics.items() if best_of([value], 1, largest=True)})
        raise StepNotFoundError(
            f"no step of branch {ref.branch} has a number for the metric {ref.metric!r}",
            where=store.url,
            hint=f"metrics with numbers: {', '.join(known)}" if known else "add some with `deltackpt annotate`",
        )
    return _visible(steps[best[0]])


def _steps_of(store: OpenStore, branch: str) -> list[ListedStep]:
    listing = list_steps(store, branch)
    log_damaged(listing.damaged)
    if not listing.steps:
        raise _no_steps(store, branch)
    return list(listing.steps)


def _no_steps(store: OpenStore, branch: str) -> StepNotFoundError:
    branches = sorted({s.key.branch for s in visible_steps(store)})
    return StepNotFoundError(
        f"branch {branch} has no steps",
        where=store.url,
        hint=f"branches: {', '.join(branches)}" if branches else "nothing has been saved yet",
    )


def _visible(step: ListedStep) -> VisibleStep:
    return VisibleStep(step.key, step.manifest_bytes)
