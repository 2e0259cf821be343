from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.store.tree import Costs, Node, Shape, best_shape, plan_tree, shapes, tree_cost


def depths(nodes: list[Node]) -> dict[int, int]:
    """How many records lead to each position; every base comes before what is predicted from it."""
    found: dict[int, int] = {}
    for node in nodes:
        assert node.position not in found
        found[node.position] = 1 + max((found[b] for b in (node.older, node.newer) if b is not None), default=0)
        assert node.older is None or node.older < node.position
        assert node.newer is None or node.newer > node.position
    return found


@given(st.integers(1, 300), st.integers(1, 12), st.none() | st.integers(1, 40))
def test_every_step_is_there_once_and_no_deeper_than_allowed(count: int, max_depth: int, key_every: int | None) -> None:
    for shape in shapes(max_depth, key_every):
        nodes = plan_tree(count, shape)
        found = depths(nodes)
        assert sorted(found) == list(range(count))
        assert max(found.values()) <= shape.depth
        assert shape.depth <= max_depth or key_every is not None
        for position in range(0, count, shape.segment):
            assert next(n for n in nodes if n.position == position).is_key or position == count - 1


def test_a_segment() -> None:
    assert plan_tree(5, Shape(4, 1)) == [
        Node(0, None, None),
        Node(4, None, None),
        Node(2, 0, 4),
        Node(1, 0, 2),
        Node(3, 2, 4),
    ]
    assert plan_tree(5, Shape(4, 2))[2:] == [Node(2, 0, 4), Node(1, 0, 2), Node(3, 2, 4)]
    assert plan_tree(6, Shape(4, 4))[2:] == [Node(1, 0, 4), Node(2, 1, 4), Node(3, 2, 4), Node(5, 4, None)]
    assert plan_tree(1, Shape(4, 1)) == [Node(0, None, None)]
    assert [Shape(128, 1).depth, Shape(64, 4).depth, Shape(8, 8).depth, Shape(1, 1).depth] == [8, 8, 8, 1]


WALK = Costs(100.0, 60.0, {1: 58.0, 2: 60.0, 4: 62.0, 8: 64.0, 16: 66.0, 32: 68.0, 64: 70.0})


@pytest.mark.parametrize(
    ("costs", "segment", "run"),
    [
        (WALK, 128, 1),
        # One step of an optimizer, computed again: nothing else comes near.
        (Costs(100.0, 30.0, {1: 29.0, 2: 95.0, 4: 97.0}), 8, 8),
        # And room for the partners, which are predicted from each other.
        (Costs(100.0, 30.0, {1: 29.0, 2: 95.0, 4: 97.0}, (0, 2)), 6, 6),
    ],
)
def test_the_best_shape(costs: Costs, segment: int, run: int) -> None:
    assert best_shape(257, costs, 8, None) == Shape(segment, run)


def test_shapes_that_are_asked_for() -> None:
    assert best_shape(257, WALK, 8, 16) == Shape(16, 1)
    assert best_shape(257, WALK, 2, None).depth == 2
    assert best_shape(257, WALK, 1, None) == Shape(1, 1)
    assert best_shape(257, None, 8, None) == Shape(128, 1)
    # Deeper than allowed: key steps are as asked for, and what gets too deep is stored whole.
    assert best_shape(100, WALK, 2, 16) == Shape(16, 1)


def test_what_a_tree_costs() -> None:
    assert [WALK.at(d) for d in (1, 3, 64, 128, 256, 1 << 30)] == [58, 60, 70, 72, 74, 100]
    assert [Costs(9.0, 8.0, {}).at(1), Costs(9.0, 8.0, {2: 5.0}).at(64)] == [9, 5]
    assert tree_cost(plan_tree(5, Shape(4, 1)), WALK) == 2 * 100 + 60 + 2 * 58
    assert tree_cost(plan_tree(3, Shape(1, 1)), WALK) == 300
