from __future__ import annotations

import numpy as np
import pytest

from deltackpt.errors import InvalidArgumentError, InvalidNameError, StepNotFoundError
from deltackpt.format.keys import StepKey
from deltackpt.store.catalog import StepRef, find_place, find_step, newest_before, parse_step, visible_steps
from deltackpt.store.opened import OpenStore
from deltackpt.testing.arrays import save_step

STATE = {"w": np.zeros(3, np.float32)}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (1000, ("main", 1000)),
        ("1000", ("main", 1000)),
        ("0007", ("main", 7)),
        (0, ("main", 0)),
        ("latest", ("main", None)),
        ("rl:latest", ("rl", None)),
        ("a.b-c_1:5", ("a.b-c_1", 5)),
        (10**12 - 1, ("main", 10**12 - 1)),
    ],
)
def test_what_is_a_step(spec: int | str, expected: tuple[str, int | None]) -> None:
    assert parse_step(spec) == StepRef(*expected)


def test_a_branch_may_be_given_beside_the_step() -> None:
    assert parse_step(5, "rl") == StepRef("rl", 5)
    assert parse_step("main:5", "rl") == StepRef("main", 5)


@pytest.mark.parametrize("spec", ["", "Latest", "1.0", 1.0, -1, "-1", True, None, "a:b:1", "1e3", "\u0661", 10**12])
def test_what_is_no_step(spec: int | str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"is not a step .*BRANCH:latest"):
        parse_step(spec)


@pytest.mark.parametrize("spec", [":5", "../x:5", ".a:5", "-a:5", "a b:1", "a/b:1"])
def test_what_is_no_branch(spec: str) -> None:
    with pytest.raises(InvalidNameError):
        parse_step(spec)


def test_steps_in_order_at_their_newest_generation(store: OpenStore) -> None:
    for branch, step in [("main", 20), ("main", 3), ("rl", 1), ("main", 100), ("main", 3), ("main-2", 5)]:
        save_step(store, STATE, step=step, branch=branch)
    store.backend.put("manifests/main/000000000007/junk", b"no manifest")
    store.backend.put("manifests/main/7/000001", b"no manifest")
    found = [step.key for step in visible_steps(store)]
    expected = [("main", 3, 2), ("main", 20, 1), ("main", 100, 1), ("main-2", 5, 1), ("rl", 1, 1)]
    assert found == [StepKey(*key) for key in expected]
    assert [step.key for step in visible_steps(store, "main")] == found[:3]
    sizes = {info.key: info.size for info in store.backend.list("manifests/")}
    assert visible_steps(store, "rl")[0].manifest_bytes == sizes["manifests/rl/000000000001/000001"]


def test_finding(store: OpenStore) -> None:
    for step in (5, 10, 20):
        save_step(store, STATE, step=step)
    save_step(store, STATE, step=10)
    assert find_step(store, StepRef("main", None)).key == StepKey("main", 20, 1)
    assert find_step(store, StepRef("main", 10)).key == StepKey("main", 10, 2)
    before = {step: newest_before(store, "main", step) for step in (5, 6, 20, 10**12 - 1)}
    assert {step: found and found.key.step for step, found in before.items()} == {5: None, 6: 5, 20: 10, 10**12 - 1: 20}
    place = find_place(store, "main", 10)
    assert place is not None
    assert place.key.generation == 2
    assert find_place(store, "main", 11) is None
    assert newest_before(store, "rl", 100) is None


def test_what_is_not_there_is_told_with_what_is(store: OpenStore) -> None:
    with pytest.raises(StepNotFoundError, match=r"memory://unnamed: branch main has no steps \(nothing has been saved"):
        find_step(store, StepRef("main", None))
    for step in (1, 100, 200, 300, 1000):
        save_step(store, STATE, step=step)
    save_step(store, STATE, step=1, branch="rl")
    with pytest.raises(StepNotFoundError, match=r"no step main:240 \(the nearest are 100, 200, 300\)"):
        find_step(store, StepRef("main", 240))
    with pytest.raises(StepNotFoundError, match=r"no step main:0 \(the nearest are 1, 100, 200\)"):
        find_step(store, StepRef("main", 0))
    with pytest.raises(StepNotFoundError, match=r"branch rll has no steps \(branches: main, rl\)"):
        find_step(store, StepRef("rll", 1))
