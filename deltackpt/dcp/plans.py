"""What ranks and the coordinator tell each other on DCP's save plans, in their ``storage_data``.

To the coordinator each rank says what it holds, back comes what its items are. Both describe the state and not the
step, so plans that DCP caches stay right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItemType

from deltackpt.dcp.entries import Path, classify_entries, places

__all__ = ["Held", "Kinds", "Labels", "all_paths", "label_items", "labels_of", "with_held", "without_caching"]

Kinds = Mapping[str, tuple[str, str]]
"""FQN to artifact and role."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one rank has of the state, whoever writes it.

    Attributes:
        items: in the order of its state. They are those of the plan itself, so that a pickle of both has them once.
    """

    items: tuple[MetadataIndex, ...]


@dataclass(frozen=True, slots=True)
class Labels:
    """What the items of one rank are. A rank sees a part of the state only, and would find other answers.

    Attributes:
        kinds: FQN to artifact and role.
    """

    kinds: Kinds


def with_held(plan: SavePlan) -> SavePlan:
    """A rank's own plan, as it goes to the coordinator; unchanged where DCP sends none because nothing changed."""
    if not _is_usable(plan):
        return plan
    return dataclasses.replace(plan, storage_data=Held(tuple(item.index for item in plan.items)))


def without_caching(plans: Sequence[SavePlan]) -> list[SavePlan] | None:
    """All ranks' plans in full; None where no plan changed, or where it cannot be told what the unchanged ones are.

    With plan caching DCP sends plans only to the ranks whose own plan changed. Moving items between ranks takes all
    plans. The planner keeps them in the coordinator's process, under its own name, which writers do not learn: they are
    found as the list that these plans are part of.
    """
    if all(_is_usable(plan) for plan in plans):
        return list(plans)
    cached: Mapping[str, list[SavePlan]] = getattr(SavePlanner, "_cached_global_plan", {})
    changed = [number for number, plan in enumerate(plans) if _is_usable(plan)]
    for whole in cached.values() if changed else ():
        if len(whole) == len(plans) and all(whole[number] is plans[number] for number in changed):
            return list(whole)
    return None


def labels_of(plan: SavePlan) -> Kinds:
    """FQN to artifact and role, for the items of one rank's final plan.

    As the coordinator said; where a planner made the plan anew and lost that, as the plan itself has it.
    """
    labels = plan.storage_data
    if isinstance(labels, Labels) and all(item.index.fqn in labels.kinds for item in plan.items):
        return labels.kinds
    return label_items([plan])


def label_items(plans: Sequence[SavePlan]) -> Kinds:
    """For all items of these plans, from all that the plans say of the state."""
    return classify_entries(
        all_paths(plans),
        {item.index.fqn: item.type != WriteItemType.BYTE_IO for plan in plans for item in plan.items},
    )


def _is_usable(plan: SavePlan) -> bool:
    return bool(getattr(plan, "usable", True))


def all_paths(plans: Sequence[SavePlan]) -> dict[str, Path]:
    """FQN to place in the state, for all that one of these plans knows."""
    paths: dict[str, Path] = {}
    for plan in plans:
        for fqn, path in places(plan.planner_data).items():
            paths.setdefault(fqn, path)
    return paths
