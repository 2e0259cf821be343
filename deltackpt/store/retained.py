"""Which steps a retention keeps. Pure: from what is known of the steps, to why each one stays."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from deltackpt.format.keys import StepKey
from deltackpt.schedule.duration import format_duration
from deltackpt.store.listing import ListedStep
from deltackpt.store.retention import Retention, parse_best
from deltackpt.store.specs import best_of

__all__ = ["plan_retention"]


def plan_retention(steps: Sequence[ListedStep], retention: Retention) -> dict[StepKey, tuple[str, ...]]:
    """Why each step stays: the rules that keep it; none for a step that goes.

    Args:
        steps: those of one branch, in order of their numbers.
    """
    reasons: dict[StepKey, list[str]] = {step.key: [] for step in steps}
    last = retention.keep_last or 0
    for step in steps[max(0, len(steps) - last) :] if last else ():
        reasons[step.key].append(f"keep-last {last}")
    for step in steps:
        if retention.keep_every and step.key.step % retention.keep_every == 0:
            reasons[step.key].append(f"keep-every {retention.keep_every}")
    for rule in retention.keep_best:
        count, metric, largest = parse_best(rule)
        for position in best_of([step.metrics.get(metric) for step in steps], count, largest=largest):
            reasons[steps[position].key].append(f"keep-best {rule}")
    if isinstance(retention.keep_within, timedelta) and steps:
        since = max(step.created for step in steps) - retention.keep_within
        for step in steps:
            if step.created >= since:
                reasons[step.key].append(f"keep-within {format_duration(retention.keep_within.total_seconds())}")
    for step in steps:
        reasons[step.key] += [f"tag {name}" for name in step.tags if {name, "*"} & set(retention.keep_tag)]
    return {key: tuple(found) for key, found in reasons.items()}
