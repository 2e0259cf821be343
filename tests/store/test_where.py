"""Conditions mean what they say, whatever they are made of, and nothing else is run."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deltackpt import Store
from deltackpt.errors import InvalidArgumentError
from deltackpt.format.manifest import Metric
from deltackpt.store.select import select, sort_by
from deltackpt.store.where import And, Comparison, Condition, Has, Literal, Name, Not, Or, parse_where
from tests.cli.helpers import save

names = st.sampled_from(["loss", "val/loss", "eval.mmlu", "x-1", "or_else", "nano", "e5", "a:b", "two words", "ünï"])
numbers = st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from([math.inf, -math.inf, math.nan, 1e-300])
values: st.SearchStrategy[Metric] = numbers | st.sampled_from(["", "warm", "or", "2026-06"]) | st.booleans() | st.none()
sides = st.builds(Name, names) | st.builds(Literal, values)
signs = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
leaves = st.builds(Comparison, sides, signs, sides) | st.builds(Has, st.builds(Name, names))


def joined(kind: Any) -> Any:
    return lambda inner: st.builds(kind, st.lists(inner, min_size=2, max_size=3).map(tuple))


conditions: st.SearchStrategy[Condition] = st.recursive(
    leaves, lambda inner: st.builds(Not, inner) | joined(And)(inner) | joined(Or)(inner), max_leaves=6
)


def write(condition: Condition | Name | Literal) -> str:
    """A condition as text, with brackets around everything."""
    if isinstance(condition, Name):
        return f"`{condition.name}`" if not condition.name.isascii() or " " in condition.name else condition.name
    if isinstance(condition, Literal):
        value = condition.value
        if isinstance(value, str):
            return f'"{value}"'
        return str(value).lower() if value is None or isinstance(value, bool) else repr(value)
    if isinstance(condition, Has):
        return write(condition.name)
    if isinstance(condition, Comparison):
        return f"{write(condition.left)} {condition.sign}{write(condition.right)}"
    if isinstance(condition, Not):
        return f"not ({write(condition.condition)})"
    assert isinstance(condition, And | Or)
    word = " and " if isinstance(condition, And) else " or "
    return word.join(f"({write(part)})" for part in condition.parts)


@given(conditions, st.lists(st.dictionaries(names, values, max_size=5), max_size=4))
def test_what_is_written_is_read(condition: Condition, records: list[dict[str, Metric]]) -> None:
    read = parse_where(write(condition))
    for record in records:
        assert read.holds(record) is condition.holds(record)
    assert [repr(c) for c in read.comparisons()] == [repr(c) for c in condition.comparisons()]


def assert_placed(error: InvalidArgumentError) -> None:
    assert "at character" in error.message or "more than 50 levels" in error.message


@given(st.text() | st.text(alphabet="ab01.<>=!()'\"` -:norda", max_size=30))
def test_any_text_is_a_condition_or_an_error(text: str) -> None:
    try:
        parse_where(text).holds({"a": 1})
    except InvalidArgumentError as error:
        assert_placed(error)


RECORD: dict[str, Metric] = {
    "loss": 2.5,
    "step": 1000,
    "note": "warm",
    "done": True,
    "eval": None,
    "bad": math.nan,
    "created": "2026-06-07T12:00:00Z",
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("loss<2.6", True),
        ("loss < -2.5", False),
        ("2.5 <= loss", True),
        ("loss > 2.5", False),
        ("loss >= 2.5 and step=1000", True),
        ("loss < 1 or step > 1 and note == 'cold'", False),
        ("(loss < 1 or step > 1) and note != 'cold'", True),
        ("not loss < 1", True),
        ("not not loss < 1", False),
        ("note", True),
        ("missing", False),
        ("missing < 1", False),
        ("missing != 1", False),
        ("not missing == 1", True),
        ("done == true", True),
        ("done == 1", False),
        ("eval == none", True),
        ("eval < 1", False),
        ("note < 5", False),
        ("note < 'zebra'", True),
        ("bad == nan", True),
        ("bad < 1 or bad >= 1", False),
        ("bad != bad", False),
        ("created >= 2026-06-01 and created < 2026-06-08", True),
        ("created < 2026-06-07T11:59", False),
        ("loss < inf and loss > -inf", True),
        ("step < 1e3", False),
        ("step <= 1e3", True),
        ("step == 1000.0", True),
        ("loss < step", True),
    ],
)
def test_conditions(text: str, holds: bool) -> None:
    assert parse_where(text).holds(RECORD) is holds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a name or a value should stand here, at character 1"),
        ("loss <", "a name or a value should stand here, at character 7"),
        ("loss < 2 3", "should end here, or go on with and, or, at character 10"),
        ("loss < 2 and", "at character 13"),
        ("(loss < 2", "a closing bracket should stand here, at character 10"),
        ("loss < 2)", "should end here"),
        ("1", "a comparison should stand here"),
        ("loss =< 2", "a name or a value"),
        ("loss < 'x", "cannot be read, at character 8"),
        ("__import__('os').system('x')", "should end here"),
        ("loss[0] < 1", "cannot be read, at character 5"),
        ("a < 1 and or b", "a name or a value"),
        ("(" * 60 + "a" + ")" * 60, "more than 50 levels"),
    ],
)
def test_what_is_no_condition(text: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_where(text)
    assert words in str(caught.value)


def test_many_nots_take_no_stack() -> None:
    assert parse_where("not " * 100_000 + "a").holds({"a": 1})


RECORDED: list[dict[str, Metric]] = [
    {"loss": 3.0, "note": "a"},
    {"loss": 1.0},
    {"loss": math.nan, "note": "b"},
    {"loss": 2.0, "mixed": "text"},
    {"mixed": 5, "only": True},
]
STEPS: list[tuple[int, dict[str, Metric]]] = [(n, {"step": n, **record}) for n, record in enumerate(RECORDED)]


def chosen(*texts: str) -> list[int]:
    return [number for number, _ in select(STEPS, [parse_where(text) for text in texts])]


def test_select() -> None:
    assert chosen() == [0, 1, 2, 3, 4]
    assert chosen("loss < 2.5") == [1, 3]
    assert chosen("loss < 2.5", "step > 1") == [3]
    assert chosen("note") == [0, 2]
    assert chosen("mixed > 1 or mixed == 'text'") == [3, 4]
    assert select([], [parse_where("anything < 1")]) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("los < 1", "no step has 'los' (did you mean loss?)"),
        ("not (step > 1 and lossy)", "did you mean loss?"),
        ("zzz == 1", "there are step, loss, note"),
        ("note < 1", "note < 1 compares a text with a number"),
        ("step > 'x'", "compares a number with a text"),
        ("only > 0", "compares a boolean with a number"),
        ("loss < none", "compares a number with none"),
    ],
)
def test_what_no_step_can_answer(text: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        chosen(text)
    assert words in str(caught.value)


def test_sort() -> None:
    def order(key: str) -> list[int]:
        return [number for number, _ in sort_by(STEPS, key)]

    assert order("loss") == [1, 3, 0, 2, 4]
    assert order("-loss") == [0, 3, 1, 2, 4]
    assert order("-step") == [4, 3, 2, 1, 0]
    assert order("mixed") == [4, 3, 0, 1, 2]
    assert order("-note") == [2, 0, 1, 3, 4]
    with pytest.raises(InvalidArgumentError, match="did you mean loss"):
        order("-los")


def test_steps_are_chosen_by_metrics_notes_and_tags() -> None:
    store = Store.create("memory://chosen")
    for step in (1, 2, 3):
        save(store, step, {"w": torch.full((2,), float(step))}, metrics={"loss": 3.0 - step, "step": -step})
    store.annotate(1, {"mmlu": 0.5})
    store.tag(2, "paper")

    def steps(where: str | None = None, sort: str | None = None) -> list[int]:
        return [info.step for info in store.steps(where=where, sort=sort)]

    assert steps("loss < 1.5") == [2, 3]
    assert steps("mmlu == 0.5 or tag.paper", "-step") == [2, 1]
    assert steps("metrics.step < -2 and step > 0 and branch == 'main'") == [3]
    assert steps(sort="loss") == [3, 2, 1]
    with pytest.raises(InvalidArgumentError, match="did you mean mmlu"):
        steps("mlu > 0")
