"""The arithmetic of an estimate, by hand."""

from __future__ import annotations

import pytest

from deltackpt.estimate.policies import Plan, State, project_all
from deltackpt.estimate.rates import (
    Rate,
    Rates,
    Speed,
    delta_bits,
    interval_of,
    measured_rates,
    measured_speed,
    with_growth,
)
from deltackpt.estimate.state import Kind
from deltackpt.estimate.trial import TrialStep

WEIGHT = Kind("weights", "weight", "float32", 32)
HALF = Kind("weights", "weight", "bfloat16", 16)
MOMENT = Kind("optimizer", "exp_avg", "float32", 32)
FAST = Speed(0.0, 0.0, 0.0, 0.0)


def plan(every: int = 10, steps: int = 1000) -> Plan:
    return Plan(every, steps, price=0.5, disk=1e9)


def rates(**kinds: Rate) -> Rates:
    table = {"weight": WEIGHT, "half": HALF, "moment": MOMENT}
    return Rates(10.0, {table[name]: rate for name, rate in kinds.items()}, metadata=0.0)


def trial_step(weight: int, moment: int, *, metadata: int = 0, save: float = 1.0, load: float = 1.0) -> TrialStep:
    return TrialStep(800, {WEIGHT: weight, MOMENT: moment}, metadata, save, load)


@pytest.mark.parametrize(
    ("every", "expected"),
    [(10, 20.0), (20, 20.5), (40, 21.0), (5, 19.5), (10_000_000, 24.0)],
)
def test_a_delta_grows_with_the_logarithm_of_the_interval_up_to_a_key_record(every: int, expected: float) -> None:
    assert delta_bits(Rate(24.0, 20.0, growth=0.5), 10.0, every) == pytest.approx(expected)


def test_what_does_not_change_never_will() -> None:
    assert delta_bits(Rate(24.0, 0.001), 10.0, 10_000) == 0.001


def test_a_delta_that_was_worth_nothing_is_not_hoped_for_at_shorter_intervals() -> None:
    assert delta_bits(Rate(24.0, 24.0), 1000.0, 1) == 24.0
    assert delta_bits(Rate(24.0, 24.5), 1000.0, 1) == 24.0


def test_bits_are_never_negative() -> None:
    assert delta_bits(Rate(16.0, 1.0, growth=0.5), 1000.0, 1) == 0.0


def test_intervals_are_averaged_as_their_logarithms() -> None:
    assert interval_of([100, 110, 150]) == pytest.approx(20.0)


def test_rates_are_stored_bits_over_elements() -> None:
    trial = [trial_step(300, 400, metadata=8), trial_step(100, 400), trial_step(200, 400)]
    found = measured_rates({WEIGHT: 100, MOMENT: 100}, [10, 20, 30], trial)
    assert found.interval == pytest.approx(10.0)
    assert found.kinds == {WEIGHT: Rate(24.0, 12.0), MOMENT: Rate(32.0, 32.0)}
    assert found.metadata == pytest.approx(8 / 2400)


def test_growth_is_measured_where_the_longer_delta_is_one() -> None:
    trial = [trial_step(300, 400), trial_step(150, 400), trial_step(150, 400)]
    far = [trial_step(300, 400), trial_step(160, 400)]
    found = measured_rates({WEIGHT: 100, MOMENT: 100}, [10, 20, 30], trial, far)
    assert found.kinds[WEIGHT].growth == pytest.approx(0.8)
    assert found.kinds[WEIGHT].growth_is_measured
    assert not found.kinds[MOMENT].growth_is_measured
    alone = Rates(10.0, {WEIGHT: Rate(25.0, 13.0)}, 0.0)
    assert with_growth(alone, found).kinds[WEIGHT] == Rate(25.0, 13.0, found.kinds[WEIGHT].growth, True)


def test_speeds_are_seconds_a_byte() -> None:
    trial = [trial_step(1, 1, save=8.0, load=4.0), trial_step(1, 1, save=16.0), trial_step(1, 1, save=32.0, load=20.0)]
    assert measured_speed(trial) == Speed(key=0.01, delta=0.03, load=0.005, link=0.01)


def test_full_copies_are_the_state_times_the_saves() -> None:
    state = State({WEIGHT: 1e9}, other_bytes=1000.0)
    full = project_all(state, rates(weight=Rate(24.0, 12.0)), None, FAST, plan())[0]
    assert (full.saves, full.bytes) == (100, 100 * (4e9 + 1000))
    assert full.monthly_cost == pytest.approx(full.bytes / 1e9 * 0.5)
    assert full.save_seconds == full.restore_seconds == full.longest_restore_seconds == pytest.approx(4.000001)


def test_chains_are_keys_and_deltas() -> None:
    state = State({WEIGHT: 1e9, MOMENT: 1e9}, other_bytes=0.0)
    whole = rates(weight=Rate(24.0, 12.0), moment=Rate(28.0, 28.0))
    _, short, long = project_all(state, whole, None, FAST, plan())
    key, delta, moments = 3e9, 1.5e9, 3.5e9
    assert short.bytes == pytest.approx(7 * key + 93 * delta + 100 * moments)  # 100 checkpoints, a key in 16
    assert long.bytes == pytest.approx(2 * key + 98 * delta + 100 * moments)
    assert short.save_seconds == pytest.approx(short.bytes / 100 / 1e9)
    # Moments of other steps are not read: their deltas are none.
    assert short.restore_seconds == pytest.approx((key + 7.5 * delta + moments) / 1e9)
    assert short.longest_restore_seconds == pytest.approx((key + 15 * delta + moments) / 1e9)


def test_a_chain_is_no_longer_than_the_run() -> None:
    state = State({WEIGHT: 1e9}, other_bytes=0.0)
    found = project_all(state, rates(weight=Rate(24.0, 12.0)), None, FAST, plan(steps=40))[1]
    assert found.bytes == pytest.approx(3e9 + 3 * 1.5e9)
    assert found.longest_restore_seconds == pytest.approx((3e9 + 3 * 1.5e9) / 1e9)


def test_coding_overlaps_with_the_disk() -> None:
    state = State({WEIGHT: 1e9}, other_bytes=0.0)
    slow = Speed(key=2e-9, delta=1e-9, load=3e-9, link=1e-9)
    found = project_all(state, rates(weight=Rate(24.0, 12.0)), None, slow, plan(steps=20))[1]
    assert found.save_seconds == pytest.approx((8.0 + 4.0) / 2)  # 4e9 bytes, slower than the disk is
    assert found.longest_restore_seconds == pytest.approx(4 * (3 + 1))


def test_an_optimizer_that_is_thinned_out_has_key_records_only() -> None:
    state = State({WEIGHT: 1e9, MOMENT: 2e9}, other_bytes=0.0)
    whole = rates(weight=Rate(24.0, 12.0), moment=Rate(28.0, 20.0))
    alone = rates(weight=Rate(26.0, 13.0))
    thinned = project_all(state, whole, alone, FAST, plan())[3]
    weights = 7 * 26 / 8 * 1e9 + 93 * 13 / 8 * 1e9
    assert thinned.bytes == pytest.approx(weights + 10 * 28 / 8 * 2e9)
    assert thinned.restores == "weights; all at every tenth"


def test_bfloat16_weights_alone() -> None:
    state = State({HALF: 1e9, MOMENT: 1e9}, other_bytes=0.0)
    whole = rates(half=Rate(1.0, 1.0), moment=Rate(28.0, 28.0))
    found = project_all(state, whole, rates(half=Rate(11.0, 4.0)), FAST, plan())
    assert found[-1].name == "bfloat16 weights only, every 10"
    assert found[-1].bytes == pytest.approx((7 * 11 + 93 * 4) / 8 * 1e9)


def test_what_was_not_sampled_counts_in_full() -> None:
    state = State({WEIGHT: 1e9, MOMENT: 1e9}, other_bytes=0.0)
    found = project_all(state, rates(weight=Rate(24.0, 12.0)), None, FAST, plan(steps=10))[1]
    assert found.bytes == pytest.approx(3e9 + 4e9)


def test_a_larger_model_has_more_of_everything_but_the_rest() -> None:
    assert State({WEIGHT: 10.0}, 5.0).scaled(3.0) == State({WEIGHT: 30.0}, 5.0)
