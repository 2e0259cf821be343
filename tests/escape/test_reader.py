"""The script reads stores that were made by hand from the format's description."""

from __future__ import annotations

import base64
import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from deltackpt.escape import reader, readme_text
from tests.escape.handmade import DTYPES, Box, HandStep, Tensor, create, grid

Run = Callable[..., Any]


def noise(dtype: int, shape: tuple[int, ...], seed: int = 0) -> bytes:
    """Elements with small differences between seeds: any bits, but for bool."""
    generator = np.random.default_rng(dtype)
    data = generator.integers(0, 256, (int(np.prod(shape)), DTYPES[dtype][1]), np.uint8)
    data[:, 0] += np.random.default_rng(seed).integers(0, 4, len(data), np.uint8)
    return (data & 1 if dtype == 1 else data).tobytes()


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return create(tmp_path / "store")


def test_every_dtype_over_three_steps(store: Path, tmp_path: Path, script: Run) -> None:
    steps = [HandStep(store, "main", number) for number in (1, 2, 3)]
    base: dict[str, Tensor] = {}
    for step in steps:
        for code, (name, *_) in DTYPES.items():
            data = noise(code, (6, 4), step.number)
            base[name] = step.tensor(name, code, (6, 4), data, block_elements=8, base=base.get(name))
        step.commit()
    done = script(store, "restore", "3", "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert set(found) == {name for name, *_ in DTYPES.values()} - {"complex32", "complex128"}
    for name, tensor in found.items():
        assert tensor.dtype == getattr(torch, name)
        assert tensor.shape == (6, 4)
        assert bits(tensor) == steps[2].tensors[name].data
    summary = json.loads((tmp_path / "out" / "model.objects.json").read_bytes())
    for name in ("complex32", "complex128"):
        assert (tmp_path / "out" / f"model.{name}.bin").read_bytes() == steps[2].tensors[name].data
        assert summary["tensors"][name]["file"] == f"model.{name}.bin"
        assert summary["tensors"][name]["dtype"] == name
        assert summary["tensors"][name]["shape"] == [6, 4]


WHOLE: Box = ((0, 0, 0), (6, 5, 4))
BY_FIRST: list[Box] = [((0, 0, 0), (1, 5, 4)), ((1, 0, 0), (5, 5, 4))]
BY_SECOND: list[Box] = [((0, 0, 0), (6, 2, 4)), ((0, 2, 0), (6, 3, 4))]
BY_LAST: list[Box] = [((0, 0, 0), (6, 5, 1)), ((0, 0, 1), (6, 5, 3))]


@pytest.mark.parametrize("block_elements", [1, 3, 4, 8, 20, 45, 1000])
def test_layouts_that_change_from_step_to_step(store: Path, tmp_path: Path, read: Run, block_elements: int) -> None:
    shape, base = (6, 5, 4), None
    layouts = [[WHOLE], [WHOLE], BY_FIRST, BY_SECOND, BY_LAST, [WHOLE]]
    for number, shards in enumerate(layouts):
        step = HandStep(store, "main", number)
        elements = block_elements + (7 if number == 4 else 0)
        base = step.tensor("x", 12, shape, noise(12, shape, number), shards=shards, block_elements=elements, base=base)
        step.commit()
        out = tmp_path / f"out{number}"
        assert read(store, "restore", number, "--out", out).code == 0
        assert bits(load_file(out / "model.safetensors")["x"]) == base.data


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_shard_is_cut_as_the_format_says(data: st.DataObject) -> None:
    sizes = tuple(data.draw(st.lists(st.integers(0, 5), max_size=4)))
    offsets = tuple(data.draw(st.integers(0, 9)) for _ in sizes)
    limit = data.draw(st.integers(1, 40))
    expected = grid((offsets, sizes), limit)
    assert list(reader.grid(offsets, sizes, limit, len(expected), "x")) == expected
    with pytest.raises(reader.ReaderError, match="the grid makes"):
        list(reader.grid(offsets, sizes, limit, len(expected) + 1, "x"))


def test_shapes_without_dimensions_and_without_elements(store: Path, tmp_path: Path, read: Run) -> None:
    step = HandStep(store, "main", 1)
    step.tensor("scalar", 8, (), b"\1\2\3\4\5\6\7\0")
    step.tensor("empty", 11, (3, 0, 2), b"", shards=[((0, 0, 0), (3, 0, 2))])
    step.tensor("no shards", 11, (0,), b"", shards=[])
    step.tensor("pairs", 22, (), b"\x21")
    step.commit()
    later = HandStep(store, "main", 2)
    later.tensor("scalar", 8, (), b"\2\2\3\4\5\6\7\0", base=step.tensors["scalar"])
    later.commit()
    assert read(store, "restore", "1", "--out", tmp_path / "1").code == 0
    found = load_file(tmp_path / "1" / "model.safetensors")
    assert found["scalar"].item() == 0x0007060504030201
    assert found["empty"].shape == (3, 0, 2)
    assert found["no shards"].shape == (0,)
    assert (tmp_path / "1" / "model.pairs.bin").read_bytes() == b"\x21"  # no last dimension to count pairs in
    assert read(store, "restore", "latest", "--out", tmp_path / "2").code == 0
    assert load_file(tmp_path / "2" / "model.safetensors")["scalar"].item() == 0x0007060504030202


def test_parts_that_no_need_covers_are_predicted_as_zero(store: Path, tmp_path: Path, read: Run) -> None:
    first, second = HandStep(store, "main", 1), HandStep(store, "main", 2)
    half = first.tensor("x", 6, (2, 3), noise(6, (2, 3)))
    first.commit()
    grown = second.tensor("x", 6, (4, 3), noise(6, (4, 3), 5), base=half)
    second.commit()
    assert read(store, "restore", 2, "--out", tmp_path / "out").code == 0
    assert bits(load_file(tmp_path / "out" / "model.safetensors")["x"]) == grown.data


def test_a_chain_of_thousands(store: Path, tmp_path: Path, script: Run) -> None:
    box: Box = ((0,), (8,))
    previous: list[tuple[HandStep, int, None]] = []
    steps = [HandStep(store, "main", number) for number in range(4)]
    for step in steps:
        for link in range(1000):
            previous = [(step, step.record(11, (8,), noise(11, (8,), link), previous), None)]
        row = len(step.rows) - 1
        step.tensors["x"] = Tensor(11, (8,), step.rows[row].data, 8, [box], [(box, step, row)], {})
        step.commit()
    done = script(store, "restore", "3", "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert bits(load_file(tmp_path / "out" / "model.safetensors")["x"]) == steps[3].tensors["x"].data


def test_a_chain_in_which_everything_is_needed_twice(store: Path, tmp_path: Path, read: Run) -> None:
    # Two halves, each needing a part of both halves before it: 2^60 ways through 122 records.
    step = HandStep(store, "main", 1)
    halves = [step.record(2, (4,), noise(2, (4,), k)) for k in range(2)]
    for number in range(60):
        needs = [(step, half, ((4,), (1,), (2,), (2 * k,))) for k, half in enumerate(halves)]
        halves = [step.record(2, (4,), noise(2, (4,), number + k), needs) for k in range(2)]
    boxes: list[Box] = [((0,), (4,)), ((4,), (4,))]
    blocks = [(box, step, half) for box, half in zip(boxes, halves, strict=True)]
    whole = b"".join(step.rows[half].data for half in halves)
    step.tensors["x"] = Tensor(2, (8,), whole, 4, [((0,), (8,))], blocks, {})
    step.commit()
    assert read(store, "restore", 1, "--out", tmp_path / "out").code == 0
    assert bits(load_file(tmp_path / "out" / "model.safetensors")["x"]) == whole


def test_memory_is_a_few_blocks_at_any_depth_and_size(store: Path, tmp_path: Path, read: Run) -> None:
    size, count = 1 << 17, 32
    step = HandStep(store, "main", 1)
    boxes: list[Box] = [((k * size,), (size,)) for k in range(count)]
    tensor = Tensor(2, (count * size,), b"", size, [((0,), (count * size,))], [], {})
    for box in boxes:
        data = bytes([box[0][0] // size]) * size
        row = step.record(2, (size,), data, raw=True)
        for _ in range(10):
            data = bytes([data[0] + 3]) * size
            # A residual of 3 everywhere: one constant plane of 6.
            row = step.record(2, (size,), data, [(step, row, None)], wrong={"payload": b"\2\1\0\0\0\6"})
        tensor.data += data
        tensor.blocks.append((box, step, row))
    step.tensors["x"] = tensor
    step.commit()
    tracemalloc.start()
    assert read(store, "restore", 1, "--out", tmp_path / "out").code == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert bits(load_file(tmp_path / "out" / "model.safetensors")["x"]) == tensor.data
    assert peak < 12 * size


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def tree(document: Any, data: bytes = b"") -> bytes:
    text = json.dumps(document).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_objects(store: Path, tmp_path: Path, script: Run) -> None:
    document = {
        "dict": [
            ["lr", 0.001],
            ["huge", {"int": "-ffffffffffffffffff"}],
            ["raw", {"bytes": [0, 3]}],
            ["t", {"tensor": {"dtype": 11, "shape": [2], "requires_grad": False, "at": [3, 4]}}],
            ["a", {"array": {"dtype": "<f4", "shape": [1], "at": [7, 4]}}],
            [{"tuple": [1, {"float": "7ff8000000000000"}]}, [None, True, {"size": [1, 2]}, {"device": "cuda:0"}]],
        ]
    }
    step = HandStep(store, "main", 7)
    step.object("state", "tree", tree(document, b"abcdefghijk"), artifact="train", path='["a", 0]')
    step.object("rng", "torch", b"never loaded", artifact="train")
    step.object("new", "later", b"kept as it is", artifact="train")
    step.tensor("loss", 12, (1,), b"\0\0\x80?", artifact="train", path='["log", "loss"]', flags=1, role="other")
    step.commit()
    done = script(store, "restore", "7", "--out", tmp_path / "out")
    assert done.returncode == 0
    assert "rng is a pickle: to load it is to run code that it chooses" in done.stderr
    assert "new is of an unknown encoding" in done.stderr
    found = json.loads((tmp_path / "out" / "train.objects.json").read_bytes())
    value = found["objects"]["state"]["value"]["dict"]
    assert found["objects"]["state"]["path"] == ["a", 0]
    assert value[0] == ["lr", 0.001]
    assert value[1] == ["huge", {"int": "-ffffffffffffffffff"}]
    assert value[2] == ["raw", {"bytes": {"base64": b64(b"abc")}}]
    assert value[3] == [
        "t",
        {"tensor": {"dtype": "bfloat16", "shape": [2], "requires_grad": False, "base64": b64(b"defg")}},
    ]
    assert value[4] == ["a", {"array": {"dtype": "<f4", "shape": [1], "base64": b64(b"hijk")}}]
    assert value[5] == document["dict"][5]
    assert found["objects"]["rng"] == {"path": None, "encoding": "torch", "file": "train.rng.pickle"}
    assert (tmp_path / "out" / "train.rng.pickle").read_bytes() == b"never loaded"
    assert (tmp_path / "out" / "train.new.bin").read_bytes() == b"kept as it is"
    loss = {"path": ["log", "loss"], "file": "train.safetensors", "dtype": "float32", "shape": [1], "role": "other"}
    assert found["tensors"] == {"loss": {**loss, "requires_grad": True}}


def test_list_show_and_which_step_is_meant(store: Path, tmp_path: Path, script: Run) -> None:
    for branch, number, generation, value in (
        ("main", 5, 1, 1),
        ("main", 5, 2, 2),
        ("main", 10, 1, 3),
        ("b.1", 5, 1, 4),
    ):
        step = HandStep(store, branch, number, generation)
        step.tensor("w", 2, (3,), bytes([value] * 3), role="exp_avg")
        step.tensor("m", 2, (3,), bytes([value] * 3), artifact="optim")
        step.commit({"metrics": {"loss": 0.5 * value, "bad": {"float": "nan"}}})
    (store / "manifests" / "main" / "000000000010" / ".000002.tmp").write_bytes(b"a put that did not end")
    (store / "manifests" / "main" / "99").mkdir()
    listed = script("list", at=store)
    assert listed.returncode == 0
    assert listed.stdout.splitlines()[0] == "b.1: 1 steps"
    assert "5  generation 2  2026-01-02T03:04:05Z  key  6 bytes, 6 stored  loss=1.0  bad=nan" in listed.stdout
    assert "generation 1  2026-01-02T03:04:05Z  key  6 bytes, 6 stored  loss=0.5" not in listed.stdout.split("main:")[1]
    shown = script("show", "10", at=store)
    assert "model  w  uint8 [3]  exp_avg  1 shards  3 bytes" in shown.stdout
    for text, value in (("5", 2), ("main:5", 2), ("latest", 3), ("b.1:5", 4)):
        out = tmp_path / text
        assert script("restore", text, "--out", out, "--only", "optim", at=store).returncode == 0
        assert [path.name for path in sorted(out.iterdir())] == ["optim.objects.json", "optim.safetensors"]
        assert load_file(out / "optim.safetensors")["m"].tolist() == [value] * 3


def test_without_the_hash_modules_it_says_so_once(store: Path, tmp_path: Path, script: Run) -> None:
    step = HandStep(store, "main", 1)
    tensor = step.tensor("w", 11, (9, 9), noise(11, (9, 9)), block_elements=9)
    step.commit()
    done = script(store, "restore", "1", "--out", tmp_path / "out", without=("xxhash", "blake3"))
    assert done.returncode == 0
    assert done.stderr == "note: xxhash and blake3 cannot be imported; addresses are not checked\n"
    assert bits(load_file(tmp_path / "out" / "model.safetensors")["w"]) == tensor.data


def test_no_name_leads_out_of_the_folder(store: Path, tmp_path: Path, read: Run) -> None:
    step = HandStep(store, "main", 1)
    for number, (artifact, fqn) in enumerate(
        (("../../evil", "a"), ("m", "../b"), ("m.x", "y"), ("m", "x.y"), ("/", "c" * 999))
    ):
        step.tensor(fqn, 16, (1,), bytes([number] * 16), artifact=artifact)
    step.tensor("__metadata__", 2, (1,), b"m")
    step.commit()
    out = tmp_path / "deep" / "out"
    assert read(store, "restore", 1, "--out", out).code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"store", "deep"}
    assert {path.name for path in out.parent.iterdir()} == {"out"}
    files = [path.read_bytes() for path in sorted(out.glob("*.bin"))]
    assert sorted(files) == sorted([*(bytes([number] * 16) for number in range(5)), b"m"])


def test_the_readme_is_short_plain_text_about_real_commands() -> None:
    lines = readme_text().decode("ascii").splitlines()
    assert 10 < len(lines) <= 40
    assert max(map(len, lines)) <= 120
    for command in ("list", "show STEP", "restore STEP --out DIR"):
        assert f"python reader.py {command}" in "\n".join(lines)
