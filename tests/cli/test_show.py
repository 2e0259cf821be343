from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deltackpt import Store
from tests.cli.helpers import Run, flip, manifest, save


@pytest.mark.parametrize(
    ("spec", "branch", "step"),
    [
        ("200", "main", 200),
        ("000200", "main", 200),
        ("latest", "main", 300),
        ("main:100", "main", 100),
        ("main:latest", "main", 300),
        ("tuned:250", "tuned", 250),
        ("tuned:latest", "tuned", 250),
    ],
)
def test_how_a_step_is_named(cli: Run, saved_store: Path, spec: str, branch: str, step: int) -> None:
    document = cli("show", saved_store, spec, "--json").document
    assert (document["branch"], document["step"]) == (branch, step)


def test_the_document_says_what_the_library_says(cli: Run, saved_store: Path) -> None:
    step = Store.open(saved_store).step(200)
    document = cli("show", saved_store, "200", "--json").document
    listed = cli("log", saved_store, "--json").document["steps"][1]
    assert {name: document[name] for name in listed} == listed
    assert document["metrics"]["loss"] == {"float": "nan"}
    entries = {entry["fqn"]: entry for entry in document["entries"]}
    assert list(entries) == [entry.fqn for entry in step.entries()]
    assert entries["model.half"] == {
        "fqn": "model.half",
        "kind": "tensor",
        "artifact": "model",
        "role": "weight",
        "dtype": "bfloat16",
        "shape": [64, 4],
        "raw_bytes": 512,
        "shards": 1,
        "blocks": 1,
        "requires_grad": False,
        "encoding": None,
    }
    objects = [entry for entry in document["entries"] if entry["kind"] == "object"]
    assert objects
    assert {(entry["dtype"], entry["encoding"]) for entry in objects} == {("uint8", "tree")}
    assert sum(entry["raw_bytes"] for entry in document["entries"]) == document["raw_bytes"]
    assert document["closure"]["indexes"] == len(step.manifest.indexes)
    assert document["closure"]["packs"] == len(step.manifest.packs)
    sizes = [path.stat().st_size for path in (saved_store / "packs").rglob("*") if path.is_file()]
    assert 0 < document["closure"]["pack_bytes"] <= sum(sizes)


def test_blocks_are_counted(cli: Run, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "new", block_elements=10)
    save(store, 1, {"model": {"weight": torch.zeros(7, 4), "none": torch.zeros(0, 3), "one": torch.tensor(1.0)}})
    entries = cli("show", tmp_path / "new", "1", "--json").document["entries"]
    assert {entry["fqn"]: (entry["shape"], entry["blocks"]) for entry in entries} == {
        "model.weight": ([7, 4], 4),
        "model.none": ([0, 3], 0),
        "model.one": ([], 1),
    }


def test_the_page_for_people(cli: Run, saved_store: Path) -> None:
    ran = cli("show", saved_store, "200")
    assert (ran.code, ran.err) == (0, "")
    facts = dict(line.split(None, 1) for line in ran.out.split("\n\n")[0].splitlines())
    assert facts["step"] == "main:200"
    assert facts["parent"] == "main:100"
    assert facts["kind"] == "delta, 1 after key step main:100"
    assert facts["metrics"] == "loss=nan worst=inf best=-inf"
    rows = {line.split()[0]: line.split()[1:] for line in ran.out.splitlines() if line}
    assert rows["model.weight"] == ["tensor", "weight", "float32", "[64,", "4]", "1.0", "KiB", "1", "1"]
    assert rows["optim.state.0.exp_avg"][1] == "exp_avg"
    assert ran.out.splitlines()[-1].startswith(f"{len(Store.open(saved_store).step(200).entries())} entries")


def test_a_prefix_chooses_entries(cli: Run, saved_store: Path) -> None:
    document = cli("show", saved_store, "100", "--prefix", "optim.", "--json").document
    assert document["entries"]
    assert all(entry["fqn"].startswith("optim.") for entry in document["entries"])
    assert "model.weight" not in cli("show", saved_store, "100", "--prefix", "optim.").out
    ran = cli("show", saved_store, "100", "--prefix", "modle.")
    assert ran.code == 14
    assert "'modle.'" in ran.err
    assert "hint: " in ran.err


def test_a_pipe_gets_every_name_whole_and_no_escapes_of_a_terminal(cli: Run, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "new")
    long = "layers." * 60 + "weight"
    save(
        store,
        1,
        {"model": {long: torch.zeros(2), "[bold]red[/bold] :smile:": torch.zeros(2), "\x1b[31mred": torch.zeros(1)}},
    )
    out = cli("show", tmp_path / "new", "latest").out
    (row,) = [line for line in out.splitlines() if "layers." in line]
    assert row.split()[:3] == [f"model.{long}", "tensor", "weight"]
    assert "model.[bold]red[/bold] :smile:" in out
    assert "\x1b" not in out
    assert "model.\\x1b[31mred" in out
    assert all(line == line.rstrip() for line in out.splitlines())


@pytest.mark.parametrize(
    ("spec", "code", "kind", "said"),
    [
        ("250", 13, "step-not-found", "200, 300"),
        ("none:latest", 13, "step-not-found", "main, tuned"),
        ("newest", 2, "invalid-argument", "latest"),
        ("1.5", 2, "invalid-argument", "latest"),
        ("../x:100", 2, "invalid-name", "letters"),
        (":100", 2, "invalid-name", "letters"),
    ],
)
def test_a_step_that_is_not_there(cli: Run, saved_store: Path, spec: str, code: int, kind: str, said: str) -> None:
    ran = cli("show", saved_store, spec, "--json")
    assert ran.code == code
    assert ran.error["kind"] == kind
    assert said in ran.error["hint"]
    text = cli("show", saved_store, spec)
    assert (text.code, text.out) == (code, "")
    assert text.err.splitlines()[-1] == f"hint: {ran.error['hint']}"


def test_a_corrupt_manifest_is_named_and_harms_no_other_step(cli: Run, store: Path) -> None:
    path = manifest(store, 200)
    flip(path, path.stat().st_size - 20)
    ran = cli("show", store, "200", "--json")
    assert ran.code == 20
    assert ran.error["kind"] == "corrupt-object"
    assert ran.error["where"] == "manifests/main/000000000200/000001"
    assert type(ran.error["offset"]) is int
    assert "deltackpt verify" in ran.error["hint"]
    text = cli("show", store, "200").err
    assert f"manifests/main/000000000200/000001, byte {ran.error['offset']}: " in text
    for other in ("100", "300", "tuned:250"):
        assert cli("show", store, other).code == 0


def test_texts_are_no_candidates_for_the_best(cli: Run, store: Path) -> None:
    ran = cli("show", store, "best:note")
    assert ran.code == 13
    assert "hint: metrics with numbers: best, loss, lr, worst\n" in ran.err
