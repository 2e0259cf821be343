from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from deltackpt import Store
from deltackpt.cli.main import main
from tests.cli.helpers import Run, Terminal, flip, manifest, pack_of


def test_a_healthy_store(cli: Run, saved_store: Path) -> None:
    ran = cli("verify", saved_store)
    assert (ran.code, ran.err) == (0, "")
    assert "4 steps" in ran.out
    assert "no problems" in ran.out
    assert "decoded" not in ran.out
    ran = cli("verify", saved_store, "--deep")
    assert ran.code == 0
    assert "records decoded" in ran.out


def test_the_document_says_what_the_library_says(cli: Run, saved_store: Path) -> None:
    report = Store.open(saved_store).verify(deep=True)
    assert cli("verify", saved_store, "--deep", "--json").document == {
        "url": str(saved_store),
        "deep": True,
        "ok": True,
        "steps": report.steps,
        "indexes": report.indexes,
        "packs": report.packs,
        "records": report.records,
        "unreferenced_bytes": 0,
        "problems": [],
        "repair": None,
    }
    shallow = cli("verify", saved_store, "--json").document
    assert (shallow["deep"], shallow["records"]) == (False, 0)


def test_progress_counts_steps(saved_store: Path) -> None:
    seen: list[tuple[int, int]] = []
    Store.open(saved_store).verify(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_terminal_sees_progress(saved_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["verify", str(saved_store), "--json"]) == 0
    assert "verifying steps" in stream.getvalue()
    assert "4 / 4" in stream.getvalue()


def test_a_corrupt_pack_is_found_with_what_it_concerns(cli: Run, store: Path) -> None:
    pack = pack_of(store, 300, "model")
    flip(pack, 70)
    assert cli("verify", store).code == 0  # the sizes are right; the contents were not looked at
    ran = cli("verify", store, "--deep", "--json")
    assert (ran.code, ran.err) == (20, "")
    document = ran.document
    assert document["ok"] is False
    affected = [found for problem in document["problems"] for found in problem["affected"]]
    assert {found["step"] for found in affected} == {"main:300"}
    assert {found["fqn"] for found in affected} < {"model.weight", "model.half"}
    assert all(problem["kind"] == "corrupt-object" for problem in document["problems"])
    assert all(pack.name in problem["where"] for problem in document["problems"])
    assert any(problem["offset"] == 24 for problem in document["problems"])
    ran = cli("verify", store, "--deep")
    assert ran.code == 20
    assert "main:300 (model." in ran.out
    assert pack.name in ran.out
    assert "main:100" not in ran.out
    assert "hint: " in ran.err


def test_a_missing_pack_is_found_without_reading_it(cli: Run, store: Path) -> None:
    pack = pack_of(store, 100, "optim")
    pack.unlink()
    ran = cli("verify", store, "--json")
    assert ran.code == 20
    (problem,) = ran.document["problems"]
    assert problem["kind"] == "missing-object"
    assert problem["where"] == f"packs/{pack.parent.name}/{pack.name}"
    assert problem["offset"] is None
    # Later steps have blocks of the first one.
    assert {"step": "main:100", "fqn": None} in problem["affected"]
    assert "main:100" in cli("verify", store).out


def test_a_damaged_manifest_is_a_problem_of_its_step_alone(cli: Run, store: Path) -> None:
    flip(manifest(store, 200), 60)
    manifest(store, 300).write_bytes(b"DKMANI99" + manifest(store, 300).read_bytes()[8:])
    problems = cli("verify", store, "--json").document["problems"]
    assert [(problem["kind"], problem["affected"]) for problem in problems] == [
        ("corrupt-object", [{"step": "main:200", "fqn": None}]),
        ("unknown-version", [{"step": "main:300", "fqn": None}]),
    ]


def test_what_no_step_lists_is_no_problem(cli: Run, store: Path) -> None:
    (store / "packs" / "00").mkdir(exist_ok=True)
    (store / "packs" / "00" / ("0" * 64)).write_bytes(b"x" * 2048)
    ran = cli("verify", store)
    assert ran.code == 0
    assert "2.0 KiB are in no step" in ran.out
    assert cli("verify", store, "--json").document["unreferenced_bytes"] == 2048


def test_many_affected_tensors_are_counted(cli: Run, store: Path) -> None:
    for path in (store / "indexes").iterdir():
        path.unlink()
    out = cli("verify", store).out
    assert "main:100" in out
    assert "tuned:250" in out
    assert max(len(line) for line in out.splitlines()) < 500


def test_repair_from_a_copy_and_what_stays_lost(cli: Run, store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    whole = pack_of(store, 100, "model").read_bytes()
    flip(pack_of(store, 100, "model"), 70)
    without = cli("verify", store, "--repair")
    assert without.code == 20
    assert "cannot repair packs/" in without.out
    assert "main:100" in without.out
    assert "`--repair --from COPY` takes the rest" in without.err
    assert "--drop" in without.err
    repaired = cli("verify", store, "--deep", "--repair", "--from", copy)
    assert repaired.code == 0
    assert "from another store" in repaired.out
    assert pack_of(store, 100, "model").read_bytes() == whole


def test_a_pack_cut_short_is_one_row(cli: Run, store: Path) -> None:
    pack = pack_of(store, 100, "model")
    pack.write_bytes(pack.read_bytes()[:30])
    problems = cli("verify", store, "--deep", "--json").document["problems"]
    assert len(problems) > 2
    assert {problem["where"] for problem in problems} == {f"packs/{pack.parent.name}/{pack.name}"}
    ran = cli("verify", store, "--deep")
    assert ran.out.count(pack.name) == 1
    assert f"{len(problems)} problems in 1 object" in ran.out


def test_options_of_repair_alone_are_refused(cli: Run, store: Path) -> None:
    for arguments in (["--drop"], ["--from", store]):
        ran = cli("verify", store, *arguments)
        assert ran.code == 2
        assert "add --repair" in ran.err


def test_unsigned_steps_are_problems(cli: Run, store: Path, tmp_path: Path) -> None:
    assert cli("keygen", tmp_path / "lab.key").code == 0
    ran = cli("verify", store, "--signed-by", tmp_path / "lab.key.pub")
    assert ran.code == 20
    assert "this key has not signed the step" in ran.out
    assert cli("sign", store, "--key", tmp_path / "lab.key").code == 0
    assert cli("verify", store, "--signed-by", tmp_path / "lab.key.pub").code == 0
    assert cli("sign", store, "--key", tmp_path / "lab.key.pub").code == 2
