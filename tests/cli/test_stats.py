"""Statistics add up, and say what a look at every object says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deltackpt import Store
from deltackpt.errors import CorruptObjectError
from deltackpt.format.keys import pack_key
from deltackpt.format.pack import walk_pack
from tests.cli.helpers import Run, flip, manifest, save


def on_disk(path: Path, folder: str) -> int:
    return sum(file.stat().st_size for file in (path / folder).rglob("*") if file.is_file())


def record_bytes(path: Path) -> int:
    """The bytes of all records in all packs."""
    found = 0
    for file in (path / "packs").rglob("*"):
        if file.is_file():
            found += file.stat().st_size - 24 - 16
            assert list(walk_pack(file.read_bytes(), source=file.name))
    return found


def delete_step(path: Path, step: int, branch: str = "main") -> None:
    manifest(path, step, branch).unlink()


def a_state(seed: float) -> dict[str, Any]:
    weight = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * (1 + seed * 1e-6)
    moment = torch.randn(4096, generator=torch.Generator().manual_seed(int(seed)))
    model = {"w": weight, "frozen": torch.linspace(5, 6, 2048).cos(), "again": weight}
    return {"model": model, "optim": {"state": {"0": {"exp_avg": moment}}, "param_groups": [{"params": [0]}]}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store = Store.create(tmp_path / "run", chain="previous", key_every=16, block_elements=1024)
    for step in (1, 2, 3):
        save(store, step, a_state(step), metrics={"loss": 1.0})
    return tmp_path / "run"


def test_everything_adds_up(path: Path) -> None:
    stats = Store.open(path).stats()
    steps = Store.open(path).steps()
    assert [(s.step, s.is_key, s.raw_bytes, s.stored_bytes) for s in stats.steps] == [
        (info.step, info.is_key, info.raw_bytes, info.stored_bytes) for info in steps
    ]
    assert stats.pack_bytes == on_disk(path, "packs")
    assert stats.index_bytes == on_disk(path, "indexes")
    assert stats.manifest_bytes == on_disk(path, "manifests")
    assert stats.stored_bytes == sum(info.stored_bytes for info in steps)
    assert stats.raw_bytes == sum(info.raw_bytes for info in steps) == sum(role.raw_bytes for role in stats.roles)
    for shares in (stats.roles, stats.coders, stats.predictors):
        assert sum(share.stored_bytes for share in shares) == record_bytes(path)
        assert sum(share.records for share in shares) == sum(step.new_records for step in stats.steps)
    assert {role.name for role in stats.roles} == {"weight", "exp_avg", "other"}
    assert (stats.dead.objects, stats.dead.object_bytes, stats.dead.records, stats.dead.record_bytes) == (0, 0, 0, 0)
    assert stats.damaged == ()


def test_duplicates_are_counted(path: Path) -> None:
    first, second, third = Store.open(path).stats().steps
    # The objects of param_groups are equal in all steps; "frozen" has two blocks, "again" four.
    objects = len(Store.open(path).step(1).entries("optim.param_groups"))
    assert (first.duplicate_blocks, first.duplicate_bytes) == (4, 4096 * 4)
    assert second.duplicate_blocks == third.duplicate_blocks == 2 + 4 + objects
    assert second.duplicate_bytes >= (2048 + 4096) * 4
    saved = [info.writer["duplicates"] for info in Store.open(path).steps()]
    assert [s.duplicate_blocks for s in (first, second, third)] == saved


def test_what_deltas_save(path: Path) -> None:
    stats = Store.open(path).stats()
    roles = {role.name: role for role in stats.roles}
    assert (roles["weight"].delta_saved or 0) > 0.3
    assert abs(roles["exp_avg"].delta_saved or 0) < 0.05
    assert stats.steps[0].delta_saved is None
    assert all(step.delta_saved is not None for step in stats.steps[1:])


def test_a_lost_pack_takes_as_many_steps_along_as_are_then_broken(path: Path) -> None:
    for loss in Store.open(path).stats().losses:
        file = path / loss.key
        data = file.read_bytes()
        assert loss.bytes == len(data)
        file.unlink()
        broken = {a.split()[0] for p in Store.open(path).verify().problems for a in p.affected}
        file.write_bytes(data)
        assert len(broken) == loss.steps
        assert loss.steps in (1, 2, 3)
    assert {loss.artifact for loss in Store.open(path).stats().losses} <= {"model", "optim"}


def test_what_is_needed_for_others_only_and_what_is_dead(path: Path) -> None:
    before = Store.open(path).stats()
    delete_step(path, 1)
    stats = Store.open(path).stats()
    roles = {role.name: role for role in stats.roles}
    # Step 2 decodes its weights from those of step 1, which is gone.
    assert roles["(bases)"].records > 0
    live = sum(role.stored_bytes for role in stats.roles)
    assert live + stats.dead.record_bytes + on_disk_dead(path) == record_bytes(path)
    assert stats.pack_bytes + stats.index_bytes + stats.dead.object_bytes == before.pack_bytes + before.index_bytes
    for step in (2, 3):
        delete_step(path, step)
    stats = Store.open(path).stats()
    assert stats.steps == ()
    assert stats.dead.object_bytes == on_disk(path, "packs") + on_disk(path, "indexes")
    assert (stats.stored_bytes, stats.losses, stats.roles) == (0, (), ())


def on_disk_dead(path: Path) -> int:
    """The bytes of records in packs that no manifest names."""
    store = Store.open(path)
    named = {pack_key(pack.name) for info in store.steps() for pack in store.step(info.step).manifest.packs}
    files = [file for file in (path / "packs").rglob("*") if file.is_file()]
    return sum(f.stat().st_size - 40 for f in files if f.relative_to(path).as_posix() not in named)


def test_steps_whose_manifest_is_damaged_are_named(cli: Run, path: Path) -> None:
    flip(manifest(path, 2), 60)
    ran = cli("stats", path)
    assert ran.code == CorruptObjectError.exit_code
    assert "warning: main:2 is left out: " in ran.err
    assert "hint: run `deltackpt verify" in ran.err
    assert ran.out.splitlines()[0].startswith("steps       2, ")
    assert [step["step"] for step in cli("stats", path, "--json").document["steps"]] == [1, 3]


def test_advice(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "run", chain="previous", key_every=100, block_elements=1024)
    for step in range(1, 13):
        noise = torch.randn(50_000, generator=torch.Generator().manual_seed(step))
        weight = torch.linspace(1, 2, 4096).sin() + step * 1e-7
        state = {"model": {"w": weight}, "optim": {"state": {"0": {"exp_avg": noise}}, "param_groups": []}}
        save(store, step, state)
    stats = store.stats()
    said = "\n".join(stats.advice)
    assert "% of raw, delta " in said
    assert "keep the optimizer less often?" in said
    assert "exp_avg is " in said
    assert "8 more steps are like that" in said
    assert "one lost pack would take 12 of 12 steps along" in said


def test_the_text(cli: Run, path: Path) -> None:
    ran = cli("stats", path)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].startswith("steps       3, ")
    assert any(line.startswith("main:3") for line in lines)
    assert any(line.startswith("exp_avg ") for line in lines)
    store = Store.open(path)
    for step in range(10, 35):
        save(store, step, a_state(step))
    assert "the newest 20 of 28 steps; --steps shows all" in cli("stats", path).out
    assert "newest 20" not in cli("stats", path, "--steps").out


def test_no_steps_yet(cli: Run, tmp_path: Path) -> None:
    Store.create(tmp_path / "new")
    assert cli("stats", tmp_path / "new").out.startswith("no steps yet\n")
    document = cli("stats", tmp_path / "new", "--json").document
    assert (document["steps"], document["stored_bytes"], document["advice"]) == ([], 0, [])
