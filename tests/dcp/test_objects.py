"""What is not a tensor: numbers, text, arrays, containers, states of random generators; and what is only a pickle."""

from __future__ import annotations

import io
import random
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.planner import LoadItemType, ReadItem
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys, load
from torch.distributed.checkpoint.state_dict_saver import save

from deltackpt import Store
from deltackpt.dcp import DeltaStorageReader, DeltaStorageWriter
from deltackpt.errors import UntrustedObjectError
from tests.dcp.states import State, blank, load_state, new_store, save_state
from tests.formats.values import identical


class Opaque:
    """What no typed tree can hold. Counts how often it was unpickled."""

    made = 0

    def __init__(self, value: int) -> None:
        self.value = value

    def __setstate__(self, state: dict[str, int]) -> None:
        type(self).made += 1
        self.__dict__.update(state)


def an_object_state() -> State:
    return {
        "numbers": {"int": 3, "big": 1 << 90, "float": 0.1, "nan": float("nan"), "complex": 1 - 2j, "bool": True},
        "none": None,
        "text": "naïve \N{SNOWMAN}",
        "bytes": b"\x00\xff",
        "stream": io.BytesIO(b"as torchtitan keeps its losses"),
        "list": [1, "two", 3.0],
        "tuple": (1, (2, 3)),
        "array": np.arange(300, dtype=np.float64).reshape(30, 10),
        "scalar": np.float32(0.1),
        "set": {1, 2},
        "counter": (Counter("hello"),),
        "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "rng": {
            "python": random.getstate(),
            "numpy": np.random.RandomState(3).get_state(),
            "torch": torch.get_rng_state(),
        },
        "tensors in a tuple": (torch.arange(3), torch.ones(2, dtype=torch.float8_e5m2)),
        "layers": [{"w": torch.ones(3), "name": "a"}, {"w": torch.zeros(2), "name": "b"}],
        "mixed": [torch.arange(4.0), "beside a tensor", [1, 2]],
        "empty list": [],
        "deep": {"a": {"b": {"c": {"d": [{"e": 1}]}}}},
    }


def test_objects_come_back_as_they_do_from_torchs_own_storage(delta_store: Store, tmp_path: Path) -> None:
    state = an_object_state()
    state["ordered"] = OrderedDict(b=1, a=torch.ones(2))
    state["empty dict"] = {}
    save_state(delta_store, 1, state)
    save(dict(state), storage_writer=FileSystemWriter(tmp_path / "torch"), no_dist=True)
    ours = load_state(delta_store, 1, blank(state))
    theirs = blank(state)
    load(theirs, storage_reader=FileSystemReader(tmp_path / "torch"), no_dist=True)
    assert identical(ours, theirs)
    # Nothing of it is a pickle, so it can be read without DCP and without trust.
    assert {entry.encoding for entry in delta_store.step(1).entries() if entry.kind == "object"} == {"tree"}
    flat = delta_store.step(1).load()
    assert identical(flat["rng.python"], state["rng"]["python"])
    assert identical(flat["tensors in a tuple"], state["tensors in a tuple"])
    assert list(flat) == [entry.fqn for entry in delta_store.step(1).entries()]


@pytest.mark.filterwarnings("ignore:torch.distributed is unavailable or uninitialized:UserWarning")
def test_a_state_rebuilt_from_metadata_alone(delta_store: Store) -> None:
    state = an_object_state()
    save_state(delta_store, 1, state)
    rebuilt = _load_state_dict_from_keys(storage_reader=DeltaStorageReader(delta_store, step=1))
    assert identical(rebuilt, state)
    part = _load_state_dict_from_keys({"numbers"}, storage_reader=DeltaStorageReader(delta_store, step=1))
    assert identical(part, {"numbers": state["numbers"]})


def test_pickles_are_loaded_only_where_trusted(delta_store: Store) -> None:
    weight = torch.arange(5.0)
    save_state(delta_store, 1, {"train": {"opaque": Opaque(7), "plain": [1]}, "model": {"w": weight}})
    Opaque.made = 0
    target = {"train": {"opaque": None, "plain": None}, "model": {"w": torch.zeros(5)}}
    with pytest.raises(BaseException, match="trust_objects=True") as caught:
        load_state(delta_store, 1, target)
    assert UntrustedObjectError.__name__ in str(caught.value)
    assert "train.opaque" in str(caught.value)
    assert not target["model"]["w"].any()  # type: ignore[index]
    with pytest.raises(UntrustedObjectError):
        delta_store.step(1).load()
    assert Opaque.made == 0
    loaded = load_state(delta_store, 1, target, trust_objects=True)
    assert loaded["train"]["opaque"].value == 7
    assert torch.equal(loaded["model"]["w"], weight)
    # What is not asked for needs no trust.
    rest = load_state(delta_store, 1, {"train": {"plain": None}, "model": {"w": torch.zeros(5)}})
    assert rest["train"]["plain"] == [1]
    assert identical(delta_store.step(1).load("model."), {"model.w": weight})
    value = delta_store.step(1).load("train.", trust_objects=True)["train.opaque"]
    assert isinstance(value, Opaque)
    assert Opaque.made == 2


def test_streams_are_read_whole_and_handed_over_at_their_start(delta_store: Store) -> None:
    positions: list[int] = []

    class Saver(DefaultSavePlanner):
        def resolve_data(self, write_item: Any) -> torch.Tensor | io.BytesIO:
            data = super().resolve_data(write_item)
            if isinstance(data, io.BytesIO):
                data.seek(0 if write_item.index.fqn == "at the start" else 10)
            return data

    class Loader(DefaultLoadPlanner):
        def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
            assert read_item.type == LoadItemType.BYTE_IO
            positions.append(value.tell())
            super().load_bytes(read_item, value)

    state = {"at the start": [1, 2], "inside": "text", "opaque": Opaque(1)}
    save(state, storage_writer=DeltaStorageWriter(delta_store, 1), planner=Saver(), no_dist=True)
    loaded: State = dict.fromkeys(state)
    reader = DeltaStorageReader(delta_store, 1, trust_objects=True)
    load(loaded, storage_reader=reader, planner=Loader(), no_dist=True)
    assert positions == [0, 0, 0]
    assert (loaded["at the start"], loaded["inside"], loaded["opaque"].value) == ([1, 2], "text", 1)


def test_large_objects_and_those_that_repeat() -> None:
    delta_store = new_store(block_elements=10_000)
    large = np.random.default_rng(0).integers(0, 256, 100_000, dtype=np.uint8).tobytes()
    first = save_state(delta_store, 1, {"large": large, "again": large, "step": 1})
    second = save_state(delta_store, 2, {"large": large, "again": large, "step": 2})
    assert first.stored_bytes < 1.1 * len(large)
    assert second.stored_bytes < 0.1 * len(large)
    for step in (1, 2):
        loaded = load_state(delta_store, step, {"large": None, "again": None, "step": None})
        assert loaded == {"large": large, "again": large, "step": step}


def test_a_state_that_is_not_flattened_keeps_its_objects_whole(delta_store: Store) -> None:
    state = {"model": {"w": torch.ones(3), "n": 1}, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "lr": 0.1}}
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    save(state, storage_writer=DeltaStorageWriter(delta_store, 1), planner=planner, no_dist=True)
    loaded: State = {"model": None, "optimizer": None}
    load(
        loaded,
        storage_reader=DeltaStorageReader(delta_store, 1),
        planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
        no_dist=True,
    )
    assert identical(loaded, state)
    assert {entry.fqn: entry.artifact for entry in delta_store.step(1).entries()} == {
        "model": "model",
        "optimizer": "optim",
    }
