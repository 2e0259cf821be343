from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from deltackpt.backend.base import Buffer, ObjectInfo
from deltackpt.backend.memory import MemoryBackend
from deltackpt.backend.url import open_backend
from deltackpt.errors import (
    BackendError,
    CorruptObjectError,
    InvalidArgumentError,
    MissingObjectError,
    NotAStoreError,
    StoreExistsError,
    TruncatedObjectError,
    UnknownVersionError,
)
from deltackpt.format.keys import STORE_JSON, StepKey, index_key, manifest_key
from deltackpt.store.catalog import find_step, parse_step
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import load_manifest, load_step, save_step, state_bytes
from deltackpt.testing.faults import Fault, FaultyBackend, RecordingBackend, flip_bits, truncate_object
from tests.store.helpers import small_state


def keys(store: OpenStore) -> list[str]:
    return [info.key for info in store.backend.list()]


def test_create_and_open() -> None:
    backend = MemoryBackend()
    options = StoreOptions("anchor", 3, 4, 5, 6000, 7)
    made = create_store(backend, options)
    assert keys(made) == ["README.txt", "reader.py", "store.json"]
    opened = open_store(backend)
    assert opened.options == made.options == options
    assert opened.config == made.config
    assert opened.url == backend.url
    assert create_store(MemoryBackend(), options).config.id != made.config.id


def test_creating_again() -> None:
    store = create_store(MemoryBackend(), StoreOptions())
    with pytest.raises(StoreExistsError, match="open it"):
        create_store(store.backend, StoreOptions())
    assert open_store(store.backend).config == store.config


def test_creating_where_something_else_is() -> None:
    backend = MemoryBackend()
    backend.put("model.pt", b"precious")
    with pytest.raises(NotAStoreError, match=r"holds model.pt"):
        create_store(backend, StoreOptions())
    assert [info.key for info in backend.list()] == ["model.pt"]


def test_a_creation_that_was_killed_can_be_done_again() -> None:
    backend = MemoryBackend()
    for nth in (1, 2):
        with pytest.raises(BackendError):
            create_store(FaultyBackend(backend, [Fault("put", nth=nth)]), StoreOptions())
    with pytest.raises(BackendError):
        create_store(FaultyBackend(backend, [Fault("put_if_absent")]), StoreOptions())
    with pytest.raises(NotAStoreError):
        open_store(backend)
    create_store(backend, StoreOptions())
    open_store(backend)


class Rivalled(MemoryBackend):
    """Before one of its operations, or within the first list that finds anything, somebody else makes a store there."""

    def __init__(self, nth: int) -> None:
        super().__init__()
        self.nth, self.count = nth, 0
        self.created: OpenStore | None = None

    def _rival(self) -> None:
        self.count += 1
        if self.count == self.nth:
            self.created = create_store(self, StoreOptions())
            save_step(self.created, small_state(1), step=1)

    def put(self, key: str, data: Buffer) -> None:
        self._rival()
        super().put(key, data)

    def put_if_absent(self, key: str, data: Buffer) -> None:
        self._rival()
        super().put_if_absent(key, data)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._rival()
        return super().list(prefix)


def test_one_of_two_creators_wins_wherever_they_meet() -> None:
    alone = Rivalled(0)
    create_store(alone, StoreOptions())
    for nth in range(1, alone.count + 1):
        backend = Rivalled(nth)
        with pytest.raises(StoreExistsError, match="open it"):
            create_store(backend, StoreOptions(key_every=2))
        assert backend.created is not None
        assert open_store(backend).config == backend.created.config
        assert load_step(open_store(backend), 1) == state_bytes(small_state(1))


def test_one_of_many_creators_wins(tmp_path: Path) -> None:
    """As when every rank of a job asks for a new store; the winner saves at once."""
    for number in range(10):
        together = threading.Barrier(4)

        def attempt(
            together: threading.Barrier = together, url: Path = tmp_path / f"store-{number}"
        ) -> OpenStore | None:
            together.wait(60)
            try:
                store = create_store(open_backend(url, create=True), StoreOptions())
            except StoreExistsError:
                return None
            save_step(store, small_state(1), step=1)
            return store

        with ThreadPoolExecutor(4) as pool:
            made = [future.result() for future in [pool.submit(attempt) for _ in range(4)]]
        (winner,) = [store for store in made if store is not None]
        assert load_step(open_store(winner.backend), 1) == state_bytes(small_state(1))


def test_opening_what_is_no_store() -> None:
    backend = MemoryBackend()
    with pytest.raises(NotAStoreError, match=r"has no store.json .*deltackpt init"):
        open_store(backend)
    backend.put(STORE_JSON, b"{}")
    with pytest.raises(NotAStoreError):
        open_store(backend)


def with_options(store: OpenStore, options: dict[str, object]) -> OpenStore:
    config = json.loads(store.backend.get(STORE_JSON))
    store.backend.put(STORE_JSON, json.dumps({**config, "options": options}).encode())
    return open_store(store.backend)


def test_a_store_of_a_newer_format() -> None:
    store = create_store(MemoryBackend(), StoreOptions())
    config = json.loads(store.backend.get(STORE_JSON))
    store.backend.put(STORE_JSON, json.dumps({**config, "format": 2}).encode())
    with pytest.raises(UnknownVersionError, match="newer deltackpt"):
        open_store(store.backend)


@pytest.mark.parametrize("options", [{"chain": "newer"}, {"tables": True}, {"level": 99}])
def test_options_of_a_newer_version_stop_writers_but_not_readers(options: dict[str, object]) -> None:
    store = create_store(MemoryBackend(), StoreOptions())
    save_step(store, small_state(), step=1)
    newer = with_options(store, options)
    assert load_step(newer, 1) == state_bytes(small_state())
    with pytest.raises(InvalidArgumentError, match=next(iter(options))):
        save_step(newer, small_state(), step=2)


def test_absent_options_take_their_defaults() -> None:
    store = create_store(MemoryBackend(), StoreOptions())
    assert with_options(store, {"key_every": 2}).options == StoreOptions(key_every=2)


def test_indexes_and_manifests_are_read_once(store: OpenStore) -> None:
    save_step(store, small_state(), step=1)
    backend = RecordingBackend(store.backend)
    opened = open_store(backend)
    for _ in range(3):
        manifest = load_manifest(opened, 1)
        opened.index(manifest.indexes[0].object)
    assert backend.count("get", "indexes/") == 1
    sizes = [done.size for done in backend.operations if done.kind == "get" and done.key.startswith("manifests/")]
    assert sizes[1:] == [8, 8]  # its checksum: is it still the same?


def test_a_step_that_was_deleted_and_saved_again_is_read_anew(store: OpenStore) -> None:
    save_step(store, small_state(0), step=1)
    key = manifest_key(load_manifest(store, 1).header.key)
    for seed in range(1, 4):
        other = open_store(store.backend)
        other.backend.delete(key)
        with pytest.raises(MissingObjectError):
            store.manifest(StepKey("main", 1, 1))
        save_step(other, {f"w{number}": np.zeros(seed) for number in range(seed)}, step=1)
        assert load_step(store, 1) == load_step(open_store(store.backend), 1)


def test_a_header_is_one_short_read(store: OpenStore) -> None:
    # Random names, so that no compression makes manifests short.
    state = {np.random.default_rng(n).bytes(40).hex(): np.zeros(1, np.float32) for n in range(500)}
    short = save_step(store, state, step=1)
    long = save_step(store, state, step=2, metrics=dict.fromkeys(list(state)[:100], 1.5))
    backend = RecordingBackend(store.backend)
    opened = open_store(backend)
    for step, header, reads in ((1, short, 1), (2, long, 2)):
        backend.clear()
        found = find_step(opened, parse_step(step))
        assert found.manifest_bytes > 10_000
        assert opened.header(found.key, found.manifest_bytes) == header
        assert backend.count("get") == reads
        assert backend.bytes_read() < 17_000
    tiny = create_store(MemoryBackend(), StoreOptions())
    header = save_step(tiny, {}, step=1)
    found = find_step(tiny, parse_step(1))
    assert found.manifest_bytes < 4096
    assert tiny.header(found.key, found.manifest_bytes) == header


def test_objects_that_are_not_what_they_should_be(store: OpenStore) -> None:
    save_step(store, small_state(), step=1)
    save_step(store, small_state(1), step=2)
    one, two = StepKey("main", 1, 1), StepKey("main", 2, 1)
    manifest = store.manifest(one)
    backend = store.backend
    index = index_key(manifest.indexes[0].object)
    flip_bits(backend, index, 30)
    with pytest.raises(CorruptObjectError, match=rf"{index}: .* hash in its name"):
        open_store(backend).index(manifest.indexes[0].object)
    backend.delete(index)
    with pytest.raises(MissingObjectError, match=index):
        open_store(backend).index(manifest.indexes[0].object)

    # A manifest at the place of another.
    backend.put(manifest_key(one), backend.get(manifest_key(two)))
    opened = open_store(backend)
    for read in (lambda: opened.manifest(one), lambda: opened.header(one, len(backend.get(manifest_key(two))))):
        with pytest.raises(CorruptObjectError, match=r"says that it is step main:2 generation 1"):
            read()
    truncate_object(backend, manifest_key(two), 20)
    with pytest.raises(TruncatedObjectError):
        opened.header(two, 20)
