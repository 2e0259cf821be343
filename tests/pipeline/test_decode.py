from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import CorruptObjectError
from deltackpt.format.hashing import address
from deltackpt.format.index import Index
from deltackpt.format.record import Need, Record, Tile
from deltackpt.pipeline.chains import chain_of
from deltackpt.pipeline.decode import BlockDecoder, decode_one
from deltackpt.pipeline.memo import BlockMemo
from deltackpt.pipeline.slots import assemble, element_view, slot_inputs
from deltackpt.store.base import RecordRef, index_lookup
from deltackpt.store.opened import create_store
from deltackpt.store.options import StoreOptions
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import DTYPES, DType, by_name
from deltackpt.testing.arrays import load_manifest, save_step
from deltackpt.testing.faults import RecordingBackend
from deltackpt.testing.strategies import shapes, tilings
from tests.pipeline.helpers import blocks_of, floats, near
from tests.store.helpers import index_of
from tests.store.test_closure import graphs, reach

F32 = by_name("float32")


def raw_record(data: bytes) -> Record:
    return Record(2, 0, 0, address(data), (len(data),), (), b"", data)


# chain_of


@given(graphs(), st.data())
def test_a_chain_is_in_an_order_in_which_it_can_be_decoded(
    graph: tuple[list[Index], dict[tuple[int, int], list[tuple[int, int]]]], data: st.DataObject
) -> None:
    indexes, edges = graph
    if not edges:
        return
    lookup = {index.digest: index for index in indexes}.__getitem__
    refs = {node: RecordRef(indexes[node[0]].digest, node[1]) for node in edges}
    node = data.draw(st.sampled_from(sorted(edges)))
    known = set(data.draw(st.lists(st.sampled_from(sorted(edges)), max_size=2))) - {node}
    chain = chain_of(refs[node], lookup, {refs[k] for k in known})
    without = {n: [] if n in known else needed for n, needed in edges.items()}
    assert set(chain) == {refs[n] for n in reach([node], without) - known}
    done = {refs[k] for k in known}
    for ref, needs in chain.items():
        assert set(needs) <= done
        done.add(ref)
    assert list(chain)[-1] == refs[node]


def test_chains_of_thousands_of_records() -> None:
    """Nothing recurses."""
    index = index_of(1, [[], *([(-1, row)] for row in range(5000))], [])
    chain = chain_of(RecordRef(index.digest, 5000), {index.digest: index}.__getitem__)
    assert [ref.row for ref in chain] == list(range(5001))


def test_rows_that_are_not_there() -> None:
    index = index_of(1, [[]], [])
    for row in (-1, 1):
        with pytest.raises(CorruptObjectError, match=rf"row {row} of an index with 1 rows"):
            chain_of(RecordRef(index.digest, row), {index.digest: index}.__getitem__)


# decode_one


def test_a_record_that_decodes_to_something_else() -> None:
    record = raw_record(b"abcd")
    assert decode_one(record, {}, source="x", offset=7).tobytes() == b"abcd"
    wrong = Record(2, 0, 0, address(b"abce"), (4,), (), b"", b"abcd")
    with pytest.raises(CorruptObjectError, match="x, byte 7: the decoded block does not have its address"):
        decode_one(wrong, {}, source="x", offset=7)


# Slots


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_elements_are_copied_bit_for_bit(dtype: DType) -> None:
    data = np.frombuffer(np.random.default_rng(0).bytes(24 * dtype.itemsize), np.uint8)
    view = element_view(data, dtype, (2, 3, 4))
    assert np.shares_memory(view, data)
    assert np.array(view[:, ::2].T, order="C").tobytes() != data.tobytes()
    out = np.zeros(data.size, np.uint8)
    element_view(out, dtype, (2, 3, 4))[...] = view
    assert out.tobytes() == data.tobytes()
    assert element_view(data[: dtype.itemsize], dtype, ()).shape == ()


@given(shapes(), st.data())
def test_slots_put_together_from_boxes(shape: tuple[int, ...], data: st.DataObject) -> None:
    values = floats(*shape)
    boxes = [box for box in data.draw(tilings(shape)) if box.numel]
    kept = data.draw(st.lists(st.sampled_from(boxes), unique=True)) if boxes else []
    expected = np.zeros_like(values)
    needs, found = [], {}
    for number, box in enumerate(kept):
        expected[box.slices()] = values[box.slices()]
        # The source is larger than what is taken of it.
        before = tuple(data.draw(st.integers(0, 2)) for _ in shape)
        source = floats(*(b + s + 1 for b, s in zip(before, box.sizes, strict=True)), seed=number + 1)
        source[Box(before, box.sizes).slices()] = values[box.slices()]
        name = number.to_bytes(16, "big")
        found[name] = source.reshape(-1).view(np.uint8)
        needs.append(Need(0, F32.code, name, Tile(source.shape, before, box.sizes, box.offsets)))
    inputs = slot_inputs(shape, needs, found, source="x")
    if needs:
        assert set(inputs) == {0}
        assert inputs[0][0] == F32
        assert inputs[0][1].tobytes() == expected.tobytes()
    else:
        assert inputs == {}


def test_a_whole_need_is_passed_on_without_a_copy() -> None:
    data = np.arange(16, dtype=np.uint8)
    need = Need(0, F32.code, b"a" * 16, None)
    assert assemble((4,), F32, [(need, data)], source="x") is data
    with pytest.raises(CorruptObjectError, match="x: a base of 16 bytes for a block of 20"):
        assemble((5,), F32, [(need, data)], source="x")


def test_sources_that_are_not_as_large_as_their_needs_say() -> None:
    data = np.arange(16, dtype=np.uint8)
    for source_shape in ((3,), (5,)):
        need = Need(0, F32.code, b"a" * 16, Tile(source_shape, (0,), (2,), (0,)))
        with pytest.raises(CorruptObjectError, match="x: the boxes of a base do not fit"):
            assemble((4,), F32, [(need, data)], source="x")


# Decoders


def test_a_chain_is_held_two_blocks_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    store = create_store(MemoryBackend(), StoreOptions("previous", key_every=100))
    w = floats(64)
    for step in range(10):
        save_step(store, {"w": w}, step=step)
        w = near(w, seed=step)
    manifest = load_manifest(store, 9)
    ((identity, row),) = blocks_of(manifest, "w")
    held = []
    original = BlockDecoder._decode_step

    def counting(self: BlockDecoder, ref: RecordRef, needs: list[RecordRef], blocks: dict[RecordRef, object]) -> object:
        held.append(len(blocks))
        return original(self, ref, needs, blocks)  # type: ignore[arg-type]

    monkeypatch.setattr(BlockDecoder, "_decode_step", counting)
    BlockDecoder(store, index_lookup(store, manifest)).decode(RecordRef(identity, row))
    assert held == [0] + [1] * 9


def test_a_memo_saves_decoding_and_stays_within_its_budget() -> None:
    store = create_store(MemoryBackend(), StoreOptions(key_every=100))
    w = floats(64)
    for step in range(6):
        save_step(store, {"w": w}, step=step)
        w = near(w, seed=step)
    backend = RecordingBackend(store.backend)
    opened = type(store)(backend, store.config)
    for budget, reads in ((10 * w.nbytes, [1, 1, 1, 1, 1, 1, 0]), (0, [1, 2, 3, 4, 5, 6, 6])):
        memo = BlockMemo(budget)
        found = []
        for step in (0, 1, 2, 3, 4, 5, 5):
            manifest = load_manifest(opened, step)
            lookup = index_lookup(opened, manifest)
            ((identity, row),) = blocks_of(manifest, "w")
            lookup(identity)
            backend.clear()
            BlockDecoder(opened, lookup, memo).decode(RecordRef(identity, row))
            found.append(backend.count("get", "packs/"))
        assert found == reads


def test_a_memo_keeps_the_most_recently_used() -> None:
    memo = BlockMemo(30)
    refs = [RecordRef(b"i" * 32, row) for row in range(5)]
    for ref in refs[:3]:
        memo.put(ref, np.zeros(10, np.uint8))
    assert memo.get(refs[0]) is not None
    memo.put(refs[3], np.zeros(10, np.uint8))
    memo.put(refs[4], np.zeros(31, np.uint8))
    assert [memo.get(ref) is not None for ref in refs] == [True, False, True, True, False]
    memo.put(refs[1], np.zeros(25, np.uint8))
    assert [memo.get(ref) is not None for ref in refs] == [False, True, False, False, False]


def test_one_decoder_for_many_threads() -> None:
    store = create_store(MemoryBackend(), StoreOptions(key_every=100, block_elements=16))
    w = floats(40, 16)
    for step in range(4):
        w = near(w, seed=step)
        save_step(store, {"w": w}, step=step)
    manifest = load_manifest(store, 3)
    decoder = BlockDecoder(store, index_lookup(store, manifest), BlockMemo(500))
    refs = [RecordRef(*block) for block in blocks_of(manifest, "w")]
    barrier = threading.Barrier(4)

    def work(_: int) -> list[bytes]:
        barrier.wait()
        return [decoder.decode(ref).tobytes() for ref in refs]

    with ThreadPoolExecutor(4) as executor:
        for found in executor.map(work, range(4)):
            assert b"".join(found) == w.tobytes()
