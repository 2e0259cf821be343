"""Files that are built to do harm, and files that are nonsense: a named error each, and nothing runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as to_safetensors

from deltackpt.errors import DamagedFileError, DeltackptError, UnsafeFileError
from deltackpt.formats.parsers.found import ParsedFile
from deltackpt.formats.parsers.pickles import parse_pickle
from deltackpt.formats.parsers.recognise import parse_file
from deltackpt.formats.parsers.source import SourceFile
from tests.importing.files import import_source, new_store, originals, restored, source_of


def parse(path: Path, data: bytes) -> ParsedFile:
    path.write_bytes(data)
    return parse_file(SourceFile(path))


def torch_bytes(value: object, *, old: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=not old)
    return stream.getvalue()


def torch_zip(pickled: bytes, **storages: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in storages.items():
            archive.writestr(f"archive/data/{name.removeprefix('s')}", data)
    return stream.getvalue()


class Harm:
    """Runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.command = f"touch {path}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_that_would_run_a_command_is_data(tmp_path: Path, old: bool) -> None:
    traces = tmp_path / "traces"
    folder = tmp_path / "step1"
    folder.mkdir()
    (folder / "train.pt").write_bytes(torch_bytes({"harm": Harm(traces), "w": torch.ones(3)}, old=old))
    store = new_store()
    import_source(store, source_of(folder))
    assert restored(store) == originals(folder)
    assert not traces.exists()


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"", "pickle"),
        (b"\x80\x02", "STOP"),
        (b"\x80\x02R.", "operands"),
        (b"\x80\x02(R.", "operands"),
        (b"\x80\x02h\x05.", "memo has nothing at 5"),
        (b"\x80\x02t.", "mark is missing"),
        (b"\x80\x02N}a.", "no list"),
        (b"\x80\x02]NNs.", "no dict"),
        (b"\x80\x02}(Nu.", "lacks its value"),
        (b"\x80\x04\x8d" + b"\xff" * 8 + b".", "pickle"),
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "pickle"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "pickle"),
        (b"\x80\x02I" + b"9" * 5000 + b"\n.", "pickle"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "pickle"),
        (b"\x80\x04NN\x93.", "name of a class"),
        (b"\xff.", "pickle"),
        (b"S'\\_'\n.", "escape"),
    ],
)
def test_malformed_pickles_are_refused(tmp_path: Path, pickled: bytes, message: str) -> None:
    with pytest.raises(DamagedFileError, match=message) as caught:
        parse(tmp_path / "m.pt", torch_zip(pickled))
    assert caught.value.where == str(tmp_path / "m.pt")


def test_a_pickle_of_too_many_operations_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltackpt.formats.parsers.pickles._MAX_OPCODES", 1000)
    with pytest.raises(UnsafeFileError, match="more than 1000 operations"):
        parse(tmp_path / "m.pt", torch_zip(b"\x80\x02" + b"N0" * 600 + b"."))


def test_a_value_that_contains_itself_a_billion_times_is_walked_once(tmp_path: Path) -> None:
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]
    assert parse(tmp_path / "m.pt", torch_zip(pickle.dumps(value, 2))).tensors == []
    value.append(value)
    assert parse(tmp_path / "m.pt", torch_zip(pickle.dumps(value, 2))).tensors == []


def test_a_value_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    deep = b"\x80\x02" + b"(" * 5000 + b"l" * 5000 + b"."
    with pytest.raises(UnsafeFileError, match="too deep"):
        parse(tmp_path / "m.pt", torch_zip(deep))


@pytest.mark.parametrize("protocol", range(6))
def test_all_protocols_are_read(protocol: int) -> None:
    value = [1, -5, 1 << 70, 2.5, "text", "ä" * 300, b"bytes", (), (1,), (1, 2, 3, 4), [[], [None, True]], {"k": 1}]
    pickled = pickle.dumps([*value, {1, 2}, frozenset([3]), bytearray(b"x"), complex(1, 2)], protocol)
    found, length = parse_pickle(pickled + b"rest", where="x")
    assert length == len(pickled)
    plain = 4 if protocol < 3 else 6
    assert found[:plain] == value[:plain]


def storage_pickle(shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, numel: int = 4) -> bytes:
    """The pickle of a tensor with any shape."""

    class Storage:
        pass

    class Rebuilt:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, shape, strides, False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if isinstance(value, Storage) else None

    stream = io.BytesIO()
    Pickler(stream, 2).dump({"w": Rebuilt()})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((5,), (1,), 0),
        ((4,), (1,), 1),
        ((2, 2), (3, 1), 1),
        ((1 << 40, 1 << 40), (1, 1), 0),
        ((-1,), (1,), 0),
        ((2,), (-1,), 2),
        ((2,), (1, 1), 0),
        ((1 << 70,), (1,), 0),
        ((1,) * 65, (1,) * 65, 0),
        ((1,), (1,), 1 << 80),
    ],
)
def test_tensors_that_reach_beyond_their_storage_are_refused(
    tmp_path: Path, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> None:
    with pytest.raises(DamagedFileError, match="'w'"):
        parse(tmp_path / "m.pt", torch_zip(storage_pickle(shape, strides, offset), s0=b"\0" * 16))


def test_a_storage_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError, match="storage '0' is missing"):
        parse(tmp_path / "m.pt", torch_zip(storage_pickle((4,), (1,))))


def test_a_zip_bomb_is_not_inflated(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
        archive.writestr("archive/data/0", bytes(50_000_000))
    folder = tmp_path / "step1"
    folder.mkdir()
    (folder / "bomb.pt").write_bytes(stream.getvalue())
    store = new_store()
    header = import_source(store, source_of(folder))
    assert header.raw_bytes < 1_000_000
    assert restored(store) == originals(folder)


@pytest.mark.parametrize("name", ["../data.pkl", "/etc/passwd", "a/../../b", "a\\..\\b"])
def test_members_that_would_leave_their_folder_are_refused(tmp_path: Path, name: str) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(UnsafeFileError, match="leave its folder"):
        parse(tmp_path / "m.pt", stream.getvalue())


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_are_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("a/data.pkl", b"N.")
    with pytest.raises(UnsafeFileError, match="same name"):
        parse(tmp_path / "m.pt", stream.getvalue())


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def described(*offsets: int, shape: list[Any] | None = None, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": [1] if shape is None else shape, "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (safetensors({}, length=10 << 30), UnsafeFileError, "10737418240 bytes"),
        (safetensors({}, length=5000), DamagedFileError, "before its header"),
        (safetensors(b"not JSON, at all"), DamagedFileError, "no JSON"),
        (safetensors(b"[1, 2, 3, 4, 5, 6]"), DamagedFileError, "no JSON object"),
        (safetensors(b'{"a":' + b"[" * 100_000), DamagedFileError, "no JSON"),
        (safetensors({"a": described(0, 4), "b": described(0, 4)}, b"1234"), UnsafeFileError, "overlap"),
        (safetensors({"a": described(0, 4)}, b"123"), DamagedFileError, "end at"),
        (safetensors({"a": described(0, 4)}, b"12345"), DamagedFileError, "end at"),
        (safetensors({"a": described(4, 0)}, b"1234"), DamagedFileError, "ends before"),
        (safetensors({"a": described(0, 8)}, b"12345678"), DamagedFileError, "shape"),
        (safetensors({"a": described(0, 4, shape=[-1])}, b"1234"), DamagedFileError, "no sense"),
        (safetensors({"a": described(0, 4, shape=[1 << 63])}, b"1234"), DamagedFileError, "no sense"),
        (safetensors({"a": described(0)}, b"1234"), DamagedFileError, "no sense"),
        (safetensors({"a": 7, "b": "text", "c": None}), DamagedFileError, "no sense"),
    ],
)
def test_malformed_safetensors_are_refused(
    tmp_path: Path, data: bytes, error: type[DeltackptError], message: str
) -> None:
    with pytest.raises(error, match=message):
        parse(tmp_path / "m.safetensors", data)


@pytest.mark.parametrize("name", ["model.pt", "a.npz", "m.safetensors", "x.ckpt"])
@pytest.mark.parametrize("data", [b"", bytes(3), bytes(1000)])
def test_blank_files_are_refused(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(DamagedFileError, match=r"empty|zeros"):
        parse(tmp_path / name, data)


def test_safetensors_of_an_unknown_type_are_literal(tmp_path: Path) -> None:
    data = safetensors({"a": described(0, 3, dtype="F7"), "b": described(3, 7)}, b"1234567")
    assert [tensor.place for tensor in parse(tmp_path / "m.safetensors", data).tensors] == [("b",)]


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


@pytest.mark.parametrize(
    "data",
    [
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }", b"123"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", b"12345"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }"),
        b"\x93NUMPY\x01\x00\xff\xff{'descr': '<f4'",
    ],
)
def test_truncated_arrays_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DamagedFileError, match="array"):
        parse(tmp_path / "a.npy", data)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }",
        "__import__('os').system('true')",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 40 + ",), }",
    ],
)
def test_arrays_of_other_types_are_literal(tmp_path: Path, header: str) -> None:
    assert parse(tmp_path / "a.npy", npy(header, b"1234")).tensors == []


def test_numpy_files_come_back(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.arange(12, dtype=np.float32).reshape(3, 4))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(np.random.rand(4, 5)))
    np.save(tmp_path / "scalar.npy", np.float64(3))
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "many.npz", x=np.arange(10), y=np.ones((2, 3), dtype=np.float16))
    np.savez_compressed(tmp_path / "packed.npz", x=np.zeros(1000))
    store = new_store()
    import_source(store, source_of(tmp_path))
    assert restored(store) == originals(tmp_path)


def test_safetensors_come_back(tmp_path: Path) -> None:
    state = {"w": torch.randn(3, 4).bfloat16(), "b": torch.randn(3), "empty": torch.empty(0)}
    (tmp_path / "model.safetensors").write_bytes(to_safetensors(state, {"format": "pt"}))
    store = new_store()
    import_source(store, source_of(tmp_path))
    assert restored(store) == originals(tmp_path)


SEEDS = [
    torch_bytes({"w": torch.ones(3), "n": [1, {"x": (None, 2.5)}]}),
    torch_bytes({"w": torch.ones(3), "n": [1, {"x": (None, 2.5)}]}, old=True),
    to_safetensors({"w": torch.ones(3), "b": torch.zeros(2, 2)}),
    npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }".ljust(70), b"1234"),
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=9)), max_size=4),
    keep=st.floats(0.1, 1),
)
def test_any_damage_is_read_or_refused(
    tmp_path: Path, seed: bytes, edits: list[tuple[float, bytes]], keep: float
) -> None:
    data = bytearray(seed)
    for place, patch in edits:
        at = int(place * len(data))
        data[at : at + len(patch)] = patch
    try:
        found = parse(tmp_path / "any", bytes(data[: int(keep * len(data))] if keep < 0.9 else data))
    except DeltackptError:
        return
    size = (tmp_path / "any").stat().st_size
    for tensor in found.tensors:
        assert tensor.storage.start >= 0
        assert tensor.storage.start + tensor.storage.length <= size
        assert (tensor.offset + tensor.span) * tensor.dtype.itemsize <= tensor.storage.length


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_pickle_is_read_or_refused(data: bytes) -> None:
    with suppress(DeltackptError):
        parse_pickle(b"\x80\x04" + data + b".", where="x")
