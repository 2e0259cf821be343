"""What is saved is what is loaded, bit for bit, however it is cut, packed and written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import DeltackptError, IncompleteSaveError, InvalidArgumentError
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.save import SaveSettings, default_threads, write_items
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import DTYPES, DType, by_code, by_name
from deltackpt.testing.arrays import State, Stored, load_step, save_step, split, state_bytes
from deltackpt.testing.strategies import shapes, tilings
from tests.codec.helpers import noise, special_words
from tests.pipeline.helpers import audit, check, floats, keys, near, own_index

ELEMENT = {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8", 16: "<c16"}


def of_dtype(dtype: DType, shape: tuple[int, ...], seed: int = 0) -> Stored:
    """Special values, then noise."""
    count = int(np.prod(shape, dtype=int)) * (dtype.itemsize // dtype.word_bytes)
    words = [*special_words(dtype)[:count], *noise(dtype, count, seed)][:count]
    return Stored(np.array(words, dtype.word).view(ELEMENT[dtype.itemsize]).reshape(shape), dtype=dtype.name)


@pytest.mark.parametrize("chain", ["previous", "anchor", "skip", "auto"])
def test_every_dtype_through_a_chain(chain: str) -> None:
    store = create_store(MemoryBackend(), StoreOptions(chain, key_every=3, block_elements=50))
    states: dict[int, State] = {}
    for step in range(5):
        states[step] = {
            dtype.name: of_dtype(dtype, (30, 20), seed=step // 2) for dtype in DTYPES if (dtype.code + step) % 4
        }
        save_step(store, states[step], step=step)
    check(store, states)


def test_odd_shapes(store: OpenStore) -> None:
    states: dict[int, State] = {
        step: {
            "scalar": np.array(step, np.float32),
            "same scalar": np.array(7, np.float64),
            "one": np.full((1, 1, 1), step, np.int64),
            "empty": np.zeros((0,), np.float32),
            "empty inside": np.zeros((3, 0, 2), np.float16),
            "long": floats(1000, seed=step),
            "deep": floats(2, 1, 3, 1, 5, 1, 2, seed=step),
            "object": Stored(np.arange(100 + step % 7, dtype=np.uint8), kind="object", artifact="train"),
            "empty object": Stored(np.zeros(0, np.uint8), kind="object"),
            "": np.arange(3, dtype=np.int16),
            "név/ü.\U0001f600": np.arange(3, dtype=np.int16),
        }
        for step in (0, 1, 10**12 - 1)
    }
    for step, state in states.items():
        save_step(store, state, step=step)
    check(store, states)


def test_arrays_that_are_not_contiguous(store: OpenStore) -> None:
    base = floats(40, 30)
    state = {"transposed": base.T, "strided": base[::2, ::3], "reversed": base[::-1], "broadcast": base[:1] + 0 * base}
    save_step(store, state, step=1)
    check(store, {1: state})


def test_tiny_blocks_and_packs() -> None:
    store = create_store(MemoryBackend(), StoreOptions(block_elements=7, pack_bytes=1024, key_every=4))
    states: dict[int, State] = {}
    values = {"a": floats(13, 5), "b": floats(3, 11, 2, seed=1), "c": floats(50, seed=2)}
    for step in range(6):
        states[step] = {
            name: Stored(array, boxes=split(array.shape, 3, axis=array.ndim - 1), artifact=name)
            for name, array in values.items()
        }
        save_step(store, states[step], step=step, writers=2)
        values = {name: near(array, seed=step) for name, array in values.items()}
    check(store, states)
    sizes = [info.size for info in store.backend.list("packs/")]
    assert len(sizes) > 20
    assert max(sizes) <= 1024


def test_a_record_larger_than_a_pack_gets_its_own() -> None:
    store = create_store(MemoryBackend(), StoreOptions(pack_bytes=1024))
    state = {"big": floats(2000), "small": floats(3, seed=1), "other": floats(1500, seed=2)}
    save_step(store, state, step=1)
    check(store, {1: state})
    assert len(keys(store, "packs/")) == 3


@pytest.mark.parametrize("options", [StoreOptions(block_elements=50), StoreOptions(block_elements=50, key_every=2)])
def test_what_is_written_does_not_depend_on_the_number_of_threads(options: StoreOptions) -> None:
    def run(threads: int) -> list[tuple[bytes, list[list[int]]]]:
        store = create_store(MemoryBackend(), options)
        cache = BaseCache(0)
        written = []
        w, tied = floats(64, 32), floats(300, seed=5)
        for step in range(3):
            state: State = {"w": w, "tied.a": tied, "tied.b": tied, "zeros": np.zeros((20, 20)), "m": Stored(w * w)}
            save_step(store, state, step=step, threads=threads, cache=cache, base_memory=threads % 2 << 20)
            assert load_step(open_store(store.backend), step, threads=threads) == state_bytes(state)
            index = own_index(store, step)
            places = [index.location.pack, index.location.offset, index.location.length]
            written.append((index.identity_section, [column.tolist() for column in places]))
            w, tied = near(w, seed=step), near(tied, seed=step)
        return written

    expected = run(1)
    for threads in (2, 3, 4):
        assert run(threads) == expected


def test_the_base_cache_changes_nothing_but_speed() -> None:
    """A new process, whose cache is empty, writes the same records and still deltas."""

    def run(caches: list[BaseCache], budget: int) -> tuple[list[bytes], list[tuple[int, int]]]:
        store = create_store(MemoryBackend(), StoreOptions("previous", block_elements=50))
        w = floats(64, 32)
        written, counts = [], []
        for step, cache in enumerate(caches):
            opened = open_store(store.backend)
            header = save_step(opened, {"w": w}, step=step, cache=cache, base_memory=budget)
            counts.append((int(header.writer["bases_cached"]), int(header.writer["bases_decoded"])))
            assert header.depth == step + 1
            written.append(own_index(store, step).identity_section)
            w = near(w, seed=step)
        return written, counts

    blocks = 64
    warm = BaseCache(0)
    expected, counts = run([warm] * 4, 1 << 20)
    assert counts == [(0, 0), (blocks, 0), (blocks, 0), (blocks, 0)]
    cold, counts = run([BaseCache(0) for _ in range(4)], 1 << 20)
    assert (cold, counts) == (expected, [(0, 0), (0, blocks), (0, blocks), (0, blocks)])
    exact = 64 * 32 * 4
    assert run([BaseCache(0)] * 4, exact)[1][1:] == [(blocks, 0)] * 3
    half, counts = run([BaseCache(0)] * 4, exact // 2)
    assert half == expected
    assert counts[1:] == [(blocks // 2, blocks // 2)] * 3


@given(st.data())
@settings(max_examples=40)
def test_anything_sharded_anyhow_over_some_steps(data: st.DataObject) -> None:
    limit = data.draw(st.integers(1, 20))
    options = StoreOptions(
        chain=data.draw(st.sampled_from(["previous", "anchor", "skip", "auto"])),
        key_every=data.draw(st.integers(1, 4)),
        max_depth=data.draw(st.integers(1, 4)),
        block_elements=limit,
        pack_bytes=1024,
    )
    store = create_store(MemoryBackend(), options)
    shape = data.draw(shapes())
    dtype = data.draw(st.sampled_from([np.float32, np.int8, np.uint16, np.complex128]))
    values: NDArray[Any] = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    states: dict[int, State] = {}
    for step in range(data.draw(st.integers(1, 4))):
        values = values + data.draw(st.sampled_from([0, 1])) * np.random.default_rng(step).integers(0, 3, shape)
        values = values.astype(dtype)
        writers = data.draw(st.integers(1, 3))
        states[step] = {
            "x": Stored(values, boxes=data.draw(tilings(shape))),
            "y": Stored(values, boxes=data.draw(tilings(shape))),
        }
        save_step(store, states[step], step=step, writers=writers)
    check(store, states)


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_a_reader_that_gives_too_little_or_too_much(store: OpenStore, size: int) -> None:
    def read(_: Box) -> NDArray[np.uint8]:
        return np.zeros(size, np.uint8)

    item = SaveItem("w", "tensor", by_name("float32"), Box((0,), (4,)), "model", "weight", ("w",), read)
    with pytest.raises(IncompleteSaveError, match=rf"w: its reader gave {size} bytes for a block of 16"):
        write_items(store, [item], branch="main", step=1, writer=0, settings=SaveSettings(1, 0), cache=BaseCache(0))


def test_errors_of_readers_come_through(store: OpenStore) -> None:
    def fail(box: Box) -> NDArray[np.uint8]:
        if box.offsets[0] >= 64:
            raise RuntimeError("the device is gone")
        return np.zeros(box.numel, np.uint8)

    item = SaveItem("w", "tensor", by_name("uint8"), Box((0,), (1000,)), "model", "weight", ("w",), fail)
    for threads in (1, 4):
        with pytest.raises(RuntimeError, match="the device is gone"):
            write_items(
                store, [item], branch="main", step=1, writer=0, settings=SaveSettings(threads, 0), cache=BaseCache(0)
            )
    assert keys(store, "indexes/") == set()


def test_settings() -> None:
    assert 1 <= default_threads() <= 16
    with pytest.raises(InvalidArgumentError, match="threads must be at least 1, not 0"):
        SaveSettings(0, 0)


def test_arrays_must_fit_their_dtype() -> None:
    with pytest.raises(DeltackptError, match="cannot hold bfloat16"):
        by_code(Stored(floats(3), dtype="bfloat16").element.code)


def test_steps_do_not_share_a_pack(store: OpenStore) -> None:
    """Packs carry a random id: deleting those of one step must not take those of another."""
    state = {"w": floats(100)}
    save_step(store, state, step=1, branch="a")
    save_step(store, state, step=1, branch="b")
    assert len(keys(store, "packs/")) == 2
    assert audit(store, 1, "a").packs != audit(store, 1, "b").packs
