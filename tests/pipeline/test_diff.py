"""What a diff says is what numpy says of the two whole tensors, however they are cut, and little is held."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from deltackpt import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.dcp import DeltaStorageWriter
from deltackpt.errors import CorruptObjectError, StepNotFoundError, TensorNotFoundError
from deltackpt.format.keys import pack_key
from deltackpt.pipeline.diff import TensorDiff, layer_of
from deltackpt.pipeline.diff_sums import add_up, compare
from deltackpt.store.opened import OpenStore, create_store
from deltackpt.store.options import StoreOptions
from deltackpt.tensor.dtypes import DTYPES, by_name
from deltackpt.tensor.numeric import as_float64
from deltackpt.tensor.torch_bridge import to_torch_dtype
from deltackpt.testing import RecordingBackend, flip_bits


def save(store: Store, step: int, state: dict[str, Any], branch: str = "main") -> None:
    dcp_save(state, storage_writer=DeltaStorageWriter(store, step, branch=branch), no_dist=True)


def a_store(block_elements: int = 64) -> tuple[Store, RecordingBackend]:
    recorder = RecordingBackend(MemoryBackend())
    return Store(create_store(recorder, StoreOptions(chain="previous", block_elements=block_elements))), recorder


def by_name_of(store: Store, a: int | str, b: int | str, **options: Any) -> dict[str, TensorDiff]:
    return {tensor.fqn: tensor for tensor in store.diff(a, b, **options).tensors}


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", [dtype.name for dtype in DTYPES if dtype.itemsize == 1 and dtype.name != "bool"])
def test_every_code_of_a_small_type_is_the_number_that_torch_says(name: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    found = as_float64(codes, by_name(name))
    if name == "float4_e2m1fn_x2":
        half = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
        values = np.concatenate([half, -half])
        assert np.array_equal(found.reshape(256, 2), np.stack([values[codes & 15], values[codes >> 4]], axis=1))
        return
    expected = torch.from_numpy(codes).view(to_torch_dtype(by_name(name))).to(torch.float64).numpy()
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.array_equal(np.signbit(found[found == 0]), np.signbit(expected[expected == 0]))


@pytest.mark.parametrize("name", [dtype.name for dtype in DTYPES if dtype.itemsize > 1])
@given(data=st.data())
def test_larger_types_are_the_numbers_that_torch_says(name: str, data: st.DataObject) -> None:
    dtype = by_name(name)
    raw = data.draw(st.binary(min_size=dtype.itemsize * 4, max_size=dtype.itemsize * 4))
    tensor = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(to_torch_dtype(dtype))
    expected = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).to(torch.float64).reshape(-1).numpy()
    assert np.array_equal(as_float64(np.frombuffer(raw, np.uint8), dtype), expected, equal_nan=True)


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6), max_size=40),
    st.data(),
)
def test_sums(values: list[float], data: st.DataObject) -> None:
    a = np.array(values, dtype=np.float32)
    b = a.copy()
    for place in data.draw(st.lists(st.integers(0, max(0, len(values) - 1)), max_size=5)) if values else []:
        b[place] = np.float32(b[place] * 1.5 + 1)
    sums = compare(a.view(np.uint8), b.view(np.uint8), by_name("float32"))
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    assert (sums.elements, sums.changed) == (len(values), int((a.view(np.uint32) != b.view(np.uint32)).sum()))
    assert math.isclose(sums.l2, float(np.linalg.norm(wide_b - wide_a)), rel_tol=1e-12, abs_tol=1e-12)
    if wide_a.any():
        expected = np.linalg.norm(wide_b - wide_a) / np.linalg.norm(wide_a)
        assert math.isclose(sums.relative or 0.0, expected, rel_tol=1e-9, abs_tol=1e-12)
    if wide_a.any() and wide_b.any():
        expected = wide_a @ wide_b / np.linalg.norm(wide_a) / np.linalg.norm(wide_b)
        assert math.isclose(sums.cosine or 0.0, expected, rel_tol=1e-9, abs_tol=1e-9)
    parts = [
        compare(a[n : n + 1].view(np.uint8), b[n : n + 1].view(np.uint8), by_name("float32")) for n in range(len(a))
    ]
    assert add_up(parts).changed == sums.changed


def test_special_values() -> None:
    def of(a: list[float], b: list[float]) -> tuple[int, float, float | None, float | None]:
        before, after = np.array(a, np.float32), np.array(b, np.float32)
        sums = compare(before.view(np.uint8), after.view(np.uint8), by_name("float32"))
        return sums.changed, sums.l2, sums.relative, sums.cosine

    assert of([0.0, 0.0], [0.0, 0.0]) == (0, 0.0, 0.0, 1.0)
    assert of([0.0], [1.0]) == (1, 1.0, None, None)
    assert of([0.0], [-0.0]) == (1, 0.0, 0.0, None)
    assert of([1.0], [-1.0]) == (1, 2.0, 2.0, -1.0)
    assert of([math.nan, 1.0], [math.nan, 1.0])[0] == 0
    changed, l2, relative, _ = of([1.0, math.inf], [1.0, 2.0])
    assert changed == 1
    assert math.isinf(l2)
    assert relative is not None
    assert math.isnan(relative)
    assert of([], []) == (0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_a_diff_is_that_of_whole_tensors(dtype: torch.dtype) -> None:
    store, _ = a_store()
    before = (random(1, 40, 10) * 100).to(dtype)
    after = before.clone()
    after[7:30] += (random(2, 23, 10) * 3).to(dtype)
    save(store, 1, {"model": {"w": before}})
    save(store, 2, {"model": {"w": after}})
    (found,) = store.diff(1, 2, whole=True).tensors
    a, b = before.to(torch.float64).reshape(-1), after.to(torch.float64).reshape(-1)
    assert found.status == "changed"
    assert found.sums.changed == int((before != after).sum())
    assert math.isclose(found.sums.l2, float((b - a).norm()), rel_tol=1e-12)
    assert math.isclose(found.sums.relative or 0, float((b - a).norm() / a.norm()), rel_tol=1e-12)
    assert math.isclose(found.sums.cosine or 0, float(a @ b / a.norm() / b.norm()), rel_tol=1e-12)
    # Without the unchanged blocks the change is the same, and the norms are those of the others.
    (found,) = store.diff(1, 2).tensors
    assert found.sums.elements == 400
    assert math.isclose(found.sums.l2, float((b - a).norm()), rel_tol=1e-12)
    # Blocks are of six rows: those from 6 to 30 differ.
    part = before[6:30].to(torch.float64)
    assert math.isclose(found.sums.before, float(part.norm()) ** 2, rel_tol=1e-12)


def test_blocks_with_the_same_bytes_are_not_read() -> None:
    store, recorder = a_store()
    state: dict[str, Any] = {
        "model": {"same": random(1, 1000), "part": random(2, 1000), "zero": torch.zeros(0)},
        "train": {"step": 1},
    }
    save(store, 1, state)
    after = {name: tensor.clone() for name, tensor in state["model"].items()}
    after["part"][:64] += 1
    save(store, 2, {"model": after, "train": {"step": 1}})
    reads = {}
    for whole in (False, True):
        recorder.clear()
        found = by_name_of(store, 1, 2, whole=whole)
        reads[whole] = recorder.count("get", "packs/")
        assert [found[f"model.{n}"].status for n in ("same", "part", "zero")] == ["same", "changed", "same"]
        assert found["train.step"].status == "same"
        assert found["model.part"].sums.changed == 64
    # Of the one block that changed, the old and the new record.
    assert reads[False] <= 3
    assert reads[True] > 30


def test_stored_bytes_are_those_that_the_second_step_added() -> None:
    store, _ = a_store()
    before = random(3, 640)
    after = before.clone()
    after[:128] = random(4, 128)
    save(store, 1, {"model": {"w": before, "tied": before}})
    save(store, 2, {"model": {"w": after, "tied": after}})
    found = by_name_of(store, 1, 2)
    own = {pack.name: pack.size for pack in store.step(2).manifest.packs}
    for pack in store.step(1).manifest.packs:
        own.pop(pack.name, None)
    assert found["model.w"].stored_bytes == found["model.tied"].stored_bytes == sum(own.values()) - 40
    assert by_name_of(store, 2, 2)["model.w"].stored_bytes == 0


def test_other_shards_of_the_same_tensor(tmp_path: Path) -> None:
    """Steps whose grids differ are compared all the same."""
    before, after = random(5, 30, 7), random(6, 30, 7)
    inner = MemoryBackend()
    first = create_store(inner, StoreOptions(chain="previous", block_elements=49))
    save(Store(first), 1, {"w": before})
    second = OpenStore(inner, first.config, StoreOptions(chain="previous", block_elements=28))
    save(Store(second), 2, {"w": after})
    (found,) = Store(first).diff(1, 2).tensors
    assert found.sums.changed == 210
    assert math.isclose(found.sums.l2, float((after.double() - before.double()).norm()), rel_tol=1e-12)
    assert math.isclose(found.sums.before, float(before.double().norm()) ** 2, rel_tol=1e-12)


def test_what_comes_goes_and_becomes_another() -> None:
    store, _ = a_store()
    save(store, 1, {"model": {"a": random(1, 5), "b": random(1, 5), "c": random(1, 5)}, "train": {"text": "one"}})
    save(
        store,
        2,
        {"model": {"b": random(1, 6), "c": random(1, 5).double(), "d": random(1, 5)}, "train": {"text": "three"}},
    )
    found = by_name_of(store, 1, 2)
    assert {name: tensor.status for name, tensor in found.items()} == {
        "model.b": "other",
        "model.c": "other",
        "model.d": "added",
        "train.text": "changed",
        "model.a": "removed",
    }
    assert found["model.d"].stored_bytes > 0
    assert found["model.a"].stored_bytes == 0
    assert list(by_name_of(store, 1, 2, prefix="model.d")) == ["model.d"]
    with pytest.raises(TensorNotFoundError):
        store.diff(1, 2, prefix="model.x")
    with pytest.raises(StepNotFoundError):
        store.diff(1, 3)


def test_layers() -> None:
    assert layer_of("model.layers.3.attn.wq.weight") == "model.layers.3"
    assert layer_of("optim.state.layers.3.attn.wq.weight.exp_avg") == "optim.state.layers.3"
    assert layer_of("optim.state.0.exp_avg") == "optim.state.0"
    assert layer_of("model.wte.weight") == "model.wte"
    assert layer_of("w") == "w"
    assert layer_of("blocks.7") == "blocks"
    store, _ = a_store()
    names = ["layers.0.a", "layers.0.b", "layers.1.a", "head.w"]
    save(store, 1, {"model": {name: torch.ones(10) for name in names}})
    save(store, 2, {"model": {name: torch.full((10,), 1.0 + number) for number, name in enumerate(names)}})
    layers = {layer.name: layer for layer in store.diff(1, 2, whole=True).layers}
    assert {name: layer.tensors for name, layer in layers.items()} == {
        "model.layers.0": 2,
        "model.layers.1": 1,
        "model.head": 1,
    }
    assert layers["model.layers.0"].sums.changed_share == 0.5
    assert math.isclose(layers["model.layers.0"].sums.relative or 0, math.sqrt(10 / 20))


def test_damage_is_an_error_that_names_the_place() -> None:
    store, recorder = a_store()
    save(store, 1, {"w": random(1, 500)})
    save(store, 2, {"w": random(2, 500)})
    (pack,) = store.step(1).manifest.packs
    flip_bits(recorder, pack_key(pack.name), 200)
    with pytest.raises(CorruptObjectError, match="packs/"):
        store.diff(1, 2)


def test_little_is_held_whatever_the_size() -> None:
    """Peak memory follows the blocks and threads, not the tensors."""
    peaks = []
    for rows in (32, 256):
        store, _ = a_store(block_elements=4096)
        before = random(1, rows, 4096)
        save(store, 1, {"w": before})
        save(store, 2, {"w": before * 1.0001})
        store.diff(1, 1)
        tracemalloc.start()
        (found,) = store.diff(1, 2).tensors
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.sums.elements == rows * 4096
    # The larger one has 4 MiB a step. What grows is a little for each block.
    assert peaks[1] - peaks[0] < 1 << 20
