"""States as torch files, from what DCP flattens to training that goes on."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from deltackpt.errors import InvalidNameError, UnsupportedDataError
from deltackpt.formats.image import FileImage, Piece, Stored
from deltackpt.formats.nesting import Entry, split_parts
from deltackpt.formats.torch_image import StoredTensors, torch_image
from deltackpt.formats.views import part_image
from deltackpt.formats.zip_image import zip_image
from deltackpt.tensor.dtypes import DType, by_code
from deltackpt.tensor.roles import classify_all
from deltackpt.tensor.torch_bridge import tensor_bytes, to_torch_dtype
from tests.formats.values import TORCH_DTYPES, identical


def restore(state: dict[str, Any], out: Path) -> dict[str, Any]:
    """Through DCP's flattening into files and back."""
    flat, paths = flatten_state_dict(state)
    artifacts = classify_all({fqn: (paths[fqn], isinstance(value, torch.Tensor)) for fqn, value in flat.items()})
    entries = [Entry(fqn, paths[fqn], artifacts[fqn], value) for fqn, value in flat.items()]
    files = [write(out, name, value) for name, value in split_parts(entries).items()]
    return {file.name: load(file) for file in files}


def write(out: Path, name: str, value: object) -> Path:
    """A part of a state as a file; all of its tensors have their bytes."""
    image = part_image(name, value, StoredTensors())
    (out / image.path).write_bytes(b"".join(piece for piece in image.pieces if isinstance(piece, bytes)))
    return out / image.path


def load(file: Path) -> Any:
    if file.suffix == ".yaml":
        return yaml.safe_load(file.read_text())
    return torch.load(file, weights_only=True)


def a_run(optimizer: str, seed: int = 0) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    groups: list[dict[str, Any]] = [{"params": model[0].parameters(), "lr": 0.05}, {"params": model[2].parameters()}]
    if optimizer == "adamw":
        return model, torch.optim.AdamW(groups, lr=0.01, amsgrad=True)
    return model, torch.optim.SGD(groups, lr=0.01, momentum=0.9)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        batch = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("steps", [0, 3])
def test_training_goes_on_from_a_raw_optimizer_state(optimizer: str, steps: int, tmp_path: Path) -> None:
    model, optim = a_run(optimizer)
    train(model, optim, range(steps))
    files = restore({"model": model.state_dict(), "optim": optim.state_dict(), "step": steps}, tmp_path)
    assert list(files) == ["model.pt", "optim.pt", "train.pt"]
    assert identical(files["optim.pt"], optim.state_dict())
    assert files["train.pt"] == {"step": steps}
    expected = train(model, optim, range(steps, steps + 3))

    fresh, fresh_optim = a_run(optimizer, seed=1)
    fresh.load_state_dict(files["model.pt"])
    fresh_optim.load_state_dict(files["optim.pt"])
    assert train(fresh, fresh_optim, range(steps, steps + 3)) == expected


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("flat", [False, True])
def test_training_goes_on_from_dcps_own_state(optimizer: str, flat: bool, tmp_path: Path) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optim = a_run(optimizer)
    train(model, optim, range(3))
    model_state, optim_state = get_state_dict(model, optim, options=options)
    files = restore({"app": {"model": model_state, "optim": optim_state}}, tmp_path)
    assert identical(files["optim.pt"], dict(optim_state))
    expected = train(model, optim, range(3, 6))

    fresh, fresh_optim = a_run(optimizer, seed=1)
    set_state_dict(
        fresh, fresh_optim, model_state_dict=files["model.pt"], optim_state_dict=files["optim.pt"], options=options
    )
    assert train(fresh, fresh_optim, range(3, 6)) == expected


def test_a_model_alone(tmp_path: Path) -> None:
    state = torch.nn.BatchNorm1d(3).state_dict()
    files = restore(state, tmp_path)
    assert list(files) == ["model.pt"]
    torch.nn.BatchNorm1d(3).load_state_dict(files["model.pt"])
    assert identical(files["model.pt"], dict(state))


CONFIG = {
    "name": "gpt",
    "lr": 1e-05,
    "layers": [1, {"wide": None}],
    "yes": True,
    "text": "1e3",
    "no": "no",
    "inf": float("inf"),
    "big": 2**70,
    "é\n": "日本",
    "empty": [],
}


def test_a_plain_config_is_yaml(tmp_path: Path) -> None:
    file = write(tmp_path, "config", CONFIG)
    assert file.name == "config.yaml"
    assert identical(yaml.safe_load(file.read_text()), CONFIG)
    assert file.read_text().startswith("name: gpt\nlr: 1.0e-05\n")
    assert "日本" in file.read_text()
    file = write(tmp_path, "config", [float("nan")])
    assert file.read_text() == "- .nan\n"


_TWICE = [1]


@pytest.mark.parametrize(
    "value",
    [{"a": (1, 2)}, {1: "a"}, {"a": torch.ones(1)}, {"a": b"x"}, {"a": {1}}],
    ids=lambda value: str(type(next(iter(value.values())))),
)
def test_another_config_is_a_torch_file(value: dict[Any, Any], tmp_path: Path) -> None:
    file = write(tmp_path, "config", value)
    assert file.name == "config.pt"
    assert identical(load(file), value)


def test_a_config_with_a_list_in_two_places(tmp_path: Path) -> None:
    file = write(tmp_path, "config", {"a": _TWICE, "b": _TWICE})
    assert file.read_text() == "a:\n- 1\nb:\n- 1\n"


@pytest.mark.parametrize("name", ["../model", "a/b", "", ".", "..", "a\0", "x" * 256])
def test_names_cannot_leave_the_folder(name: str) -> None:
    with pytest.raises(InvalidNameError):
        part_image(name, {}, StoredTensors())


def test_a_value_that_cannot_be_pickled() -> None:
    with pytest.raises(UnsupportedDataError, match=r"train\.pt"):
        part_image("train", {"f": lambda: 1}, StoredTensors())


def filled(image: FileImage, byte: int = 1) -> bytes:
    """The file, with every stored byte the same and the checksums filled in."""
    data = bytearray()
    for piece in image.pieces:
        data += piece if isinstance(piece, bytes) else bytes([byte]) * piece.length
    for checksum in image.checksums:
        crc = zlib.crc32(data[checksum.start : checksum.start + checksum.length]).to_bytes(4, "little")
        for at in checksum.at:
            assert data[at : at + 4] == bytes(4)
            data[at : at + 4] = crc
    return bytes(data)


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=lambda dtype: dtype.name)
def test_stored_tensors_of_every_dtype(dtype: DType, tmp_path: Path) -> None:
    stored = StoredTensors()
    shapes = {"": (), "rows": (3, 4), "none": (0, 5)}
    state = {
        name: stored.add([Stored(name, 0, math.prod(shape) * dtype.itemsize)], dtype, shape, fqn=name)
        for name, shape in shapes.items()
    }
    own = torch.arange(5)
    image = torch_image("model.pt", {**state, "own": own, "part": own[1:3]}, stored)
    (tmp_path / "model.pt").write_bytes(filled(image))
    for mapped in (False, True):
        loaded = torch.load(tmp_path / "model.pt", weights_only=True, mmap=mapped)
        for name, shape in shapes.items():
            assert (loaded[name].dtype, tuple(loaded[name].shape)) == (to_torch_dtype(dtype), shape)
            assert set(tensor_bytes(loaded[name]).tolist()) <= {1}
        assert torch.equal(loaded["own"], own)
        assert torch.equal(loaded["part"], own[1:3])
        assert loaded["part"].untyped_storage().data_ptr() == loaded["own"].untyped_storage().data_ptr()


def test_an_archive_is_one_for_every_tool() -> None:
    members: list[tuple[str, list[Piece]]] = [
        ("a/data", [Stored("x", 0, 400), Stored("x", 400, 600)]),
        ("a/é", [b"te", b"xt"]),
        ("a/empty", [b""]),
        ("a/none", [Stored("y", 0, 0)]),
    ]
    data = filled(zip_image("f.zip", members))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [name for name, _ in members]
        assert archive.read("a/data") == b"\1" * 1000
        assert archive.read("a/é") == b"text"
        for member in archive.infolist():
            header = data[member.header_offset :]
            start = member.header_offset + 30 + int.from_bytes(header[26:28], "little")
            assert (start + int.from_bytes(header[28:30], "little")) % 64 == 0


def test_a_large_archive(tmp_path: Path) -> None:
    """Sizes and places above 4 GiB; the file is sparse."""
    five = 5 << 30
    image = zip_image("f.zip", [("big", [Stored("x", 0, five)]), ("after", [b"text"]), ("small", [Stored("y", 0, 8)])])
    assert image.size > five
    path = tmp_path / "f.zip"
    with path.open("wb") as file:
        for start, piece in zip(image.starts, image.pieces, strict=True):
            file.seek(start)
            file.write(piece if isinstance(piece, bytes) else b"")
        file.truncate(image.size)
    with zipfile.ZipFile(path) as archive:
        assert [member.file_size for member in archive.infolist()] == [five, 4, 8]
        assert archive.read("after") == b"text"


def test_many_members() -> None:
    members = [(f"m{number}", [b"x"]) for number in range(70_000)]
    data = filled(zip_image("f.zip", members))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert len(archive.namelist()) == 70_000
        assert archive.read("m69999") == b"x"


def test_a_view_with_strides_has_no_bytes_of_its_own() -> None:
    stored = StoredTensors()
    tensor = stored.add([Stored("w", 8, 16), b"x" * 32], by_code(12), (3, 4), fqn="w")
    assert stored.pieces(tensor, fqn="w") == (Stored("w", 8, 16), b"x" * 32)
    assert stored.pieces(tensor[1:], fqn="w") == (b"x" * 32,)
    assert stored.pieces(tensor[0, 1:], fqn="w") == (Stored("w", 12, 12),)
    assert stored.pieces(torch.ones(1), fqn="one") == (b"\0\0\x80?",)
    with pytest.raises(UnsupportedDataError, match="strides"):
        stored.pieces(tensor.T, fqn="w")
