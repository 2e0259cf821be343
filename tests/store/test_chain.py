from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.errors import InvalidArgumentError
from deltackpt.store.chain import POLICIES, Chain, base_distance, choose_chain
from tests.store.helpers import header_of


def run(policy: str, key_every: int, steps: int) -> list[Chain]:
    """The chains of steps 0, 1, ... where each follows the last and all goes as meant."""
    chains: list[Chain] = []
    previous = None
    for step in range(steps):
        chain = choose_chain(policy, key_every, previous)
        chains.append(chain)
        previous = header_of(step, key=chain.key, distance=chain.distance)
    return chains


def test_the_first_step_is_alone() -> None:
    for policy in POLICIES:
        assert choose_chain(policy, 16, None) == Chain(None, False, None, 0, keep=True, last=True)


def test_previous() -> None:
    chains = run("previous", 3, 7)
    assert [c.base for c in chains] == [None, 0, 1, 2, 0, 1, 2]
    assert [c.delta for c in chains] == [False, True, True, False, True, True, False]
    assert [c.key for c in chains] == [None, ("main", 0), ("main", 0), None, ("main", 3), ("main", 3), None]
    assert [c.distance for c in chains] == [0, 1, 2, 0, 1, 2, 0]
    assert all(c.keep and c.last for c in chains)


def test_anchor() -> None:
    chains = run("anchor", 3, 7)
    assert [c.base for c in chains] == [None, 0, 0, 0, 0, 0, 0]
    assert [c.delta for c in chains] == [False, True, True, False, True, True, False]
    assert [c.keep for c in chains] == [True, False, False, True, False, False, True]


def test_skip_clears_the_lowest_bit() -> None:
    chains = run("skip", 16, 17)
    assert [c.base for c in chains] == [None, 0, 0, 2, 0, 4, 4, 6, 0, 8, 8, 10, 8, 12, 12, 14, 15]
    assert [c.distance for c in chains] == [*range(16), 0]


@given(st.integers(2, 300))
def test_skip_gets_no_deeper_than_log2(key_every: int) -> None:
    depth = [0]
    for distance in range(1, key_every):
        depth.append(1 + depth[base_distance("skip", distance)])
    assert max(depth) <= math.log2(key_every)


@given(st.sampled_from(POLICIES), st.integers(1, 9), st.integers(1, 70))
def test_what_is_kept_is_what_later_steps_build_on(policy: str, key_every: int, steps: int) -> None:
    """A step's blocks are in memory whenever a delta wants them, and no longer."""
    held: set[int] = set()
    for chain in run(policy, key_every, steps):
        if chain.distance == 0:
            held.clear()
        else:
            assert chain.base in held
            if chain.last:
                held.discard(chain.base)
        if chain.keep:
            held.add(chain.distance)
        assert len(held) <= (1 if policy != "skip" else 1 + math.log2(key_every))


def test_a_key_step_every_time() -> None:
    for policy in POLICIES:
        chains = run(policy, 1, 4)
        assert not any(c.delta for c in chains)
        assert [c.base for c in chains] == [None, 0, 0, 0]


@given(st.sampled_from(POLICIES), st.integers(1, 9), st.integers(1, 40))
def test_key_steps_come_at_least_so_often(policy: str, key_every: int, steps: int) -> None:
    chains = run(policy, key_every, steps)
    assert [c.distance == 0 for c in chains] == [step % key_every == 0 for step in range(steps)]
    for step, chain in enumerate(chains):
        assert chain.delta == (chain.distance > 0)
        assert chain.key == (None if chain.distance == 0 else ("main", step - chain.distance))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_store_whose_interval_was_shortened_starts_anew_at_once(policy: str) -> None:
    chain = choose_chain(policy, 4, header_of(9, key=("main", 0), distance=9))
    assert (chain.delta, chain.distance, chain.key) == (False, 0, None)


def test_an_unknown_policy() -> None:
    with pytest.raises(InvalidArgumentError, match="unknown chain 'best'"):
        base_distance("best", 3)
