"""DCP's byte objects: kept as trees where that loses nothing, and never unpickled without leave."""

from __future__ import annotations

import datetime as dt
import io
import random
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

from deltackpt.errors import CorruptObjectError, UnknownVersionError, UnsupportedDataError, UntrustedObjectError
from deltackpt.formats.objects import object_to_stored, stored_to_object, stored_to_torch_bytes
from tests.formats.values import identical, values


def saved(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


@settings(max_examples=150, deadline=None)
@given(values)
def test_nothing_is_lost(value: object) -> None:
    try:
        data = saved(value)
    except TypeError:  # torch 2.13 cannot save memory formats
        reject()
    encoding, stored = object_to_stored(data)
    assert encoding in ("tree", "torch")
    if encoding == "torch":
        assert stored == data
    restored = stored_to_object(encoding, stored, trust_objects=encoding == "torch", fqn="x")
    # What torch.save and an unrestricted load make of the value is what DCP would have given back.
    assert identical(restored, torch.load(io.BytesIO(data), weights_only=False))
    stream = stored_to_torch_bytes(encoding, stored, trust_objects=encoding == "torch", fqn="x")
    assert stream.tell() == 0
    assert identical(torch.load(stream, weights_only=False), restored)


@pytest.mark.parametrize(
    "value",
    [
        3,
        0.1,
        None,
        "adamw",
        [0, 1, 2],
        (0.9, 0.95),
        b"",
        frozenset({1}),
        random.getstate(),
        np.random.RandomState(0).get_state(),
        np.random.default_rng(0).bit_generator.state,
        np.float64(2.5),
        np.bool_(True),
        (torch.ones(2), torch.zeros(1, dtype=torch.bfloat16)),
        torch.nn.Linear(2, 2).state_dict(),
        OrderedDict(a=1),
        {"losses": io.BytesIO(b"what torchtitan keeps of its losses")},
        [2**200],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_training_states_hold_becomes_trees(value: object) -> None:
    encoding, stored = object_to_stored(saved(value))
    assert encoding == "tree"
    assert identical(stored_to_object(encoding, stored, trust_objects=False, fqn="x"), value)


_SHARED = [1]


@pytest.mark.parametrize(
    "value",
    [
        dt.date(2026, 1, 1),
        defaultdict(int),
        [_SHARED, _SHARED],
        range(3),
        torch.eye(3).to_sparse(),
        [torch.ones(2).t()[:, None].expand(2, 3)],
        Path("x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_rest_stays_as_it_is_and_asks_for_trust(value: object) -> None:
    data = saved(value)
    encoding, stored = object_to_stored(data)
    assert (encoding, stored) == ("torch", data)
    for load in (stored_to_object, stored_to_torch_bytes):
        with pytest.raises(UntrustedObjectError, match=r"train\.what.*trust_objects=True"):
            load(encoding, stored, trust_objects=False, fqn="train.what")
    restored: Any = stored_to_object(encoding, stored, trust_objects=True, fqn="x")
    assert type(restored) is type(value)
    stream = stored_to_torch_bytes(encoding, stored, trust_objects=True, fqn="x")
    assert (stream.tell(), stream.read()) == (0, data)


def test_shared_objects_stay_shared_through_a_pickle() -> None:
    encoding, stored = object_to_stored(saved([_SHARED, _SHARED]))
    restored: Any = stored_to_object(encoding, stored, trust_objects=True, fqn="x")
    assert restored[0] is restored[1]


class _Touch:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def test_no_code_of_an_object_runs(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    data = saved([1, _Touch(str(victim))])
    encoding, stored = object_to_stored(data)
    assert encoding == "torch"
    for name in ("torch", "tree", "pickle"):
        with pytest.raises((UntrustedObjectError, CorruptObjectError, UnknownVersionError)):
            stored_to_object(name, stored, trust_objects=False, fqn="x")
        with pytest.raises((UntrustedObjectError, CorruptObjectError, UnknownVersionError)):
            stored_to_torch_bytes(name, stored, trust_objects=False, fqn="x")
    assert not victim.exists()


def test_bytes_that_are_not_torchs_are_kept() -> None:
    # A planner of the user's own may write anything.
    for data in (b"", b"{}", b"PK\x03\x04nothing", b"\x80\x02K\x01."):
        assert object_to_stored(data) == ("torch", data)


def test_tensors_of_other_devices_keep_their_place() -> None:
    data = saved((torch.ones(2),)).replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    assert b"cuda:0" in data
    # The changed length is not in the zip's directory; write the archive anew.
    reader, writer = torch._C.PyTorchFileReader(io.BytesIO(saved((torch.ones(2),)))), io.BytesIO()
    archive = torch._C.PyTorchFileWriter(writer)
    for name in reader.get_all_records():
        if name in (".format_version", ".storage_alignment", "byteorder", "version", ".data/serialization_id"):
            continue
        record = reader.get_record(name).replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
        archive.write_record(name, record, len(record))
    archive.write_end_of_file()
    changed = writer.getvalue()
    assert identical(torch.load(io.BytesIO(changed), map_location="cpu"), (torch.ones(2),))
    assert object_to_stored(changed) == ("torch", changed)


def test_an_object_that_cannot_be_unpickled_here() -> None:
    data = saved(dt.date(2026, 1, 1)).replace(b"datetime", b"datetame")
    with pytest.raises(UnsupportedDataError, match=r"x: .*datetame"):
        stored_to_object("torch", data, trust_objects=True, fqn="x")


def test_an_unknown_encoding() -> None:
    with pytest.raises(UnknownVersionError, match="yaml"):
        stored_to_object("yaml", b"", trust_objects=True, fqn="x")


def test_what_the_user_allows_stays_allowed() -> None:
    before = {*torch.serialization.get_safe_globals()}
    torch.serialization.add_safe_globals([np.ndarray, (np.dtype, "numpy.dtype")])
    try:
        during = {*torch.serialization.get_safe_globals()}
        assert object_to_stored(saved(np.ones(3)))[0] == "tree"
        assert {*torch.serialization.get_safe_globals()} == during
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(before))
    assert object_to_stored(saved(np.ones(3)))[0] == "tree"
    assert {*torch.serialization.get_safe_globals()} == before


def test_what_dcps_planner_gives() -> None:
    planner = DefaultSavePlanner()
    planner.set_up_planner({"step": 7, "betas": (0.9, torch.ones(1))}, is_coordinator=True)
    for item in planner.create_local_plan().items:
        stream = planner.resolve_data(item)
        assert isinstance(stream, io.BytesIO)
        encoding, stored = object_to_stored(bytes(stream.getbuffer()))
        assert encoding == "tree"
        value = stored_to_object(encoding, stored, trust_objects=False, fqn=item.index.fqn)
        assert identical(value, planner.state_dict[item.index.fqn])
