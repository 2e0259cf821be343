"""A run that goes on with another number of ranks or another mesh, or with tensors that are not what they were."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from deltackpt.backend.memory import MemoryBackend
from deltackpt.format.pack import walk_pack
from deltackpt.format.record import Tile
from deltackpt.store.opened import OpenStore, create_store
from deltackpt.store.options import StoreOptions
from deltackpt.tensor.box import Box
from deltackpt.testing.arrays import State, Stored, load_manifest, save_step, split
from tests.pipeline.helpers import blocks_of, check, floats, keys, near, own_index

SHAPE = (24, 16)


def mesh(shape: tuple[int, int], rows: int, columns: int) -> list[Box]:
    return [
        Box((r.offsets[0], c.offsets[1]), (r.sizes[0], c.sizes[1]))
        for r in split(shape, rows)
        for c in split(shape, columns, axis=1)
    ]


LAYOUTS = {
    "1": split(SHAPE, 1),
    "2 rows": split(SHAPE, 2),
    "5 rows": split(SHAPE, 5),
    "24 rows": split(SHAPE, 24),
    "4 columns": split(SHAPE, 4, axis=1),
    "3 columns": split(SHAPE, 3, axis=1),
    "2 x 2": mesh(SHAPE, 2, 2),
    "3 x 4": mesh(SHAPE, 3, 4),
    "uneven": [Box((0, 0), (1, 16)), Box((1, 0), (23, 7)), Box((1, 7), (23, 9))],
}


@pytest.mark.parametrize("after", LAYOUTS)
@pytest.mark.parametrize("before", LAYOUTS)
def test_from_every_layout_to_every_other(store: OpenStore, before: str, after: str) -> None:
    w = floats(*SHAPE)
    states: dict[int, State] = {}
    for step, layout in enumerate((before, after, after)):
        states[step] = {"w": Stored(w, boxes=LAYOUTS[layout])}
        save_step(store, states[step], step=step, writers=min(3, len(LAYOUTS[layout])))
        w = near(w, seed=step)
    check(store, states)


@pytest.mark.parametrize(
    ("before", "after"), [("1", "5 rows"), ("5 rows", "2 rows"), ("2 rows", "2 x 2"), ("2 x 2", "1"), ("1", "uneven")]
)
def test_deltas_go_on_over_a_change_of_layout(before: str, after: str) -> None:
    """Not one block is written whole, bases put together from several blocks included."""
    shape = (24 * 8, 16 * 8)
    scale = [Box(tuple(8 * o for o in b.offsets), tuple(8 * s for s in b.sizes)) for b in LAYOUTS[before]]
    other = [Box(tuple(8 * o for o in b.offsets), tuple(8 * s for s in b.sizes)) for b in LAYOUTS[after]]
    store = create_store(MemoryBackend(), StoreOptions(block_elements=4096))
    w = floats(*shape)
    states: dict[int, State] = {1: {"w": Stored(w, boxes=scale)}, 2: {"w": Stored(near(w), boxes=other)}}
    first = save_step(store, states[1], step=1, writers=2)
    second = save_step(store, states[2], step=2, writers=2)
    assert second.depth == 2
    assert second.artifacts["model"].stored_bytes < 0.7 * first.artifacts["model"].stored_bytes
    found = [
        need.tile
        for writer in range(2)
        for info in own_index(store, 2, writer=writer).location.packs
        for _, record in walk_pack(store.backend.get(f"packs/{info.name.hex()[:2]}/{info.name.hex()}"), source="x")
        for need in record.needs
    ]
    assert any(isinstance(tile, Tile) for tile in found)
    depths = [own_index(store, 2, writer=writer).identity.depth for writer in range(2)]
    assert set(np.concatenate(depths).tolist()) == {2}
    check(store, states)


def test_most_blocks_stay_the_same_when_rows_are_dealt_out_anew() -> None:
    """The grid is global, so only blocks at the borders of shards differ."""
    store = create_store(MemoryBackend(), StoreOptions("previous", block_elements=64))
    w = floats(64, 16)
    states: dict[int, State] = {
        step: {"w": Stored(w, boxes=split(w.shape, parts))} for step, parts in enumerate((1, 3, 5, 2))
    }
    rows = []
    for step, state in states.items():
        save_step(store, state, step=step, writers=2)
        rows.append(sum(own_index(store, step, writer=writer).rows for writer in range(2 if step else 1)))
    # 16 blocks of 4 rows. The border at 22 cuts one of them in two (44 is a multiple of 4). Then those at 13, 26 and 39
    # do so, and the first one is whole again; then these are, as 32 is a multiple.
    assert rows == [16, 2, 6 + 1, 3]
    check(store, states)


def test_a_tensor_that_repeats_itself(store: OpenStore) -> None:
    """Blocks of the new layout have the very bytes of other blocks of the old one, which they overlap."""
    pattern = np.tile(floats(8), (32, 2))
    states: dict[int, State] = {
        1: {"w": pattern},
        2: {"w": Stored(pattern, boxes=split(pattern.shape, 2, axis=1))},
        3: {"w": pattern.reshape(16, 32)},
    }
    for step, state in states.items():
        save_step(store, state, step=step)
    assert [own_index(store, step).rows for step in states] == [1, 0, 0]
    first = set(blocks_of(load_manifest(store, 1), "w"))
    assert all(set(blocks_of(load_manifest(store, step), "w")) == first for step in states)
    check(store, states)


def test_bases_that_cost_more_to_name_than_they_save_are_not_used() -> None:
    store = create_store(MemoryBackend(), StoreOptions(block_elements=64))
    w = floats(64, 64)
    states: dict[int, State] = {1: {"w": Stored(w, boxes=split(w.shape, 64, axis=1))}, 2: {"w": near(w)}}
    for step, state in states.items():
        save_step(store, state, step=step)
    # Each new row would need all 64 columns, at 35 bytes each.
    assert own_index(store, 2).identity.needs.sum() == 0
    packs = sum(info.size for info in own_index(store, 2).location.packs)
    assert packs < w.nbytes + 64 * (40 + 8) + 100
    check(store, states)


@pytest.mark.parametrize(("most", "delta"), [(4, True), (3, False)])
def test_more_bases_than_a_record_may_name(monkeypatch: pytest.MonkeyPatch, most: int, delta: bool) -> None:
    """The format allows 65,535; a save must not fail for it."""
    monkeypatch.setattr("deltackpt.pipeline.offers.MAX_NEEDS", most)
    store = create_store(MemoryBackend(), StoreOptions())
    w = floats(64, 64)
    states: dict[int, State] = {1: {"w": Stored(w, boxes=split(w.shape, 4, axis=1))}, 2: {"w": near(w)}}
    for step, state in states.items():
        save_step(store, state, step=step)
    assert own_index(store, 2).identity.needs.tolist() == [4 if delta else 0]
    check(store, states)


def test_no_block_is_predicted_from_too_many_others() -> None:
    """What reading one block takes stays bounded: at most 16 full blocks of bases."""
    store = create_store(MemoryBackend(), StoreOptions(block_elements=1024))
    w = floats(1024, 32)
    for parts, delta in ((16, True), (32, False)):
        step = 10 * parts
        old: State = {f"w{parts}": Stored(w, boxes=split(w.shape, parts, axis=1))}
        new: State = {f"w{parts}": near(w)}
        save_step(store, old, step=step)
        save_step(store, new, step=step + 1)
        assert (own_index(store, step + 1).identity.needs.max() > 1) == delta
        check(store, {step: old, step + 1: new})


def test_finding_bases_is_not_quadratic(store: OpenStore) -> None:
    """Operations are counted, not seconds: boxes are compared as columns."""
    w = floats(400, 64)
    save_step(store, {"w": Stored(w)}, step=1)
    calls = 0
    intersect = Box.intersect

    def counting(self: Box, other: Box) -> Box | None:
        nonlocal calls
        calls += 1
        return intersect(self, other)

    Box.intersect = counting  # type: ignore[method-assign]
    try:
        save_step(store, {"w": Stored(near(w), boxes=split(w.shape, 2, axis=1))}, step=2)
    finally:
        Box.intersect = intersect  # type: ignore[method-assign]
    assert calls < 5 * 400


CHANGES: dict[str, tuple[np.ndarray[tuple[int, ...], np.dtype[np.generic]], ...]] = {
    "longer": (floats(20, 8), floats(30, 8)),
    "shorter": (floats(30, 8), floats(20, 8)),
    "wider": (floats(20, 8), floats(20, 9)),
    "other dimensions": (floats(20, 8), floats(160)),
    "a scalar": (floats(20, 8), np.array(1.0, np.float32)),
    "from a scalar": (np.array(1.0, np.float32), floats(20)),
    "empty": (floats(20, 8), np.zeros((0, 8), np.float32)),
    "from empty": (np.zeros((0, 8), np.float32), floats(20, 8)),
    "other dtype": (floats(20, 8), floats(20, 8).astype(np.float16)),
    "dtype as wide": (floats(20, 8), floats(20, 8).view(np.int32)),
    "there and back": (floats(20, 8), floats(3), floats(20, 8, seed=1)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_tensors_that_change_what_they_are(store: OpenStore, name: str) -> None:
    states: dict[int, State] = {step: {"x": array, "stays": floats(8, 8)} for step, array in enumerate(CHANGES[name])}
    for step, state in states.items():
        save_step(store, state, step=step)
    check(store, states)


def test_a_tensor_that_grows_builds_on_what_it_had() -> None:
    """An embedding with new rows: old blocks are found, new ones stored whole."""
    store = create_store(MemoryBackend(), StoreOptions(block_elements=1024))
    w = floats(64, 64)
    grown = np.concatenate([w, floats(16, 64, seed=1)])
    states: dict[int, State] = {1: {"w": w}, 2: {"w": grown}}
    for step, state in states.items():
        save_step(store, state, step=step)
    assert own_index(store, 2).rows == 1
    check(store, states)


def test_tensors_come_and_go(store: OpenStore) -> None:
    a, b, c = floats(8, 8), floats(8, 8, seed=1), floats(8, 8, seed=2)
    states: dict[int, State] = {
        1: {"a": a, "b": b},
        2: {"b": near(b), "c": c},
        3: {"c": near(c), "a": a},
        4: {},
        5: {"a": Stored(a.view(np.uint8).reshape(-1), kind="object"), "b": near(b)},
        6: {"a": a},
    }
    for step, state in states.items():
        save_step(store, state, step=step)
    check(store, states)


def test_only_what_a_step_needs_is_in_its_closure(store: OpenStore) -> None:
    """A tensor that is gone takes its packs out of the closures of later steps."""
    a, b = floats(8, 8), floats(8, 8, seed=1)
    states: dict[int, State] = {1: {"a": Stored(a, artifact="one"), "b": b}, 2: {"b": near(b)}}
    for step, state in states.items():
        save_step(store, state, step=step)
    assert len(keys(store, "packs/")) == 3
    assert len(load_manifest(store, 2).packs) == 2
    check(store, states)


def test_layouts_one_after_another(store: OpenStore) -> None:
    w = floats(*SHAPE)
    states: dict[int, State] = {}
    for step, (before, after) in enumerate(pairwise([*LAYOUTS, *reversed(LAYOUTS)])):
        states[step] = {
            "w": Stored(w, boxes=LAYOUTS[before]),
            "v": Stored(w * 2, boxes=LAYOUTS[after]),
        }
        save_step(store, states[step], step=step, writers=2)
        w = near(w, seed=step)
    check(store, states)
