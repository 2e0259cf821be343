from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.store.chain_choice import KEY, Measured, is_measured_at, pick_policy


@pytest.mark.parametrize(
    ("near", "far", "expected"),
    [
        (60.0, 60.0, "anchor"),
        (60.0, 61.5, "skip"),
        (60.0, 66.0, "previous"),
        (40.0, 90.0, "previous"),
        (99.0, 99.5, KEY),
        (99.5, None, KEY),
        (60.0, None, "previous"),
        (60.0, 50.0, "anchor"),
        (99.0, 50.0, "anchor"),
    ],
)
def test_what_is_picked(near: float, far: float | None, expected: str) -> None:
    assert pick_policy(Measured(100.0, near, far), 16, 64) == expected


def test_a_chain_that_the_depth_cuts_is_charged_for_its_key_steps() -> None:
    measured = Measured(100.0, 20.0, 25.0)
    assert pick_policy(measured, 128, 1000) == "previous"
    assert pick_policy(measured, 128, 8) == "skip"


@given(st.floats(0, 100), st.floats(0, 100), st.integers(1, 200), st.integers(1, 100))
def test_any_measurement_gives_a_policy(near: float, far: float, key_every: int, max_depth: int) -> None:
    assert pick_policy(Measured(100.0, near, far), key_every, max_depth) in ("previous", "anchor", "skip", KEY)


@pytest.mark.parametrize("far", [61.0, 61.4, 61.8, 62.2, 62.6, 63.0, 63.4, 63.8, 64.2, 65.0])
def test_noise_does_not_turn_a_choice_back_and_forth(far: float) -> None:
    """Samples of equal steps differ by 0.2%."""
    noise = random.Random(0)
    kept: list[str] = []
    for _ in range(60):
        near, beyond = (value * (1 + noise.uniform(-0.001, 0.001)) for value in (60.0, far))
        kept.append(pick_policy(Measured(100.0, near, beyond), 16, 64, kept[-1] if kept else None))
    assert sum(a != b for a, b in pairwise(kept)) <= 1


def test_what_is_followed_is_left_where_that_pays() -> None:
    for kept in ("anchor", "skip", "previous", None):
        assert pick_policy(Measured(100.0, 60.0, 70.0), 16, 64, kept) == "previous"
        assert pick_policy(Measured(100.0, 60.0, 60.0), 16, 64, kept) == "anchor"


def test_nothing_at_all() -> None:
    assert pick_policy(Measured(0.0, 0.0, 0.0), 16, 64) == "anchor"


def test_when_it_is_measured() -> None:
    assert [distance for distance in range(1, 70) if is_measured_at(distance)] == [1, 2, 4, 8, 16, 32, 64]
