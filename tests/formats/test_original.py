"""Imported files come back byte for byte, and can be read without being restored."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import load_file

from deltackpt import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import (
    CorruptObjectError,
    IncompleteStepError,
    InvalidArgumentError,
    TensorNotFoundError,
    UntrustedObjectError,
)
from deltackpt.formats import hf_folder
from deltackpt.formats.image_file import ImageFile
from deltackpt.formats.recipe import encode_info, parse_info
from deltackpt.formats.restore import FORMATS
from deltackpt.formats.views import VIEWS
from deltackpt.store.opened import OpenStore
from deltackpt.testing.faults import RecordingBackend
from tests.dcp.states import new_store, save_state
from tests.formats.imported import contents, hf_model_folder, import_folder, olmo_folder, weights
from tests.formats.values import identical


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DELTACKPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hf"


@pytest.mark.parametrize("make", [olmo_folder, hf_model_folder])
def test_files_come_back(make: object, tmp_path: Path) -> None:
    assert callable(make)
    store = new_store(block_elements=128)
    for step in (1, 2, 3):
        import_folder(store, step, make(tmp_path / str(step), step))
    for step in (1, 2, 3):
        assert store.step(step).default_format == "original"
        files = store.step(step).restore(tmp_path / "out" / str(step))
        assert contents(tmp_path / "out" / str(step)) == contents(tmp_path / str(step))
        for path in files:
            source = tmp_path / str(step) / path.relative_to(tmp_path / "out" / str(step))
            assert os.stat(path).st_mtime_ns == os.stat(source).st_mtime_ns


def test_imported_files_are_restored_without_torch(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    import_folder(store, 1, olmo_folder(tmp_path / "in"))
    code = (
        "import sys, deltackpt; "
        f"deltackpt.Store.open({store.url!r}).step(1).restore({str(tmp_path / 'out')!r}); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "in")


def test_every_view_is_a_format() -> None:
    assert (*VIEWS, "dcp") == FORMATS


def test_one_artifact(tmp_path: Path) -> None:
    store = new_store()
    import_folder(store, 1, olmo_folder(tmp_path / "in"))
    (file,) = store.step(1).restore(tmp_path / "out", only="model")
    assert file.read_bytes() == (tmp_path / "in" / "model.pt").read_bytes()
    with pytest.raises(TensorNotFoundError, match="it has: config, model, optim, train"):
        store.step(1).restore(tmp_path / "none", only="weights")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_file_with_another_hash_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the store held, block by block, sound bytes of another file."""
    store = new_store()
    import_folder(store, 1, olmo_folder(tmp_path / "in"))

    def lie(data: bytes, source: str) -> object:
        info = parse_info(data, source)
        return parse_info(encode_info(info).replace(info.sha256.encode(), b"0" * 64), source)

    monkeypatch.setattr("deltackpt.formats.recorded.parse_info", lie)
    with pytest.raises(CorruptObjectError, match="another SHA-256"):
        store.step(1).restore(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("name", ["model.pt", "optim.pt", "train.pt", "config.yaml"])
def test_any_part_of_a_file_can_be_read(name: str, tmp_path: Path) -> None:
    store = new_store(block_elements=100)
    folder = olmo_folder(tmp_path / "in")
    import_folder(store, 1, folder)
    expected = (folder / name).read_bytes()
    step = store.step(1)
    with step.open(name) as file:
        assert file.read() == expected
        assert file.read(1) == b""
        assert (file.seek(-3, io.SEEK_END), file.read()) == (len(expected) - 3, expected[-3:])
        assert file.seek(len(expected) + 10) and file.read(5) == b""  # noqa: PT018
        with pytest.raises(ValueError, match="before the file"):
            file.seek(-1)
    files = step._files(False)
    raw = ImageFile(files.source, files.image(name), memo_bytes=1 << 12)
    choose = random.Random(5)
    for _ in range(60):
        start = choose.randrange(len(expected))
        length = choose.choice([1, 3, 17, 400, 5000])
        raw.seek(start)
        assert raw.read(length) == expected[start : start + length]
        assert raw.tell() == min(start + length, len(expected))
    raw.close()
    with pytest.raises(ValueError, match="closed"):
        raw.read(1)


def test_torch_reads_an_open_file(tmp_path: Path) -> None:
    store = new_store()
    folder = olmo_folder(tmp_path / "in")
    import_folder(store, 1, folder)
    with store.step(1).open("optim.pt") as file:
        found = torch.load(file, weights_only=True)
    assert identical(found, torch.load(folder / "optim.pt", weights_only=True))


def test_only_what_is_read_is_decoded(tmp_path: Path) -> None:
    backend = RecordingBackend(MemoryBackend())
    store = new_store(backend, block_elements=1 << 12)
    (tmp_path / "in").mkdir()
    torch.save({"w": torch.randn(1 << 18)}, tmp_path / "in" / "model.pt")
    import_folder(store, 1, tmp_path / "in")
    step = Store(OpenStore(backend, store.opened.config)).step(1)
    assert [file.path for file in step.files()] == ["model.pt"]
    backend.clear()
    expected = (tmp_path / "in" / "model.pt").read_bytes()
    raw = ImageFile(step._files(False).source, step._files(False).image("model.pt"))
    for at in (500_000, 500_100, 500_200):
        raw.seek(at)
        assert raw.read(50) == expected[at : at + 50]
    # One block of 64, however often it is read.
    assert 0 < backend.bytes_read("packs/") < len(expected) // 30


def test_a_saved_state_has_files_too(tmp_path: Path) -> None:
    store = new_store()
    state = {"model": weights(), "train": {"step": 3}, "config": {"width": 16}}
    save_state(store, 1, state)
    step = store.step(1)
    assert [file.path for file in step.files()] == ["config.yaml", "model.pt", "train.pt"]
    with step.open("model.pt") as file:
        assert identical(torch.load(file, weights_only=True), state["model"])
    with step.open("train.pt") as file:
        assert torch.load(file, weights_only=True) == {"step": 3}
    assert step.open("config.yaml").read() == b"width: 16\n"
    with pytest.raises(TensorNotFoundError, match=r"it has: model\.pt"):
        step.open("modle.pt")


class Opaque:
    """What is kept as a pickle."""


def test_files_of_pickles_are_shown_only_if_trusted() -> None:
    store = new_store()
    save_state(store, 1, {"model": weights(), "train": {"odd": Opaque()}})
    step = store.step(1)
    assert [file.path for file in step.files()] == ["model.pt"]
    with pytest.raises(UntrustedObjectError, match="odd"):
        step.open("train.pt")
    assert [file.path for file in step.files(trust_objects=True)] == ["model.pt", "train.pt"]
    with step.open("train.pt", trust_objects=True) as file:
        assert isinstance(torch.load(file, weights_only=False)["odd"], Opaque)


@pytest.fixture
def shelf(tmp_path: Path) -> Store:
    """A store on disk: an imported step with folders, a saved one, and a branch."""
    store = Store.create(tmp_path / "store")
    import_folder(store, 1000, hf_model_folder(tmp_path / "in"))
    save_state(store, 2000, {"model": weights(2)})
    save_state(store, 1500, {"model": weights(1)}, branch="tuned")
    return store


def test_a_file_system_of_steps(shelf: Store, tmp_path: Path) -> None:
    fs = fsspec.filesystem("deltackpt", store=str(tmp_path / "store"))
    assert sorted(fs.ls("", detail=False)) == ["main", "tuned"]
    assert fs.ls("main", detail=False) == ["main/1000", "main/2000"]
    assert sorted(fs.ls("main/1000", detail=False)) == [
        "main/1000/config.json",
        "main/1000/model.safetensors",
        "main/1000/optimizer.pt",
        "main/1000/sub",
        "main/1000/tokenizer.json",
    ]
    assert sorted(fs.find("main/1000")) == sorted(f"main/1000/{path}" for path in contents(tmp_path / "in"))
    for path, (data, _) in contents(tmp_path / "in").items():
        assert fs.cat_file(f"main/1000/{path}") == data
        assert fs.info(f"main/1000/{path}")["size"] == len(data)
    assert fs.cat_file("main/1000/sub/notes.bin", 300, 310) == bytes(range(44, 54))
    assert fs.cat_file("main/1000/sub/notes.bin", -2) == bytes([254, 255])
    assert fs.isdir("main/1000/sub")
    assert not fs.exists("main/1000/nothing")
    assert not fs.exists("main/1234")
    assert not fs.exists("nowhere/1")
    assert fs.glob("*/*/model*") == ["main/1000/model.safetensors", "main/2000/model.pt", "tuned/1500/model.pt"]
    fs.get("main/1000", str(tmp_path / "got"), recursive=True)
    assert {p: d for p, (d, _) in contents(tmp_path / "got").items()} == {
        p: d for p, (d, _) in contents(tmp_path / "in").items()
    }
    saved = shelf.step(2000).info.created
    assert fs.created("main/2000/model.pt") == fs.modified("main/2000/model.pt") == saved
    stamp = os.stat(tmp_path / "in" / "config.json").st_mtime
    assert abs(fs.modified("main/1000/config.json").timestamp() - stamp) < 1e-3
    with pytest.raises(InvalidArgumentError, match="read only"):
        fs.open("main/1000/config.json", "wb")


@pytest.mark.parametrize(
    "change",
    [
        lambda fs: fs.rm("main/1000/config.json"),
        lambda fs: fs.rm("main", recursive=True),
        lambda fs: fs.mkdir("main/3000"),
        lambda fs: fs.makedirs("main/3000", exist_ok=True),
        lambda fs: fs.mv("main/1000/config.json", "main/1000/other.json"),
        lambda fs: fs.copy("main/1000/config.json", "main/1000/other.json"),
        lambda fs: fs.put(__file__, "main/1000/other.py"),
        lambda fs: fs.pipe("main/1000/other.json", b"{}"),
        lambda fs: fs.touch("main/1000/other.json"),
    ],
)
def test_what_would_change_a_store_is_refused(shelf: Store, tmp_path: Path, change: Callable[[Any], None]) -> None:
    fs = fsspec.filesystem("deltackpt", store=str(tmp_path / "store"))
    before = contents(tmp_path / "store")
    with pytest.raises(InvalidArgumentError, match="read only"):
        change(fs)
    assert contents(tmp_path / "store") == before


def test_urls(shelf: Store, tmp_path: Path) -> None:
    root = f"deltackpt://{tmp_path}/store!"
    with fsspec.open(f"{root}/main/latest/model.pt") as file:
        assert identical(torch.load(file, weights_only=True), weights(2))
    with fsspec.open(f"{root}/main/1000/config.json", "r") as file:
        assert json.load(file)["model_type"] == "llama"
    fs, path = fsspec.url_to_fs(f"{root}/tuned/1500")
    assert fs.ls(path, detail=False) == ["tuned/1500/model.pt"]
    assert fs.unstrip_protocol(path) == f"{root}/tuned/1500"
    assert fsspec.url_to_fs(root)[0].ls("", detail=False) == ["main", "tuned"]
    with pytest.raises(InvalidArgumentError, match="where its store ends"):
        fsspec.open(f"deltackpt://{tmp_path}/store/main/1000/config.json")
    with pytest.raises(FileNotFoundError):
        fsspec.open(f"{root}/main/1000/none").open()


def test_a_new_generation_is_seen(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    save_state(store, 1, {"model": weights(1)})
    fs = fsspec.filesystem("deltackpt", store=str(tmp_path / "store"))
    for seed in (1, 2):
        if seed == 2:
            save_state(store, 1, {"model": weights(2)}, overwrite=True)
        with fs.open("main/1/model.pt") as file:
            assert identical(torch.load(file, weights_only=True), weights(seed))


def test_a_folder_for_from_pretrained(shelf: Store, tmp_path: Path, cache: Path) -> None:
    with shelf.step(1000).as_hf_dir() as path:
        assert sorted(found.name for found in path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
        assert identical(load_file(path / "model.safetensors"), load_file(tmp_path / "in" / "model.safetensors"))
        stamp = path.stat().st_mtime_ns
    with shelf.step(1000).as_hf_dir() as again:  # kept
        assert (again, again.stat().st_mtime_ns) == (path, stamp)
    assert path.parent == cache
    with pytest.raises(IncompleteStepError, match="no config"), shelf.step(2000).as_hf_dir():
        pass
    assert [found.name for found in cache.iterdir() if found.is_dir()] == [path.name]


def test_the_cache_is_bounded(shelf: Store, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"model_type": "llama"}
    for step in (3000, 4000, 5000):
        save_state(shelf, step, {"model": weights(step), "config": config})
    monkeypatch.setenv("DELTACKPT_CACHE_BYTES", "12000")  # room for two
    with shelf.step(3000).as_hf_dir() as first:
        for step in (4000, 5000):
            with shelf.step(step).as_hf_dir() as path:
                assert path.is_dir()
        assert first.is_dir()  # in use
    left = {path.name.split("-")[2] for path in cache.iterdir() if path.is_dir()}
    assert left == {"3000", "5000"}
    assert hf_folder.cache_folder() == cache.parent
