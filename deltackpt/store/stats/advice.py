"""What could be done about a store, in plain words. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from deltackpt.store.stats.report import StepStats, StoreStats

__all__ = ["advise"]

# A delta that saves less than this is hardly worth the longer chain.
_LITTLE = 0.05
# A step or role of which this much is stored is no small one.
_MUCH = 0.5
# From this share on, dead bytes are worth a clean-up.
_DEAD = 0.1
# So many base blocks decoded from the store, of all, make saves slow.
_DECODED = 0.1
# How many steps are named.
_STEPS = 3

_MOMENTS = ("exp_avg", "exp_avg_sq", "momentum")


def advise(stats: StoreStats) -> StoreStats:
    """The same statistics, with advice."""
    return replace(stats, advice=tuple(_all(stats)))


def _all(stats: StoreStats) -> Iterator[str]:
    yield from _steps(stats)
    yield from _roles(stats)
    yield from _bases(stats)
    yield from _dead(stats)
    yield from _losses(stats)


def _steps(stats: StoreStats) -> Iterator[str]:
    poor = [step for step in stats.steps if _hardly(step.delta_saved) and step.stored_bytes > _MUCH * step.raw_bytes]
    moments = sum(role.stored_bytes for role in stats.roles if role.name in _MOMENTS)
    optimizer = moments > _MUCH * sum(role.stored_bytes for role in stats.roles)
    what = "keep the optimizer less often?" if optimizer else "save less often, or make each step a key step?"
    for step in sorted(poor, key=_percent_stored, reverse=True)[:_STEPS]:
        yield f"step {step.name}: {_percent_stored(step):.0f}% of raw, {_words(step.delta_saved)}; {what}"
    if len(poor) > _STEPS:
        yield f"{len(poor) - _STEPS} more steps are like that"


def _roles(stats: StoreStats) -> Iterator[str]:
    total = sum(role.stored_bytes for role in stats.roles)
    for role in stats.roles:
        if _hardly(role.delta_saved) and role.stored_bytes > total / 4:
            share = 100 * role.stored_bytes / total
            end = "; keep the optimizer at fewer steps than the model" if role.name in _MOMENTS else ""
            yield f"{role.name} is {share:.0f}% of what is stored, and {_words(role.delta_saved)}{end}"


def _bases(stats: StoreStats) -> Iterator[str]:
    used = stats.bases_cached + stats.bases_decoded
    if used and stats.bases_decoded > _DECODED * used:
        share = 100 * stats.bases_decoded / used
        yield (
            f"{share:.0f}% of base blocks were decoded from the store, not found in memory: a larger base_memory makes "
            "saves faster"
        )


def _dead(stats: StoreStats) -> Iterator[str]:
    if stats.dead.object_bytes > _DEAD * stats.stored_bytes:
        yield "what no step names could be deleted: see `deltackpt gc`"


def _losses(stats: StoreStats) -> Iterator[str]:
    worst = stats.losses[0] if stats.losses else None
    if worst is not None and len(stats.steps) >= 8 and worst.steps > _MUCH * len(stats.steps):
        yield (
            f"one lost pack would take {worst.steps} of {len(stats.steps)} steps along: more key steps make that "
            "fewer, `deltackpt protect` makes damage repairable"
        )


def _hardly(saved: float | None) -> bool:
    return saved is not None and saved < _LITTLE


def _percent_stored(step: StepStats) -> float:
    return 100 * step.stored_bytes / step.raw_bytes if step.raw_bytes else 0.0


def _words(saved: float | None) -> str:
    """What deltas saved."""
    if saved is None or saved >= 0:
        return f"delta saved {100 * (saved or 0.0):.0f}%"
    return f"delta cost {-100 * saved:.0f}% more"
