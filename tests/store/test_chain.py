from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.store.chain import Chain, choose_chain
from deltackpt.store.options import StoreOptions
from tests.store.helpers import header_of


def run(options: StoreOptions, steps: int) -> list[Chain]:
    """The chains of steps 0, 1, ... where each follows the last and all goes as meant."""
    chains: list[Chain] = []
    previous = None
    for step in range(steps):
        chain = choose_chain(options, previous)
        chains.append(chain)
        previous = header_of(step, key=chain.key, distance=chain.distance)
    return chains


def test_the_first_step_is_alone() -> None:
    for chain in ("previous", "anchor"):
        assert choose_chain(StoreOptions(chain), None) == Chain(None, False, None, 0, keep=True)


def test_previous() -> None:
    chains = run(StoreOptions("previous", key_every=3), 7)
    assert [c.base for c in chains] == [None, *(("main", step) for step in range(6))]
    assert [c.delta for c in chains] == [False, True, True, False, True, True, False]
    assert [c.key for c in chains] == [None, ("main", 0), ("main", 0), None, ("main", 3), ("main", 3), None]
    assert [c.distance for c in chains] == [0, 1, 2, 0, 1, 2, 0]
    assert all(c.keep for c in chains)


def test_anchor() -> None:
    chains = run(StoreOptions("anchor", key_every=3), 7)
    assert [c.base for c in chains] == [None, ("main", 0), ("main", 0), ("main", 0), *[("main", 3)] * 3]
    assert [c.delta for c in chains] == [False, True, True, False, True, True, False]
    assert [c.keep for c in chains] == [True, False, False, True, False, False, True]


def test_a_key_step_every_time() -> None:
    for chain in ("previous", "anchor"):
        chains = run(StoreOptions(chain, key_every=1), 4)
        assert not any(c.delta for c in chains)
        assert [c.base for c in chains] == [None, ("main", 0), ("main", 1), ("main", 2)]


@given(st.sampled_from(["previous", "anchor"]), st.integers(1, 9), st.integers(1, 40))
def test_key_steps_come_at_least_so_often(policy: str, key_every: int, steps: int) -> None:
    chains = run(StoreOptions(policy, key_every=key_every), steps)
    assert [c.distance == 0 for c in chains] == [step % key_every == 0 for step in range(steps)]
    for step, chain in enumerate(chains):
        assert chain.delta == (chain.distance > 0)
        assert chain.key == (None if chain.distance == 0 else ("main", step - chain.distance))


@pytest.mark.parametrize("policy", ["previous", "anchor"])
def test_a_store_whose_interval_was_shortened_starts_anew_at_once(policy: str) -> None:
    chain = choose_chain(StoreOptions(policy, key_every=4), header_of(9, key=("main", 0), distance=9))
    assert (chain.delta, chain.distance, chain.key) == (False, 0, None)
