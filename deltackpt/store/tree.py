"""Histories as trees of bounded depth: which steps each step is predicted from when all of them are known. Pure.

Video coders do the same: a key picture at both ends of a segment, the one in the middle predicted from both, and so on
(hierarchical B pictures; Schwarz, Marpe, Wiegand, "Analysis of hierarchical B pictures and MCTF", ICME 2006).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Costs", "Node", "Shape", "best_shape", "plan_tree", "shapes", "tree_cost"]


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a line, by its position, and what it is predicted from.

    Attributes:
        older, newer: the positions of steps before and after it; both None for a key step.
    """

    position: int
    older: int | None
    newer: int | None

    @property
    def is_key(self) -> bool:
        return self.older is None and self.newer is None


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """How a line is cut.

    Attributes:
        segment: a key step every so many steps. The last step is one, too, or is predicted from the last of these where
            a segment is cut so short that its steps get no deeper for it.
        run: so many steps in a row are predicted each from the one before it. Steps at multiples of it stand in the
            tree.
    """

    segment: int
    run: int

    @property
    def depth(self) -> int:
        """How many records are decoded, one after another, to get any step, partners aside."""
        return 1 + (-(-self.segment // self.run) - 1).bit_length() + min(self.run, self.segment) - 1


@dataclass(frozen=True, slots=True)
class Costs:
    """What a step was measured to take, in bytes.

    Attributes:
        alone: without a base.
        near: against the step before.
        between: against both neighbours at some distance, by distance.
        partners: how much deeper copies of weights get than what they are copies of; and weights than their moments,
            where each step is predicted from the one before.
    """

    alone: float
    near: float
    between: Mapping[int, float]
    partners: tuple[int, int] = (0, 0)

    def at(self, distance: int) -> float:
        """The cost between neighbours at a distance: as at the nearest one measured, and by the same growth beyond."""
        if not self.between:
            return self.alone
        known = min(self.between, key=lambda d: (abs(d - distance), d))
        cost = self.between[known]
        *_, before, last = (0, *sorted(self.between))
        if distance > last and before:
            doublings = math.log2(distance / last) / math.log2(last / before)
            cost += doublings * max(0.0, cost - self.between[before])
        return min(self.alone, cost)


def shapes(max_depth: int, key_every: int | None) -> list[Shape]:
    """All shapes whose records are at most so deep, with a key step every ``key_every`` steps if that is given."""
    found = []
    for run in _runs(max_depth):
        for levels in range(12):
            shape = Shape(run << levels, run)
            if key_every is not None:
                shape = Shape(key_every, run)
            if shape.depth <= max_depth and shape not in found:
                found.append(shape)
    return found or [Shape(key_every or 1, 1)]


def _runs(max_depth: int) -> list[int]:
    """Runs to choose from: short ones, doublings, and those that use up the depth but for what partners take."""
    most = min(max_depth, 2048)
    doublings = {1 << power for power in range(12)}
    return sorted(run for run in {*range(1, 17), *doublings, *range(most - 4, most + 1)} if 1 <= run <= most)


def best_shape(count: int, costs: Costs | None, max_depth: int, key_every: int | None) -> Shape:
    """The shape whose tree takes the fewest bytes; of equals the shallowest. Without costs, the longest segments.

    Partners need a step of depth of their own. Where the bound leaves none, they are predicted otherwise.
    """
    allowed = shapes(max_depth, key_every)
    if costs is None:
        return max(shape for shape in allowed if shape.run == min(s.run for s in allowed))
    copies, moments = costs.partners
    roomy = [s for s in allowed if s.depth + copies + (moments if s.run > 1 else 0) <= max_depth]
    return min(roomy or allowed, key=lambda s: (round(tree_cost(plan_tree(count, s), costs)), s.depth, s))


def plan_tree(count: int, shape: Shape) -> list[Node]:
    """Every position of a line once, each after those that it is predicted from."""
    nodes: list[Node] = []
    for start in range(0, count, shape.segment):
        end = min(start + shape.segment, count - 1)
        if start == 0:
            nodes.append(Node(0, None, None))
        if end > start:
            short = 2 * (end - start) <= shape.segment
            nodes.append(Node(end, start if short else None, None))
            nodes.extend(_between(start, end, shape.run))
    return nodes


def _between(start: int, end: int, run: int) -> list[Node]:
    """The positions between two that are known: the middle one first, then what lies before and after it."""
    if end - start <= run:
        return [Node(position, position - 1, end) for position in range(start + 1, end)]
    # A multiple of the run away from the start, as near to the middle as there is one.
    steps = -(-(end - start) // run)
    middle = start + run * (steps // 2)
    return [Node(middle, start, end), *_between(start, middle, run), *_between(middle, end, run)]


def tree_cost(nodes: Sequence[Node], costs: Costs) -> float:
    """About how many bytes all steps take."""
    total = 0.0
    for node in nodes:
        if node.older is None:
            total += costs.alone
        elif node.newer is None:
            # One side tells as much as both at twice the distance.
            behind = node.position - node.older
            total += costs.near if behind == 1 else costs.at(2 * behind)
        else:
            behind, ahead = node.position - node.older, node.newer - node.position
            # Beside a step right before it, one further ahead tells little.
            between = costs.at(max(behind, ahead))
            total += min(costs.near, between) if behind == 1 else between
    return total
