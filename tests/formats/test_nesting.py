"""Flat entries -> the nested state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint._nested_dict import flatten_state_dict

from deltackpt.errors import CorruptObjectError
from deltackpt.formats.nesting import Entry, nest, split_parts
from deltackpt.tensor.roles import Path, classify_all


def entries_of(state: dict[str, Any]) -> list[Entry]:
    """What DCP and its planner make of a state."""
    flat, paths = flatten_state_dict(state)
    artifacts = classify_all({fqn: (paths[fqn], isinstance(value, torch.Tensor)) for fqn, value in flat.items()})
    return [Entry(fqn, paths[fqn], artifacts[fqn], value) for fqn, value in flat.items()]


def parts_of(state: dict[str, Any]) -> dict[str, object]:
    return split_parts(entries_of(state))


def nested(*places: Path) -> object:
    return nest((str(place), place, number) for number, place in enumerate(places))


leaves = st.integers() | st.text(max_size=2) | st.lists(st.integers(), max_size=2) | st.just((1, "x"))
keys = st.sampled_from(["a", "b", "0", "1"])
states = st.dictionaries(
    keys,
    st.recursive(
        leaves,
        lambda inner: (
            st.dictionaries(keys, inner, min_size=1, max_size=3)
            | st.lists(st.dictionaries(keys, inner, min_size=1, max_size=2) | st.integers(), min_size=1, max_size=3)
        ),
        max_leaves=8,
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(states)
def test_what_dcp_flattens_is_nested_again(state: dict[str, Any]) -> None:
    flat, paths = flatten_state_dict(state)
    assert nest((fqn, paths[fqn], value) for fqn, value in flat.items()) == state


def test_values_are_passed_on_untouched() -> None:
    value = {"state": {"0": 1}, "param_groups": [{"params": [0]}]}
    assert nest([("x", ("x",), value)]) == {"x": value}
    assert nest([("x", (), value)]) is value
    assert nest([]) == {}


def test_empty_dicts_in_a_list_keep_their_place() -> None:
    assert nested(("a", 2, "x"), ("a", 0, "y")) == {"a": [{"y": 1}, {}, {"x": 0}]}


ADAM: dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.99), "params": [0, 1]}


@pytest.mark.parametrize("wrap", [lambda od: {"optim": od}, lambda od: {"a": {"optimizer": od}}, lambda od: od])
def test_ids_of_parameters_are_integers_again(wrap: Any) -> None:
    od = {"state": {0: {"step": 1, "exp_avg": torch.ones(1)}, 1: {"step": 2}}, "param_groups": [ADAM]}
    assert parts_of(wrap(od))["optim"] == od


def test_ids_in_a_list_of_optimizers() -> None:
    ods = [
        {"state": {7: {"momentum_buffer": 1}}, "param_groups": [{"params": [7]}, {"params": []}]},
        {"state": {"layer.0": {"step": 1}}, "param_groups": [{"params": ["layer.0"]}]},
    ]
    assert parts_of({"optimizers": ods}) == {"optim": ods}
    assert parts_of({"trainer": {"optims": {"a": ods[0], "b": ods[1]}}}) == {"optim": {"a": ods[0], "b": ods[1]}}


def test_only_ids_that_the_groups_list_change() -> None:
    od = {"state": {"0": {"x": 1}, "00": {"x": 2}, "5": {"x": 3}}, "param_groups": [{"params": [0, 1]}]}
    assert parts_of({"optim": od})["optim"] == {**od, "state": {0: {"x": 1}, "00": {"x": 2}, "5": {"x": 3}}}
    by_name = {"state": {"0": {"x": 1}}, "param_groups": [{"params": ["0"]}]}
    assert parts_of({"optim": by_name})["optim"] == by_name
    no_optimizer = {"state": {"0": {"x": 1}}, "param_groups": {"0": {"params": [0]}}}
    assert parts_of({"optim": no_optimizer})["optim"] == no_optimizer


def test_an_optimizer_that_did_not_step_gets_its_empty_state() -> None:
    od = {"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
    part = parts_of({"model": {"w": torch.ones(1)}, "optim": od})["optim"]
    assert part == od
    assert list(part) == ["state", "param_groups"]


def test_markers_are_left_out_where_they_are_shared() -> None:
    sd, od = {"w": torch.ones(2), "b": torch.zeros(1)}, {"state": {}, "param_groups": [{"params": [0]}]}
    config = {"lr": 0.1, "layers": [1, 2]}
    train = {"step": 3, "scheduler": {"last": 1}}
    expected = {"model": sd, "optim": od, "config": config, "train": train}
    assert parts_of({"model": sd, "optim": od, "config": config, **train}) == expected
    assert parts_of({"app": {"model": sd, "optim": od, "config": config}, **train}) == expected
    assert parts_of({"state_dict": sd, "optimizer": od, "hparams": config, "train": train}) == expected
    assert parts_of(sd) == {"model": sd}
    assert parts_of(od) == {"optim": od}
    assert parts_of({"adam": od, "net": sd}) == {"optim": od, "model": {"net": sd}}


def test_several_markers_stay() -> None:
    one, two = {"w": torch.ones(1)}, {"w": torch.zeros(1)}
    state = {"teacher": {"model": one}, "student": {"model": two}}
    assert parts_of(state) == {"model": state}
    ods = {name: {"state": {}, "param_groups": [{"params": [0]}]} for name in ("optim_g", "optim_d")}
    assert parts_of(ods) == {"optim": ods}


def test_train_is_left_out_only_where_it_is_alone() -> None:
    assert parts_of({"train": {"step": 1}, "model": {"w": torch.ones(1)}})["train"] == {"step": 1}
    assert parts_of({"train": {"step": 1}, "seed": 2})["train"] == {"train": {"step": 1}, "seed": 2}
    assert parts_of({"train": 5})["train"] == {"train": 5}


def test_entries_without_a_place_are_under_their_names() -> None:
    entries = [
        Entry("model.w", None, "model", 1),
        Entry("model.b", None, "model", 2),
        Entry("a.step", None, "train", 3),
    ]
    assert split_parts(entries) == {"model": {"model.w": 1, "model.b": 2}, "train": {"a.step": 3}}
    sd = {"w": 1}
    assert split_parts([Entry("model", None, "model", sd)]) == {"model": sd}


def bad(*places: Any) -> Iterable[Path]:
    return places


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (bad(("a",), ("a",)), "another entry is there"),
        (bad(("a", "b"), ("a",)), "another entry is there"),
        (bad(("a",), ("a", "b")), "inside another entry"),
        (bad(("a", "b"), ("a", 0)), "a dict and a list"),
        (bad(("a", 0), ("a", "b")), "a dict and a list"),
        (bad(("a", 2**62)), "that long"),
        (bad(("a", -1)), "neither a key"),
        (bad(("a", True)), "neither a key"),
        (bad(("a", 1.5)), "neither a key"),
        (bad(("a", None, "b")), "neither a key"),
        (bad(("a",) * 100_000), "levels deep"),
    ],
)
def test_places_that_are_none(places: Iterable[Path], message: str) -> None:
    with pytest.raises(CorruptObjectError, match=message):
        nested(*places)
