from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.errors import InvalidArgumentError
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import ManifestHeader, Metric
from deltackpt.format.times import format_time
from deltackpt.store.listing import ListedStep
from deltackpt.store.retained import plan_retention
from deltackpt.store.retention import Retention

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def listed(step: int, metrics: Mapping[str, Metric] | None = None, tags: tuple[str, ...] = ()) -> ListedStep:
    """A step that was saved ``step`` hours after the start."""
    header = ManifestHeader(
        key=StepKey("main", step, 1),
        created=format_time(START + timedelta(hours=step)),
        parent=None,
        chain_key=("main", step),
        distance=0,
        depth=1,
        raw_bytes=0,
        stored_bytes=0,
        restore_bytes=0,
        metrics={},
        artifacts={},
        writer={},
    )
    return ListedStep(header, 0, dict(metrics or {}), tags)


def kept(steps: list[ListedStep], **rules: object) -> dict[int, tuple[str, ...]]:
    plan = plan_retention(steps, Retention(**rules))  # type: ignore[arg-type]
    assert list(plan) == [step.key for step in steps]
    return {key.step: why for key, why in plan.items() if why}


STEPS = [listed(n) for n in range(0, 100, 10)]


def test_each_rule_keeps_what_it_says() -> None:
    assert kept(STEPS, keep_last=2) == {80: ("keep-last 2",), 90: ("keep-last 2",)}
    assert kept(STEPS, keep_last=100).keys() == {step.key.step for step in STEPS}
    assert kept(STEPS, keep_every=30) == dict.fromkeys((0, 30, 60, 90), ("keep-every 30",))
    assert kept(STEPS, keep_within="1d") == dict.fromkeys((70, 80, 90), ("keep-within 1d",))
    assert list(kept(STEPS, keep_within=timedelta(hours=10))) == [80, 90]


def test_the_best_by_a_metric_are_kept() -> None:
    losses: dict[int, Metric] = {1: 3.0, 2: 1.0, 3: math.nan, 4: 2.0, 5: "low", 6: 1.0, 7: True, 8: math.inf, 9: -5}
    steps = [listed(n, {"val_loss": value}) for n, value in losses.items()] + [listed(10)]
    assert list(kept(steps, keep_best="3:val_loss")) == [2, 6, 9]
    assert list(kept(steps, keep_best="2:val_loss:min")) == [6, 9]  # of equal ones the later
    assert list(kept(steps, keep_best="2:val_loss:max")) == [1, 8]
    assert kept(steps, keep_best=["1:val_loss", "1:val_loss:max"]) == {
        8: ("keep-best 1:val_loss:max",),
        9: ("keep-best 1:val_loss",),
    }
    assert kept(steps, keep_best="2:accuracy") == {}


def test_larger_is_better_but_for_losses_and_errors() -> None:
    steps = [listed(n, {"mmlu": n, "val_perplexity": n, "a:max": n}) for n in range(3)]
    assert list(kept(steps, keep_best="1:mmlu")) == [2]
    assert list(kept(steps, keep_best="1:val_perplexity")) == [0]
    assert list(kept(steps, keep_best="1:a:max:min")) == [0]


def test_tags_are_kept() -> None:
    steps = [listed(1, tags=("paper", "v1")), listed(2, tags=("v2",)), listed(3)]
    assert kept(steps, keep_tag="paper") == {1: ("tag paper",)}
    assert kept(steps, keep_tag=("paper", "v2")) == {1: ("tag paper",), 2: ("tag v2",)}
    assert kept(steps, keep_tag="*") == {1: ("tag paper", "tag v1"), 2: ("tag v2",)}


@given(st.sets(st.integers(0, 50)), st.integers(1, 5), st.integers(1, 9), st.integers(0, 40))
def test_the_union_of_the_rules_is_kept(numbers: set[int], last: int, every: int, hours: int) -> None:
    steps = [listed(n) for n in sorted(numbers)]
    rules: list[dict[str, object]] = [{"keep_last": last}, {"keep_every": every}, {"keep_within": f"{hours + 1}h"}]
    union = {key for rule in rules for key in kept(steps, **rule)}
    assert set(kept(steps, **{name: value for rule in rules for name, value in rule.items()})) == union


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"keep_last": 0},
        {"keep_last": -1},
        {"keep_last": True},
        {"keep_last": "3"},
        {"keep_every": 0},
        {"keep_best": "val_loss"},
        {"keep_best": "0:val_loss"},
        {"keep_best": "2:"},
        {"keep_best": 2},
        {"keep_within": "7"},
        {"keep_within": "d"},
        {"keep_within": 7},
        {"keep_within": "99999999999999w"},
        {"keep_tag": "../x"},
        {"keep_tag": [1]},
    ],
)
def test_rules_that_make_no_sense_are_refused(rules: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError):
        Retention(**rules)  # type: ignore[arg-type]


def test_time_spans() -> None:
    """As schedules have them."""
    span = timedelta(weeks=1, days=2, hours=3, minutes=4, seconds=5)
    assert (
        Retention(keep_within="1w2d3h4m5s").keep_within == Retention(keep_within="1w 2d 3h 4min 5s").keep_within == span
    )
    assert Retention(keep_within="1.5h").rules == Retention(keep_within="90m").rules == ["keep-within 90min"]


def test_the_rules_are_said_as_on_the_command_line() -> None:
    retention = Retention(3, 1000, "2:val_loss:min", "7d", ("a", "b"))
    assert retention.rules == [
        "keep-last 3",
        "keep-every 1000",
        "keep-best 2:val_loss:min",
        "keep-within 7d",
        "keep-tag a",
        "keep-tag b",
    ]
    assert Retention(keep_within="36h").rules == ["keep-within 36h"]
