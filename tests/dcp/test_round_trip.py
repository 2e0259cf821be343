"""``assert_round_trip`` passes for what survives, and fails, by name, for what does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deltackpt import Store
from deltackpt.dcp import DeltaStorageReader, DeltaStorageWriter
from deltackpt.errors import InvalidArgumentError, UnsupportedDataError, UntrustedObjectError
from deltackpt.testing import assert_round_trip, round_trip
from tests.dcp import jobs
from tests.dcp.ranks import Ranks


def a_state() -> dict[str, Any]:
    model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(4, 6)).sum().backward()
    optimizer.step()
    odd = {
        "nan": torch.tensor([float("nan"), -0.0, 1e-45]),
        "bits": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3, dtype=torch.int8),
        "strided": torch.arange(24.0).reshape(4, 6).t()[::2],
        "complex": torch.randn(5, dtype=torch.complex64).conj(),
        "half": torch.randn(30).to(torch.bfloat16),
    }
    objects = {"none": None, "nan": float("nan"), "array": np.arange(5), "text": "naïve", "list": [1, (2.0, "x")]}
    return {"model": model, "optim": optimizer.state_dict(), "odd": odd, "objects": objects, "step": 12}


def test_a_state_that_survives() -> None:
    assert_round_trip(a_state())
    assert_round_trip({})


def test_a_state_on_several_ranks(ranks: Ranks, tmp_path: Any) -> None:
    store = Store.create(tmp_path / "store", block_elements=64)
    assert ranks.run(2, jobs.round_trip, store.url) == ["a store in memory serves one process only"] * 2
    assert [info.step for info in store.steps("alone")] == [0]
    assert [info.depth for info in store.steps()] == [1, 2]
    with pytest.raises(InvalidArgumentError, match="has steps"):
        assert_round_trip({"x": torch.zeros(1)}, store=store)


class Forgetful(DeltaStorageReader):
    """A reader that loses what comes after the first tensor."""

    def read_data(self, plan: Any, planner: Any) -> Any:
        plan.items[:] = plan.items[:1]
        return super().read_data(plan, planner)


class Rounding(DeltaStorageWriter):
    """A writer of tensors that have lost a bit."""

    def write_data(self, plan: Any, planner: Any) -> Any:
        resolve = planner.resolve_data

        def rounded(item: Any) -> Any:
            found = resolve(item)
            return found.bfloat16().float() if isinstance(found, torch.Tensor) else found

        planner.resolve_data = rounded
        return super().write_data(plan, planner)


@pytest.mark.parametrize(
    ("name", "replacement", "words"),
    [
        (
            "DeltaStorageReader",
            Forgetful,
            "2 of 3 entries did not survive:\n  b: 400 of 400 bytes differ\n  n: ",
        ),
        ("DeltaStorageWriter", Rounding, r"2 of 3 entries did not survive:\n  a: \d+ of 400 bytes differ"),
    ],
)
def test_what_is_lost_is_named(monkeypatch: pytest.MonkeyPatch, name: str, replacement: type, words: str) -> None:
    monkeypatch.setattr(round_trip, name, replacement)
    with pytest.raises(AssertionError, match=words):
        assert_round_trip({"a": torch.rand(100), "b": torch.rand(100), "n": 7})


def test_values_of_objects_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_trip, "load", lambda state, storage_reader: state.update(n=7.0, s="y"))
    with pytest.raises(AssertionError, match=r"n: int came back as float\n  s: 'x' came back as 'y'"):
        assert_round_trip({"n": 7, "s": "x"})


class Custom:
    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Custom) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]


def test_what_cannot_be_saved_or_is_not_trusted() -> None:
    with pytest.raises(UnsupportedDataError, match="x: a tensor of layout sparse_coo"):
        assert_round_trip({"x": torch.eye(3).to_sparse()})
    with pytest.raises(BaseException, match="trust_objects") as caught:
        assert_round_trip({"c": Custom(1)})
    assert isinstance(caught.value, UntrustedObjectError) or "UntrustedObjectError" in str(caught.value)
    assert_round_trip({"c": Custom(1)}, trust_objects=True)
