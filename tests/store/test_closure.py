from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.errors import CorruptObjectError
from deltackpt.format.index import Index
from deltackpt.store.closure import find_closure, key_rows
from tests.store.helpers import index_of, ints

Node = tuple[int, int]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Index], dict[Node, list[Node]]]:
    """Some indexes in the order in which they were written, and what each of their records needs."""
    indexes: list[Index] = []
    edges: dict[Node, list[Node]] = {}
    for number in range(draw(st.integers(1, 4))):
        needs: list[list[tuple[int, int]]] = []
        for row in range(draw(st.integers(0, 6))):
            earlier = [(-1, before) for before in range(row)]
            earlier += [(at, other) for at, index in enumerate(indexes) for other in range(index.rows)]
            chosen = draw(st.lists(st.sampled_from(earlier), max_size=3)) if earlier else []
            needs.append(chosen)
            edges[number, row] = [(number if at < 0 else at, other) for at, other in chosen]
        indexes.append(index_of(number, needs, indexes, packs=draw(st.integers(1, 3))))
    return indexes, edges


def reach(start: list[Node], edges: dict[Node, list[Node]]) -> set[Node]:
    found, todo = set(start), list(start)
    while todo:
        for node in edges[todo.pop()]:
            if node not in found:
                found.add(node)
                todo.append(node)
    return found


@given(graphs(), st.data())
def test_against_a_search_node_by_node(graph: tuple[list[Index], dict[Node, list[Node]]], data: st.DataObject) -> None:
    indexes, edges = graph
    by_digest = {index.digest: index for index in indexes}
    chosen = data.draw(st.lists(st.sampled_from(sorted(edges)), max_size=5)) if edges else []
    parts = [(indexes[number].digest, ints([row])) for number, row in chosen]
    closure = find_closure([*parts, (b"not asked for", ints([]))], by_digest.__getitem__)
    expected = reach(chosen, edges)

    position = {index.digest: number for number, index in enumerate(indexes)}
    found = {(position[digest], row) for digest, rows in closure.rows.items() for row in rows.tolist()}
    assert found == expected
    for rows in closure.rows.values():
        assert rows.tolist() == sorted(set(rows.tolist())) != []
    assert list(closure.rows) == sorted(closure.rows)

    assert closure.stored_bytes(by_digest.__getitem__) == sum(100 + row for _, row in expected)
    packs = {}
    for number, row in expected:
        pack = indexes[number].location.packs[row % len(indexes[number].location.packs)]
        packs[pack.name] = pack.size
    assert closure.packs(by_digest.__getitem__) == packs


@given(graphs())
def test_key_records_reach_nothing_outside_their_index(graph: tuple[list[Index], dict[Node, list[Node]]]) -> None:
    indexes, edges = graph
    for number, index in enumerate(indexes):
        expected = [all(at == number for at, _ in reach([(number, row)], edges)) for row in range(index.rows)]
        assert key_rows(index.identity).tolist() == expected


def test_key_records_in_chains_of_any_length() -> None:
    """Linear in the number of needs: here each pass over all of them would only reach one record more."""
    base = index_of(0, [[]], [])
    index = index_of(1, [[(0, 0)], *([(-1, row)] for row in range(60_000)), []], [base])
    assert key_rows(index.identity).tolist() == [False] * 60_001 + [True]


@pytest.mark.parametrize("rows", [[2], [0, 5], [-1]])
def test_rows_outside_an_index(rows: list[int]) -> None:
    index = index_of(1, [[], []], [])
    with pytest.raises(CorruptObjectError, match=rf"{index.digest.hex()}: row -?\d of an index with 2 rows"):
        find_closure([(index.digest, ints(rows))], {index.digest: index}.__getitem__)


def test_a_need_outside_its_index() -> None:
    first = index_of(1, [[]], [])
    longer = index_of(1, [[], [], []], [])
    second = index_of(2, [[(0, 2)]], [longer])
    # The same reference, but the index that it leads to is shorter.
    lookup = {longer.digest: first, second.digest: second}
    with pytest.raises(CorruptObjectError, match="row 2 of an index with 1 rows"):
        find_closure([(second.digest, ints([0]))], lookup.__getitem__)


def test_chains_of_any_length() -> None:
    indexes: list[Index] = []
    for number in range(200):
        indexes.append(index_of(number, [[(number - 1, 0)] if number else []], indexes))
    by_digest = {index.digest: index for index in indexes}
    closure = find_closure([(indexes[-1].digest, ints([0]))], by_digest.__getitem__)
    assert len(closure.rows) == 200
    assert all(np.array_equal(rows, [0]) for rows in closure.rows.values())
