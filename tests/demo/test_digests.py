from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.digests import differences, digest_state

STATE: dict[str, Any] = {
    "model": {"w": torch.arange(6.0).reshape(2, 3), "scalar": torch.tensor(1.0), "none": torch.empty(0, 2)},
    "optim": {
        "state": {0: {"step": torch.tensor(3.0)}},
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.95), "params": [0]}],
    },
}


def _with(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    def replace(item: Any, rest: tuple[Any, ...]) -> Any:
        if not rest:
            return value
        if isinstance(item, dict):
            return {key: replace(old, rest[1:]) if key == rest[0] else old for key, old in item.items()}
        return [replace(old, rest[1:]) if number == rest[0] else old for number, old in enumerate(item)]

    replaced: dict[str, Any] = replace(STATE, path)
    return replaced


def test_equal_states_have_equal_digests() -> None:
    assert differences(digest_state(STATE), digest_state(_with((), {**STATE}))) == []
    transposed = _with(("model", "w"), torch.arange(6.0).reshape(2, 3).t().contiguous().t())
    assert differences(digest_state(STATE), digest_state(transposed)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("model", "w"), torch.arange(6.0)),
        (("model", "w"), torch.arange(6.0).reshape(3, 2)),
        (("model", "w"), torch.arange(6.0).reshape(2, 3).nextafter(torch.tensor(9.0))),
        (("model", "w"), torch.arange(6.0).reshape(2, 3).view(torch.int32)),
        (("model", "none"), torch.empty(2, 0)),
        (("model", "scalar"), 1.0),
        (("optim", "state"), {"0": {"step": torch.tensor(3.0)}}),
        (("optim", "state"), {}),
        (("optim", "param_groups", 0, "lr"), 0.1 + 1e-17 * 2),
        (("optim", "param_groups", 0, "betas"), [0.9, 0.95]),
        (("optim", "param_groups", 0, "params"), [0.0]),
        (("optim", "param_groups", 0, "params"), [False]),
        (("optim", "param_groups"), []),
    ],
)
def test_any_change_shows(path: tuple[Any, ...], value: Any) -> None:
    assert differences(digest_state(STATE), digest_state(_with(path, value)))


def test_minus_zero_is_another_value() -> None:
    assert digest_state({"a": torch.tensor(0.0)}) != digest_state({"a": torch.tensor(-0.0)})
    assert digest_state({"a": 0.0}) != digest_state({"a": -0.0})


def test_differences_name_the_leaf() -> None:
    kept, found = digest_state({"a": 1, "b": 2, "c": 3}), digest_state({"a": 1, "b": 9, "d": 3})
    assert differences(kept, found) == ["c: missing", "d: was not there", "b: not the same"]
