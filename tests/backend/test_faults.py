from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest

from deltackpt.backend.base import Backend
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import BackendError, InvalidArgumentError, MissingObjectError
from deltackpt.testing import (
    Fault,
    FaultyBackend,
    Operation,
    RecordingBackend,
    flip_bits,
    overwrite_bytes,
    truncate_object,
)


def test_the_nth_operation_fails_before_its_effect() -> None:
    inner = MemoryBackend()
    backend = FaultyBackend(inner, [Fault("put", nth=2)])
    backend.put("a", b"1")
    with pytest.raises(BackendError, match="injected"):
        backend.put("b", b"2")
    backend.put("c", b"3")
    assert [info.key for info in inner.list()] == ["a", "c"]
    assert backend.struck == 1


def test_after_its_effect_and_by_prefix() -> None:
    inner = MemoryBackend()
    fault = Fault("put_if_absent", error=KeyboardInterrupt, when="after", prefix="manifests/")
    backend = FaultyBackend(inner, [fault])
    backend.put_if_absent("packs/a", b"1")
    with pytest.raises(KeyboardInterrupt):
        backend.put_if_absent("manifests/a", b"2")
    assert inner.get("manifests/a") == b"2"
    assert backend.url == inner.url


def test_several_and_all_further() -> None:
    backend = FaultyBackend(MemoryBackend(), [Fault("get", nth=2, times=2), Fault("delete", times=None)])
    backend.put("a", b"1")
    outcomes = []
    for _ in range(5):
        try:
            outcomes.append(backend.get("a"))
        except BackendError:
            outcomes.append(b"failed")
        with pytest.raises(BackendError):
            backend.delete("a")
    assert outcomes == [b"1", b"failed", b"failed", b"1", b"1"]
    assert backend.struck == 7


def test_lists_fail_at_either_end() -> None:
    inner = MemoryBackend()
    inner.put("a", b"")
    backend = FaultyBackend(inner, [Fault("list"), Fault("list", nth=2, when="after")])
    with pytest.raises(BackendError):
        next(backend.list())
    listing = backend.list()
    assert next(listing).key == "a"
    with pytest.raises(BackendError):
        next(listing)
    assert [info.key for info in backend.list()] == ["a"]


def test_of_many_threads_one_is_struck() -> None:
    backend = FaultyBackend(MemoryBackend(), [Fault("put", nth=50)])
    barrier = threading.Barrier(8)

    def put_many(thread: int) -> int:
        barrier.wait()
        failed = 0
        for number in range(20):
            try:
                backend.put(f"{thread}/{number}", b"")
            except BackendError:
                failed += 1
        return failed

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(put_many, range(8))) == 1
    assert len(list(backend.list())) == 159


@pytest.mark.parametrize("values", [{"nth": 0}, {"times": 0}])
def test_faults_that_never_happen(values: dict[str, int]) -> None:
    kind: Literal["put"] = "put"
    with pytest.raises(InvalidArgumentError):
        Fault(kind, nth=values.get("nth", 1), times=values.get("times", 1))


def test_a_recording() -> None:
    backend = RecordingBackend(MemoryBackend())
    backend.put("packs/a", memoryview(bytes(12)).cast("I"))
    backend.put_if_absent("store.json", b"12345")
    backend.get("packs/a", 2, 3)
    backend.get("packs/a")
    with pytest.raises(MissingObjectError):
        backend.get("packs/b")
    assert len(list(backend.list("p"))) == 1
    backend.delete("packs/a")
    assert backend.operations == (
        Operation("put", "packs/a", 0, 12, False),
        Operation("put_if_absent", "store.json", 0, 5, False),
        Operation("get", "packs/a", 2, 3, False),
        Operation("get", "packs/a", 0, 12, False),
        Operation("get", "packs/b", 0, 0, True),
        Operation("list", "p", 0, 1, False),
        Operation("delete", "packs/a", 0, 0, False),
    )
    assert (backend.count("get"), backend.count("get", "packs/b"), backend.count("put")) == (3, 1, 1)
    assert (backend.bytes_read(), backend.bytes_read("store")) == (15, 0)
    assert (backend.bytes_written(), backend.bytes_written("packs/")) == (17, 12)
    backend.clear()
    assert backend.get("store.json") == b"12345"
    assert [done.key for done in backend.operations] == ["store.json"]


def test_a_recording_of_failures_and_of_lists_given_up() -> None:
    inner = MemoryBackend()
    for key in "abc":
        inner.put(key, b"data")
    backend = RecordingBackend(FaultyBackend(inner, [Fault("put"), Fault("list", when="after")]))
    with pytest.raises(BackendError):
        backend.put("d", b"data")
    with pytest.raises(BackendError):
        list(backend.list())
    listing = backend.list("")
    next(listing)
    del listing
    assert [(done.kind, done.size, done.failed) for done in backend.operations] == [
        ("put", 0, True),
        ("list", 3, True),
        ("list", 1, False),
    ]


def test_recordings_of_many_threads_lose_nothing() -> None:
    backend = RecordingBackend(MemoryBackend())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: backend.put(str(number), b"xyz"), range(400)))
    assert backend.count("put") == 400
    assert backend.bytes_written() == 1200


def _stored(damage: Callable[[Backend], None]) -> bytes:
    backend = MemoryBackend()
    backend.put("a", b"0123456789")
    damage(backend)
    return backend.get("a")


def test_damage() -> None:
    assert _stored(lambda backend: flip_bits(backend, "a", 3, 0x01)) == b"0122456789"
    assert _stored(lambda backend: flip_bits(backend, "a", -1)) == b"012345678\xc6"
    assert _stored(lambda backend: overwrite_bytes(backend, "a", 2, b"xyz")) == b"01xyz56789"
    assert _stored(lambda backend: overwrite_bytes(backend, "a", -2, b"xy")) == b"01234567xy"
    assert _stored(lambda backend: truncate_object(backend, "a", 4)) == b"0123"
    assert _stored(lambda backend: truncate_object(backend, "a", -1)) == b"012345678"
    assert _stored(lambda backend: truncate_object(backend, "a", 0)) == b""


@pytest.mark.parametrize(
    "damage",
    [
        lambda backend: flip_bits(backend, "a", 10),
        lambda backend: flip_bits(backend, "a", -11),
        lambda backend: flip_bits(backend, "a", 0, 0),
        lambda backend: flip_bits(backend, "a", 0, 256),
        lambda backend: overwrite_bytes(backend, "a", 8, b"xyz"),
        lambda backend: overwrite_bytes(backend, "a", -11, b"x"),
        lambda backend: overwrite_bytes(backend, "a", 2, b"234"),
        lambda backend: overwrite_bytes(backend, "a", 2, b""),
        lambda backend: truncate_object(backend, "a", 10),
        lambda backend: truncate_object(backend, "a", -11),
    ],
)
def test_damage_that_would_change_nothing_is_refused(damage: Callable[[Backend], None]) -> None:
    with pytest.raises(InvalidArgumentError):
        _stored(damage)


@pytest.mark.parametrize("damage", [flip_bits, truncate_object])
def test_damage_to_what_is_not_there(damage: Callable[[Backend, str, int], None]) -> None:
    with pytest.raises(MissingObjectError):
        damage(MemoryBackend(), "a", 0)
