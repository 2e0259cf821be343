"""Branches that DCP saves into: against the step that they start at, whole by themselves, unknown to each other."""

from __future__ import annotations

from typing import Any

import torch

from deltackpt import Store
from deltackpt.pipeline.verify import verify_store
from tests.dcp.states import load_state, new_store, save_state

FROZEN = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
WALK = torch.linspace(1, 2, 8192).sin()


def a_state(step: int, head: float = 0.0) -> dict[str, Any]:
    """A part that stands still, one that moves a little, and a head that differs from branch to branch."""
    return {"model": {"frozen": FROZEN, "w": WALK + step * 1e-7, "head": torch.full((4096,), head) + WALK[:4096]}}


def new_bytes(store: Store, branch: str, step: int) -> int:
    return next(info for info in store.steps(branch) if info.step == step).artifacts["model"][1]


def test_steps_of_a_branch_are_deltas_and_duplicates_of_where_it_starts() -> None:
    store = new_store(chain="previous", block_elements=4096)
    for step in (1, 2, 3):
        save_state(store, step, a_state(step))
    for name in ("a", "b"):
        store.branch(name, at=2)
        save_state(store, 3, a_state(ord(name), head=1.0), branch=name)
        save_state(store, 4, a_state(2 * ord(name), head=1.0), branch=name)
    for name in ("a", "b"):
        first, second = store.steps(name)
        assert (first.parent, first.is_key, first.depth > 1) == ("main:2", False, True)
        assert second.parent == f"{name}:3"
        # What stands still is not stored again, what moves is a delta: less than half of a key step.
        assert new_bytes(store, name, 3) < 0.5 * new_bytes(store, "main", 1)
    written = {step.name: step for step in store.stats().steps}
    assert [written[name].duplicate_blocks for name in ("main:1", "a:3", "b:3")] == [0, 1, 1]
    assert [step.name for step in store.stats().steps] == ["a:3", "a:4", "b:3", "b:4", "main:1", "main:2", "main:3"]
    # Siblings do not know each other: each stores a head of its own, of the same bytes.
    heads = {hash(store.step(3, name).tensor("model.head").numpy().tobytes()) for name in ("a", "b")}
    assert len(heads) == 1
    assert min(new_bytes(store, name, 3) for name in ("a", "b")) > 0


def test_without_the_branches_beside_it_each_is_whole() -> None:
    store = new_store(chain="previous", block_elements=4096)
    for step in (1, 2):
        save_state(store, step, a_state(step))
    for name in ("a", "b"):
        store.branch(name, at=2)
        save_state(store, 3, a_state(3, head=ord(name)), branch=name)
    for gone in ("main", "a"):
        store.delete_branch(gone)
    store.gc(grace=0)
    loaded = load_state(store, 3, a_state(0), branch="b")
    expected = a_state(3, head=ord("b"))
    assert all(torch.equal(loaded["model"][name], expected["model"][name]) for name in expected["model"])
    assert verify_store(store.opened, deep=True, threads=1).ok
