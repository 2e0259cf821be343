from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.backend.base import Backend, ObjectInfo
from deltackpt.backend.memory import MemoryBackend
from deltackpt.backend.retry import RetryingBackend, RetryPolicy
from deltackpt.errors import (
    BackendError,
    InvalidArgumentError,
    MissingObjectError,
    ObjectExistsError,
    TransientBackendError,
)
from deltackpt.testing import Fault, FaultyBackend, RecordingBackend
from deltackpt.testing.faults import Kind

POLICY = RetryPolicy(attempts=4, first_delay=1.0, max_delay=3.0)


def transient() -> TransientBackendError:
    return TransientBackendError("throttled")


def retrying(inner: Backend, waits: list[float] | None = None, draw: float = 0.5) -> RetryingBackend:
    return RetryingBackend(inner, POLICY, sleep=(waits if waits is not None else []).append, draw=lambda: draw)


OPERATIONS: dict[Kind, Callable[[Backend], object]] = {
    "put": lambda backend: backend.put("a", b"new"),
    "put_if_absent": lambda backend: backend.put_if_absent("b", b"new"),
    "get": lambda backend: backend.get("a", 1, 2),
    "list": lambda backend: list(backend.list()),
    "delete": lambda backend: backend.delete("a"),
}


@pytest.mark.parametrize("kind", OPERATIONS)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("times", [1, 3])
def test_what_passes_is_retried(kind: Kind, when: Literal["before", "after"], times: int) -> None:
    plain = MemoryBackend()
    inner = MemoryBackend()
    for backend in (plain, inner):
        backend.put("a", b"old")
    faulty = FaultyBackend(inner, [Fault(kind, error=transient, when=when, times=times)])
    waits: list[float] = []
    operation = OPERATIONS[kind]
    assert operation(retrying(faulty, waits)) == operation(plain)
    # The second put-if-absent after one that took effect finds the key taken: a lost answer is lost once.
    assert faulty.struck == len(waits) == (1 if (kind, when) == ("put_if_absent", "after") else times)
    assert list(inner.list()) == list(plain.list())
    for info in plain.list():
        assert inner.get(info.key) == plain.get(info.key)


@pytest.mark.parametrize("kind", OPERATIONS)
def test_it_gives_up_with_the_last_error(kind: Kind) -> None:
    inner = MemoryBackend()
    inner.put("a", b"old")
    errors = [TransientBackendError(str(number)) for number in range(10)]
    faulty = FaultyBackend(inner, [Fault(kind, error=iter(errors).__next__, times=None)])
    waits: list[float] = []
    with pytest.raises(TransientBackendError) as caught:
        OPERATIONS[kind](retrying(faulty, waits))
    assert caught.value is errors[3]
    assert waits == [0.75, 1.5, 2.25]


@pytest.mark.parametrize("kind", OPERATIONS)
@pytest.mark.parametrize("error", [BackendError("disk full"), MissingObjectError("gone"), KeyboardInterrupt()])
def test_what_does_not_pass_is_not_retried(kind: Kind, error: BaseException) -> None:
    inner = MemoryBackend()
    inner.put("a", b"old")
    recording = RecordingBackend(FaultyBackend(inner, [Fault(kind, error=lambda: error)]))
    waits: list[float] = []
    with pytest.raises(type(error)):
        OPERATIONS[kind](retrying(recording, waits))
    assert waits == []
    assert len(recording.operations) == 1


def test_put_if_absent_whose_answer_was_lost_finds_its_own_object() -> None:
    inner = MemoryBackend()
    faulty = FaultyBackend(inner, [Fault("put_if_absent", error=transient, when="after")])
    retrying(faulty).put_if_absent("a", memoryview(b"mine"))
    assert inner.get("a") == b"mine"
    assert faulty.struck == 1


@pytest.mark.parametrize("stored", [b"yours", b"min", b"mine!", b""])
def test_put_if_absent_does_not_take_another_object_for_its_own(stored: bytes) -> None:
    inner = MemoryBackend()
    inner.put("a", stored)
    backend = retrying(FaultyBackend(inner, [Fault("put_if_absent", error=transient)]))
    with pytest.raises(ObjectExistsError):
        backend.put_if_absent("a", b"mine")
    assert inner.get("a") == stored


def test_put_if_absent_at_the_first_attempt_compares_nothing() -> None:
    inner = MemoryBackend()
    inner.put("a", b"mine")
    recording = RecordingBackend(inner)
    with pytest.raises(ObjectExistsError):
        retrying(recording).put_if_absent("a", b"mine")
    assert recording.count("get") == 0


def test_put_if_absent_whose_rival_vanished_is_an_error() -> None:
    faults = [
        Fault("put_if_absent", error=transient),
        Fault("put_if_absent", nth=2, error=lambda: ObjectExistsError("taken")),
    ]
    with pytest.raises(ObjectExistsError):
        retrying(FaultyBackend(MemoryBackend(), faults)).put_if_absent("a", b"mine")


def test_the_comparison_is_retried_too() -> None:
    faults = [Fault("put_if_absent", error=transient, when="after"), Fault("get", error=transient, times=2)]
    faulty = FaultyBackend(MemoryBackend(), faults)
    retrying(faulty).put_if_absent("a", b"mine")
    assert faulty.struck == 3


class Interrupted(MemoryBackend):
    """Gives out two objects more each time before its list breaks off."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self.calls += 1
        for number, info in enumerate(super().list(prefix)):
            if number == 2 * self.calls:
                raise transient()
            yield info


def test_a_list_goes_on_where_it_broke_off() -> None:
    inner = Interrupted()
    keys = [f"{number:02}" for number in range(20)]
    for key in keys:
        inner.put(key, b"")
    waits: list[float] = []
    # More failures than attempts, but never without progress between them.
    assert [info.key for info in retrying(inner, waits).list()] == keys
    assert len(waits) == 9
    assert set(waits) == {0.75}


@given(st.integers(1, 2000), st.floats(0, 1, exclude_max=True))
def test_waits_double_up_to_the_bound_and_are_spread(failures: int, draw: float) -> None:
    longest = min(3.0, 2.0 ** min(failures - 1, 10))
    assert longest / 2 <= POLICY.delay(failures, draw) <= longest
    assert POLICY.delay(failures, 0.0) == longest / 2


@pytest.mark.parametrize("values", [(0, 1.0, 1.0), (1, -1.0, 1.0), (1, 1.0, -1.0)])
def test_policies_that_make_no_sense(values: tuple[int, float, float]) -> None:
    with pytest.raises(InvalidArgumentError):
        RetryPolicy(*values)


def test_one_attempt_is_none_repeated() -> None:
    faulty = FaultyBackend(MemoryBackend(), [Fault("put", error=transient)])
    waits: list[float] = []
    with pytest.raises(TransientBackendError):
        RetryingBackend(faulty, RetryPolicy(attempts=1), sleep=waits.append).put("a", b"")
    assert waits == []
