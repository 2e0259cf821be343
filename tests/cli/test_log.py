from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from deltackpt import Store
from tests.cli.helpers import Ran, Run, flip, manifest, save


def listed(ran: Ran) -> list[tuple[str, int]]:
    return [(step["branch"], step["step"]) for step in ran.document["steps"]]


def test_the_table_has_a_row_for_each_step(cli: Run, saved_store: Path) -> None:
    ran = cli("log", saved_store)
    assert (ran.code, ran.err) == (0, "")
    head, *rows = ran.out.splitlines()
    assert head.split()[0] == "step"
    assert [row.split()[0] for row in rows[:3]] == ["100", "200", "300"]
    assert [row.split()[3] for row in rows[:3]] == ["key", "delta", "delta"]
    assert "loss=nan worst=inf best=-inf" in rows[1]
    assert "loss=1.25 note=warm [bold] done=true eval=none" in rows[2]
    assert "3 steps" in rows[-1]


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ([], [("main", 100), ("main", 200), ("main", 300)]),
        (["--reverse"], [("main", 300), ("main", 200), ("main", 100)]),
        (["-n", "2"], [("main", 200), ("main", 300)]),
        (["-n", "1", "--reverse"], [("main", 300)]),
        (["-n", "99"], [("main", 100), ("main", 200), ("main", 300)]),
        (["--branch", "tuned"], [("tuned", 250)]),
        (["--all"], [("main", 100), ("main", 200), ("main", 300), ("tuned", 250)]),
        (["--all", "-n", "1"], [("main", 300), ("tuned", 250)]),
    ],
)
def test_which_steps_and_in_which_order(
    cli: Run, saved_store: Path, arguments: list[str], steps: list[tuple[str, int]]
) -> None:
    ran = cli("log", saved_store, "--json", *arguments)
    assert ran.code == 0
    assert listed(ran) == steps
    text = cli("log", saved_store, *arguments).out.splitlines()
    column = text[0].split().index("step")
    assert [int(row.split()[column]) for row in text[1 : 1 + len(steps)]] == [step for _, step in steps]


def test_the_document_says_what_the_library_says(cli: Run, saved_store: Path) -> None:
    document = cli("log", saved_store, "--json").document
    assert document["url"] == str(saved_store)
    assert document["branch"] == "main"
    assert document["damaged"] == []
    for found, info in zip(document["steps"], Store.open(saved_store).steps(), strict=True):
        for name in ("step", "branch", "generation", "parent", "is_key", "depth"):
            assert found[name] == getattr(info, name)
        for name in ("raw_bytes", "stored_bytes", "restore_bytes"):
            assert type(found[name]) is int
            assert found[name] == getattr(info, name)
        assert {n: (a["raw_bytes"], a["stored_bytes"]) for n, a in found["artifacts"].items()} == info.artifacts
        assert found["writer"] == info.writer
        created = datetime.fromisoformat(found["created"])
        assert created == info.created
        assert created.utcoffset() == timedelta(0)
    assert [step["chain_key"] for step in document["steps"]] == ["main:100"] * 3
    assert [step["distance"] for step in document["steps"]] == [0, 1, 2]


def test_metrics_are_strict_json(cli: Run, saved_store: Path) -> None:
    metrics = [step["metrics"] for step in cli("log", saved_store, "--json").document["steps"]]
    assert metrics[0] == {"loss": 2.5, "lr": 1e-3}
    assert metrics[1] == {"loss": {"float": "nan"}, "worst": {"float": "inf"}, "best": {"float": "-inf"}}
    assert metrics[2] == {"loss": 1.25, "note": "warm [bold]", "done": True, "eval": None}


def test_an_overwritten_step_shows_its_generation(cli: Run, store: Path) -> None:
    assert "generation" not in cli("log", store).out
    save(str(store), 300, overwrite=True)
    rows = cli("log", store).out.splitlines()
    column = rows[0].split().index("generation")
    assert [row.split()[column] for row in rows[1:4]] == ["1", "1", "2"]
    assert [step["generation"] for step in cli("log", store, "--json").document["steps"]] == [1, 1, 2]


def test_an_empty_store_has_no_steps_yet(cli: Run, tmp_path: Path) -> None:
    Store.create(tmp_path / "new")
    for arguments in ([], ["--all"]):
        ran = cli("log", tmp_path / "new", *arguments)
        assert (ran.code, ran.out, ran.err) == (0, "no steps yet\n", "")
    assert cli("log", tmp_path / "new", "--json").document["steps"] == []


def test_a_branch_that_is_not_there(cli: Run, saved_store: Path, tmp_path: Path) -> None:
    ran = cli("log", saved_store, "--branch", "tunde")
    assert ran.code == 13
    assert str(saved_store) in ran.err
    assert "branches: main, tuned" in ran.err
    store = Store.create(tmp_path / "new")
    save(store, 1, branch="other")
    # Nobody asked for main, but to say that there is nothing would be wrong.
    ran = cli("log", tmp_path / "new", "--json")
    assert ran.code == 13
    assert "other" in ran.error["hint"]


@pytest.mark.parametrize("name", ["../x", "/etc", "a/b", "", ".hidden", "x" * 200])
def test_a_branch_that_leaves_its_folder(cli: Run, saved_store: Path, name: str) -> None:
    ran = cli("log", saved_store, "--branch", name, "--json")
    assert ran.code == 2
    assert ran.error["kind"] == "invalid-name"
    assert ran.error["hint"]


def test_a_branch_and_all_exclude_each_other(cli: Run, saved_store: Path) -> None:
    ran = cli("log", saved_store, "--branch", "main", "--all")
    assert ran.code == 2
    assert "--all" in ran.err


@pytest.mark.parametrize(
    ("damage", "kind", "code"),
    [("flip", "corrupt-object", 20), ("cut", "truncated-object", 21), ("version", "unknown-version", 23)],
)
def test_a_damaged_manifest_hides_no_other_step(cli: Run, store: Path, damage: str, kind: str, code: int) -> None:
    path = manifest(store, 200)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:50])
    else:
        # In the header's JSON, or the last digit of the magic.
        flip(path, 60) if damage == "flip" else path.write_bytes(b"DKMANI99" + path.read_bytes()[8:])
    ran = cli("log", store)
    assert ran.code == code
    assert [row.split()[0] for row in ran.out.splitlines()[1:3]] == ["100", "300"]
    assert ran.err.startswith("error: main:200: ")
    assert "manifests/main/000000000200/000001" in ran.err
    assert "hint: " in ran.err
    ran = cli("log", store, "--json")
    assert ran.code == code
    assert ran.err == ""
    assert listed(ran) == [("main", 100), ("main", 300)]
    (damaged,) = ran.document["damaged"]
    assert (damaged["branch"], damaged["step"], damaged["generation"]) == ("main", 200, 1)
    assert damaged["error"]["kind"] == kind
    assert damaged["error"]["where"].endswith("manifests/main/000000000200/000001")
    assert damaged["error"]["hint"]


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        (["--where", "loss<2"], [("main", 300)]),
        (["--where", "step > 100", "--where", "step<300"], [("main", 200)]),
        (["--where", "loss", "--sort", "loss"], [("main", 300), ("main", 100), ("main", 200)]),
        (["--sort", "-step", "--limit", "2"], [("main", 300), ("main", 200)]),
        (["--sort", "loss", "--reverse"], [("main", 300), ("main", 100), ("main", 200)]),
        (["--all", "--where", "step >= 200", "-n", "1"], [("main", 300), ("tuned", 250)]),
        (["--all", "--where", "branch == 'tuned' or is_key == true"], [("main", 100), ("tuned", 250)]),
        (["--where", "loss < 0"], []),
        (["--where", "created > 2020-01-01 and writer.world_size == 1", "--limit", "1"], [("main", 100)]),
    ],
)
def test_conditions_and_order(cli: Run, saved_store: Path, arguments: list[str], steps: list[tuple[str, int]]) -> None:
    ran = cli("log", saved_store, "--json", *arguments)
    assert ran.code == 0
    assert listed(ran) == steps
    text = cli("log", saved_store, *arguments).out
    assert ("none of 3 steps" in text) == (not steps)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--where", "los < 1"], "did you mean loss?"),
        (["--where", "loss <"], "at character 7"),
        (["--sort", "los"], "did you mean loss?"),
        (["--where", "note > 5"], "compares a text with a number"),
    ],
)
def test_conditions_that_make_no_sense(cli: Run, saved_store: Path, arguments: list[str], words: str) -> None:
    ran = cli("log", saved_store, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err


def test_a_damaged_step_is_named_where_conditions_choose(cli: Run, store: Path) -> None:
    flip(manifest(store, 200), 60)
    ran = cli("log", store, "--json", "--where", "loss < 3")
    assert ran.code == 20
    assert listed(ran) == [("main", 100), ("main", 300)]
    assert [found["step"] for found in ran.document["damaged"]] == [200]


def test_bytes_of_steps_that_are_gone_are_told(cli: Run, store: Path) -> None:
    assert cli("log", store, "--all", "--json").document["other_bytes"] == 0
    assert cli("log", store, "--json").document["other_bytes"] is None
    cli("prune", store, "--keep-last", "1")
    cli("gc", store, "--grace", "0")
    document = cli("log", store, "--all", "--json").document
    folders = [store / name for name in ("packs", "indexes", "manifests")]
    whole = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    assert document["other_bytes"] == whole - sum(step["stored_bytes"] for step in document["steps"]) > 0
    assert "more were saved for steps that are gone" in cli("log", store, "--all").out
    assert "more were saved" not in cli("log", store).out
