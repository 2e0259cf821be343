"""Each rule equals its definition, and what it remembers is all that a resumed run needs."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.errors import InvalidArgumentError
from deltackpt.schedule import (
    AllOf,
    AnyOf,
    Schedule,
    Scheduler,
    all_of,
    any_of,
    at,
    every,
    improves,
    parse_schedule,
    powers_of_two,
    progressive,
)

Moments = Sequence[tuple[int, float, Mapping[str, float]]]


def saves(schedule: Schedule, moments: Moments, scheduler: Scheduler | None = None) -> list[int]:
    """The steps at which a schedule saves."""
    asked = scheduler or Scheduler(schedule)
    found = []
    for step, now, metrics in moments:
        due = asked.due(step, now, metrics)
        assert asked.due(step, now, metrics) is due  # asking changes nothing
        asked.advance(step, now, metrics, saved=due)
        found += [step] * due
    return found


def by_steps(schedule: Schedule, last: int) -> list[int]:
    return saves(schedule, [(step, 0.0, {}) for step in range(last + 1)])


def losses(schedule: Schedule, values: Sequence[float], first: int = 0) -> list[int]:
    return saves(schedule, [(first + n, 0.0, {"loss": value}) for n, value in enumerate(values)])


counts = st.integers(1, 40)
starts = st.integers(0, 120)
step_rules = st.one_of(
    st.builds(lambda n, start: every(n, start_at=start), counts, starts),
    st.builds(progressive, st.dictionaries(starts, counts, min_size=1, max_size=4)),
    st.builds(lambda start: powers_of_two(start_at=start), starts),
    st.builds(lambda steps: at(*steps), st.lists(starts, min_size=1, max_size=5)),
)
other_rules = st.one_of(
    st.builds(lambda minutes: every(f"{minutes}min"), counts),
    st.builds(
        lambda mode, by, patience, gap: improves("loss", mode, by=by, patience=patience, at_most_every=gap),
        st.sampled_from(["min", "max"]),
        st.sampled_from([0.0, 0.5]),
        st.integers(1, 3),
        st.integers(1, 20),
    ),
)
rules = st.recursive(
    step_rules | other_rules,
    lambda inner: st.lists(inner, min_size=1, max_size=3).flatmap(
        lambda parts: st.sampled_from([any_of(*parts), all_of(*parts)])
    ),
    max_leaves=5,
)


@st.composite
def runs(draw: st.DrawFn) -> Moments:
    """Moments of a run: rising steps with gaps, a clock, and a loss now and then."""
    step, now, moments = draw(st.integers(0, 5)), 100.0, []
    for gap in draw(st.lists(st.integers(1, 4), min_size=1, max_size=60)):
        loss = draw(st.none() | st.floats(0, 4) | st.just(math.nan))
        moments.append((step, now, {} if loss is None else {"loss": loss}))
        step, now = step + gap, now + draw(st.floats(0, 600))
    return moments


@given(counts, starts)
def test_every_is_the_multiples(n: int, start: int) -> None:
    assert by_steps(every(n, start_at=start), 200) == [s for s in range(201) if s % n == 0 and s >= start]


@given(st.dictionaries(starts, counts, min_size=1, max_size=4))
def test_progressive_is_the_multiples_of_the_interval_in_force(intervals: dict[int, int]) -> None:
    def in_force(step: int) -> int | None:
        begun = [start for start in intervals if start <= step]
        return intervals[max(begun)] if begun else None

    expected = [s for s in range(301) if (interval := in_force(s)) is not None and s % interval == 0]
    assert by_steps(progressive(intervals), 300) == expected


def test_progressive_in_both_directions() -> None:
    denser = by_steps(progressive({0: 1000, 10_000: 500, 50_000: 100}), 50_300)
    assert denser[:3] == [0, 1000, 2000]
    assert [s for s in denser if 9000 <= s <= 11_000] == [9000, 10_000, 10_500, 11_000]
    assert [s for s in denser if s >= 49_500] == [49_500, 50_000, 50_100, 50_200, 50_300]
    assert by_steps(progressive({1: 10, 40: 100}), 300) == [10, 20, 30, 100, 200, 300]


@given(starts)
def test_powers_of_two(start: int) -> None:
    assert by_steps(powers_of_two(start_at=start), 300) == [2**k for k in range(9) if 2**k >= start]


@given(st.lists(starts, min_size=1, max_size=5))
def test_given_steps(steps: list[int]) -> None:
    assert by_steps(at(*steps), 150) == sorted(set(steps))


@given(step_rules, runs())
def test_a_loop_that_skips_steps_saves_at_the_first_chance(rule: Schedule, moments: Moments) -> None:
    steps = [step for step, _, _ in moments]
    wanted = set(by_steps(rule, steps[-1]))
    before = [steps[0] - 1, *steps[:-1]]
    expected = [step for seen, step in zip(before, steps, strict=True) if wanted & set(range(seen + 1, step + 1))]
    assert saves(rule, moments) == expected


@given(step_rules, step_rules)
def test_any_and_all_of_step_rules_are_union_and_intersection(a: Schedule, b: Schedule) -> None:
    first, second = set(by_steps(a, 200)), set(by_steps(b, 200))
    assert by_steps(a | b, 200) == sorted(first | second)
    assert by_steps(a & b, 200) == sorted(first & second)
    assert (a | b).by_step_alone
    assert not (a | every("1min")).by_step_alone


def test_operators_make_flat_combinations() -> None:
    assert every(1) | every(2) | at(3) == AnyOf((every(1), every(2), at(3)))
    assert every(1) & (every(2) & at(3)) == AllOf((every(1), every(2), at(3)))


def test_the_clock_counts_from_the_last_save_of_any_kind() -> None:
    minutes: Moments = [(step, 60.0 * step, {}) for step in range(100)]
    assert saves(every("30min"), minutes) == [30, 60, 90]
    assert saves(every("30min") | at(45), minutes) == [30, 45, 75]


def test_time_without_a_run_does_not_count() -> None:
    first = Scheduler(every("10min"))
    assert saves(first.schedule, [(1, 0.0, {}), (2, 400.0, {})], first) == []
    second = Scheduler(every("10min"))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    # A clock that starts anew, in a process that began a week later.
    assert saves(second.schedule, [(3, 5.0, {}), (4, 204.0, {}), (5, 205.0, {})], second) == [5]


def test_a_clock_that_goes_back_does_not_count() -> None:
    assert saves(every("10min"), [(1, 1000.0, {}), (2, 0.0, {}), (3, 599.0, {}), (4, 600.0, {})]) == [4]


def test_improvement() -> None:
    values = [3.0, 2.0, 2.5, math.nan, 1.9, 1.9, -math.inf, 1.0]
    assert losses(improves("loss"), values) == [0, 1, 4, 7]
    assert losses(improves("loss", by=0.5), values) == [0, 1, 7]
    assert losses(improves("loss", "max"), [1.0, 3.0, 2.0, 3.0, 3.5]) == [0, 1, 4]
    assert losses(improves("loss", at_most_every=3), [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]) == [0, 3]
    # The second of two better ones in a row, compared with what was saved last.
    assert losses(improves("loss", patience=2), [5.0, 4.0, 3.0, 6.0, 2.0, 7.0, 2.0, 1.0]) == [1, 7]
    assert losses(improves("other"), values) == []


def test_what_was_better_and_not_saved_stays_to_be_beaten_by_nothing() -> None:
    # 1.0 at step 1 was not saved: 1.5 at step 2 is better than all that was.
    assert losses(improves("loss") & every(2), [2.0, 1.0, 1.5, 1.5, 1.6]) == [0, 2]
    # What another rule saved is saved.
    assert losses(improves("loss", at_most_every=50) | at(1), [2.0, 1.0, 1.5]) == [0, 1]


@pytest.mark.parametrize("value", [True, "1.0", None, [1]])
def test_only_numbers_are_measured(value: Any) -> None:
    assert saves(improves("loss"), [(1, 0.0, {"loss": value})]) == []


@given(rules, runs(), st.integers(0, 60))
def test_a_run_split_anywhere_saves_the_same_steps(rule: Schedule, moments: Moments, cut: int) -> None:
    # The clock stands still between the two runs: time without one does not count.
    whole = saves(rule, moments)
    first, second = Scheduler(rule), Scheduler(rule)
    before = saves(rule, moments[:cut], first)
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    if 0 < cut < len(moments):
        lost = moments[cut][1] - moments[cut - 1][1]
        whole = saves(rule, [*moments[:cut], *((s, now - lost, m) for s, now, m in moments[cut:])])
    assert before + saves(rule, moments[cut:], second) == whole


@given(rules)
def test_rules_survive_json_and_pickle(rule: Schedule) -> None:
    assert parse_schedule(json.loads(json.dumps(rule.to_config()))) == rule
    assert copy.deepcopy(rule) == rule
    assert pickle.loads(pickle.dumps(rule)) == rule  # noqa: S301 - bytes made on this line
    assert hash(parse_schedule(rule.to_config())) == hash(rule)


@given(rules, rules)
def test_the_state_of_another_schedule_is_not_taken(rule: Schedule, other: Schedule) -> None:
    scheduler = Scheduler(rule)
    scheduler.advance(7, 1.0, {"loss": 1.0}, saved=True)
    fresh = Scheduler(other)
    fresh.load_state_dict(scheduler.state_dict())
    expected = scheduler if rule == other else Scheduler(other)
    assert fresh.state_dict() == expected.state_dict()


@pytest.mark.parametrize(
    "stored",
    [
        {},
        {"schedule": {"every": 2}},
        {"schedule": {"every": 2}, "state": {"seen": "x"}},
        {"schedule": {"every": 2}, "state": {"seen": True}},
        {"schedule": {"every": 2}, "state": {"seen": math.nan}},
        {"schedule": {"every": 2}, "state": {}},
        {"schedule": {"every": 2}, "state": [1]},
        {"schedule": {"every": 2}, "state": {"seen": 1, "more": 2}},
    ],
)
def test_what_is_no_state_is_refused(stored: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        Scheduler(every(2)).load_state_dict(stored)


@pytest.mark.parametrize(
    ("value", "where", "words"),
    [
        (1000, "schedule", "must be a mapping"),
        ({}, "schedule", "exactly one of"),
        ({"evry": 5}, "schedule.evry", "did you mean 'every'?"),
        ({"every": 5, "at": [1]}, "schedule", "every and at"),
        ({"every": 0}, "schedule.every", "from 1 on"),
        ({"every": 1.5}, "schedule.every", "from 1 on"),
        ({"every": True}, "schedule.every", "from 1 on"),
        ({"every": "soon"}, "schedule.every", "not a length of time"),
        ({"every": "0s"}, "schedule.every", "no time at all"),
        ({"every": "5min", "start_at": 3}, "schedule.start_at", "counts steps"),
        ({"every": 5, "start_att": 3}, "schedule.start_att", "did you mean 'start_at'?"),
        ({"every": 5, "start_at": -1}, "schedule.every", "from 0 on"),
        ({"progressive": [1]}, "schedule.progressive", "a mapping"),
        ({"progressive": {}}, "schedule.progressive", "a mapping"),
        ({"progressive": {"x": 5}}, "schedule.progressive", "a first step"),
        ({"progressive": {0: 0}}, "schedule.progressive", "from 1 on"),
        ({"powers_of": 3}, "schedule.powers_of", "must be 2"),
        ({"at": []}, "schedule.at", "lists no step"),
        ({"at": [-1]}, "schedule.at", "from 0 on"),
        ({"improves": ""}, "schedule.improves", "name a metric"),
        ({"improves": "loss", "mode": "low"}, "schedule.improves", "min or max"),
        ({"improves": "loss", "by": math.inf}, "schedule.improves", "from 0 on"),
        ({"improves": "loss", "patience": 0}, "schedule.improves", "from 1 on"),
        ({"any": {"every": 1}}, "schedule.any", "a list of rules"),
        ({"any": []}, "schedule.any", "no rules"),
        ({"any": [{"every": 1}, {"all": [{"every": -1}]}]}, "schedule.any[1].all[0].every", "from 1 on"),
    ],
)
def test_what_is_no_schedule_is_refused_with_its_place(value: Any, where: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r".") as caught:
        parse_schedule(value)
    assert caught.value.where == where
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30min", 1800), ("30 m", 1800), ("1.5h", 5400), ("7d", 604800), ("1h 30min", 5400), ("1H5S", 3605)],
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert every(text) == every(f"{seconds}s")
    assert every(text) == parse_schedule(every(text).to_config())


@pytest.mark.parametrize("text", ["", "5", "min", "5 parsecs", "-5min", "1h and", "nan s", "1e9s"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        every(text)
