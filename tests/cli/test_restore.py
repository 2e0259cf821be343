from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from deltackpt import Store
from deltackpt.backend.base import Backend
from deltackpt.backend.memory import MemoryBackend
from deltackpt.cli.failure import describe
from deltackpt.cli.main import main
from deltackpt.cli.watched import WatchedBackend
from deltackpt.errors import InvalidArgumentError, MissingObjectError
from deltackpt.testing.backend_conformance import BackendConformance
from deltackpt.text import format_size
from tests.cli.helpers import Run, Terminal, flip, make_state, pack_of, save


class Unusual:
    """Something that only a pickle can hold."""


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def test_the_files_hold_the_state(cli: Run, saved_store: Path, tmp_path: Path) -> None:
    ran = cli("restore", saved_store, "200", "--out", tmp_path / "out")
    assert (ran.code, ran.err) == (0, "")
    state = make_state(200)
    model = load(tmp_path / "out" / "model.pt")
    assert list(model) == list(state["model"])
    for name, tensor in state["model"].items():
        assert model[name].dtype == tensor.dtype
        assert torch.equal(model[name], tensor)
    assert torch.equal(
        load(tmp_path / "out" / "optim.pt")["state"][0]["exp_avg"], state["optim"]["state"]["0"]["exp_avg"]
    )
    assert load(tmp_path / "out" / "train.pt") == state["train"]
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text()) == state["config"]
    for name in ("model.pt", "optim.pt", "train.pt", "config.yaml"):
        assert str(tmp_path / "out" / name) in ran.out


def test_the_document_lists_the_files(cli: Run, saved_store: Path, tmp_path: Path) -> None:
    ran = cli("restore", saved_store, "latest", "--out", tmp_path / "out", "--json")
    document = ran.document
    assert ran.code == 0
    assert (document["url"], document["branch"], document["step"], document["generation"]) == (
        str(saved_store),
        "main",
        300,
        1,
    )
    assert document["format"] == "torch"
    sizes = {str(path): path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert {file["path"]: file["bytes"] for file in document["files"]} == sizes
    assert len(sizes) == 4


def test_one_artifact(cli: Run, saved_store: Path, tmp_path: Path) -> None:
    assert cli("restore", saved_store, "tuned:250", "--out", tmp_path / "out", "--only", "model").code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.pt"]
    assert torch.equal(load(tmp_path / "out" / "model.pt")["weight"], make_state(250)["model"]["weight"])
    ran = cli("restore", saved_store, "100", "--out", tmp_path / "none", "--only", "modle")
    assert ran.code == 14
    assert "model" in ran.err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("options", [[], ["--only", "model"]])
def test_a_terminal_sees_progress_and_gets_the_same_files(
    saved_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    assert main(["restore", str(saved_store), "200", "--out", str(tmp_path / "plain"), *options]) == 0
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["restore", str(saved_store), "200", "--out", str(tmp_path / "out"), *options]) == 0
    assert "restoring main:200" in stream.getvalue()
    if not options:
        total = format_size(Store.open(saved_store).step(200).info.restore_bytes)
        assert f"{total} / {total}" in stream.getvalue()
    plain = {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == plain


class TestWatchedBackend(BackendConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return WatchedBackend(MemoryBackend(), lambda read: None)


def test_reads_are_counted() -> None:
    seen: list[int] = []
    backend = WatchedBackend(MemoryBackend(), seen.append)
    backend.put("a", b"0123456789")
    backend.get("a")
    backend.get("a", 2, 3)
    with pytest.raises(MissingObjectError):
        backend.get("b")
    assert seen == [10, 13]


def test_a_folder_is_replaced_only_if_asked(cli: Run, saved_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "optim.pt").write_text("mine")
    ran = cli("restore", saved_store, "100", "--out", out)
    assert ran.code == 41
    assert f"error: {out}: " in ran.err
    assert "--force" in ran.err
    assert [path.name for path in out.iterdir()] == ["optim.pt"]
    assert (out / "optim.pt").read_text() == "mine"
    assert cli("restore", saved_store, "100", "--out", out, "--force").code == 0
    assert "param_groups" in load(out / "optim.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["200", "--format", "gguf"], 2, "torch"),
        (["200"], 2, "--out"),
        (["999"], 13, "300"),
        (["../x:1"], 2, "branch"),
    ],
)
def test_wrong_arguments_write_nothing(
    cli: Run, saved_store: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    out = [] if code == 2 and said == "--out" else ["--out", tmp_path / "out"]
    ran = cli("restore", saved_store, *arguments, *out)
    assert ran.code == code
    assert said in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("damage", "kind", "code"),
    [("flip", "corrupt-object", 20), ("cut", "truncated-object", 21), ("gone", "missing-object", 22)],
)
def test_a_damaged_pack_is_named_with_the_tensor(
    cli: Run, store: Path, tmp_path: Path, damage: str, kind: str, code: int
) -> None:
    pack = pack_of(store, 300, "model")
    if damage == "flip":
        flip(pack, 70)
    elif damage == "cut":
        pack.write_bytes(pack.read_bytes()[:70])
    else:
        pack.unlink()
    ran = cli("restore", store, "300", "--out", tmp_path / "out", "--only", "model", "--json")
    assert ran.code == code
    assert ran.error["kind"] == kind
    assert pack.name in ran.error["where"]
    assert "model." in ran.error["message"]
    assert "main:300" in ran.error["message"]
    assert "deltackpt verify" in ran.error["hint"]
    assert not list(tmp_path.glob("out/*"))
    for other in ("100", "200"):
        assert cli("restore", store, other, "--out", tmp_path / other).code == 0


def test_a_pickle_is_loaded_only_if_asked(cli: Run, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    save(store, 1, {"model": {"w": torch.ones(2)}, "train": {"odd": Unusual()}})
    ran = cli("restore", tmp_path / "store", "1", "--out", tmp_path / "out", "--json")
    assert ran.code == 30
    assert ran.error["kind"] == "untrusted-object"
    assert "train.odd" in str(ran.error)
    assert "--trust-objects" in ran.error["hint"]
    ran = cli("restore", tmp_path / "store", "1", "--out", tmp_path / "all", "--trust-objects")
    assert ran.code == 0
    found = torch.load(tmp_path / "all" / "train.pt", weights_only=False)
    assert type(found["odd"]).__name__ == "Unusual"


@pytest.mark.parametrize("file_format", ["torch", "dcp"])
def test_a_size_for_a_format_that_is_not_cut_is_refused(
    cli: Run, saved_store: Path, tmp_path: Path, file_format: str
) -> None:
    out = tmp_path / "out"
    ran = cli("restore", saved_store, "200", "--out", out, "--format", file_format, "--max-shard-size", "1MB")
    assert ran.code == 2
    assert f"files of the format {file_format} are not cut" in ran.err
    assert "--max-shard-size goes with the formats safetensors and hf only" in ran.err
    assert not out.exists()


def test_hints_name_options(cli: Run, saved_store: Path, tmp_path: Path) -> None:
    ran = cli("restore", saved_store, "200", "--out", tmp_path / "out", "--format", "hf", "--only", "optim")
    assert "leave out --only, or" in ran.err
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    ran = cli("restore", saved_store, "200", "--out", tmp_path / "there")
    assert "choose another folder, or pass --force" in ran.err


def test_arguments_in_hints_become_options() -> None:
    hint = "use only='model', overwrite=True, keep_last=3, max_shard_bytes= or a=b"
    found = describe(InvalidArgumentError("no", hint=hint)).hint
    assert found == "use --only model, --overwrite, --keep-last 3, --max-shard-size or a=b"


def test_a_range_of_steps_that_ends_before_it_begins(cli: Run, saved_store: Path, tmp_path: Path) -> None:
    ran = cli("copy", saved_store, tmp_path / "copy", "--steps", "300..200")
    assert ran.code == 2
    assert "the range 300..200 ends before it begins" in ran.err
    assert "200..300" in ran.err


def test_nothing_to_check_against(cli: Run, saved_store: Path) -> None:
    ran = cli("check", saved_store, "200", "--against", "nothere.yaml")
    assert ran.code == 2
    assert "nothere.yaml: there is no such file or folder, and it is not how a step is written" in ran.err
    assert "config.yaml" in ran.err
