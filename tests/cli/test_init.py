from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest

from deltackpt import Store
from deltackpt.store.options import CHAINS, StoreOptions
from tests.cli.helpers import Run


def test_a_store_is_made_with_the_defaults_of_the_library(cli: Run, tmp_path: Path) -> None:
    ran = cli("init", tmp_path / "new")
    assert (ran.code, ran.err) == (0, "")
    assert str(tmp_path / "new") in ran.out
    assert "deltackpt log" in ran.out
    assert Store.open(tmp_path / "new").options == StoreOptions()


@pytest.mark.parametrize("chain", CHAINS)
def test_every_option_is_kept(cli: Run, tmp_path: Path, chain: str) -> None:
    options = {
        "chain": chain,
        "key_every": 3,
        "max_depth": 5,
        "block_elements": 4096,
        "pack_bytes": 1 << 20,
        "level": -3,
        "read_factor": 1.5,
    }
    arguments = [part for name, value in options.items() for part in ("--" + name.replace("_", "-"), str(value))]
    arguments[arguments.index("--pack-bytes") + 1] = "1MiB"
    ran = cli("init", tmp_path / "new", *arguments, "--json")
    assert ran.code == 0
    store = Store.open(tmp_path / "new")
    assert store.options.to_mapping() == options
    written = json.loads((tmp_path / "new" / "store.json").read_text())
    assert ran.document == {"url": store.url, **written, "config": None}


def test_where_a_store_is_none_is_made(cli: Run, tmp_path: Path) -> None:
    store = tmp_path / "new"
    assert cli("init", store).code == 0
    before = (store / "store.json").read_bytes()
    ran = cli("init", store, "--key-every", "2")
    assert ran.code == 12
    assert ran.out == ""
    assert f"error: {store}: there is a store already" in ran.err
    assert "hint: " in ran.err
    assert (store / "store.json").read_bytes() == before


def test_a_folder_with_something_else_is_left_alone(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    ran = cli("init", tmp_path, "--json")
    assert ran.code == 11
    assert ran.error["kind"] == "not-a-store"
    assert "notes.txt" in ran.error["message"]
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--chain", "next", "previous, anchor"),
        ("--key-every", "0", "key_every"),
        ("--level", "99", "level"),
        ("--read-factor", "0.5", "read_factor"),
        ("--pack-bytes", "12 parsecs", "64MiB"),
        ("--pack-bytes", "1", "pack_bytes"),
        ("--max-depth", "many", "--max-depth"),
    ],
)
def test_an_option_without_sense_makes_nothing(cli: Run, tmp_path: Path, option: str, value: str, said: str) -> None:
    ran = cli("init", tmp_path / "new", option, value)
    assert ran.code == 2
    assert said in ran.err
    assert not (tmp_path / "new").exists()


def test_a_store_in_memory_is_refused(cli: Run) -> None:
    ran = cli("init", "memory://gone")
    assert ran.code == 2
    assert "memory://gone" in ran.err


def test_a_folder_that_cannot_be_written_is_named(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = cli("init", tmp_path / "file" / "store")
    assert ran.code in (11, 40)
    assert str(tmp_path / "file") in ran.err


SCRIPT = Path(sysconfig.get_path("scripts"), "deltackpt")


@pytest.mark.skipif(not SCRIPT.exists(), reason="the package is not installed here")
def test_the_script_is_installed_under_its_name(tmp_path: Path) -> None:
    ran = subprocess.run([SCRIPT, "init", tmp_path / "new"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "new" / "store.json").is_file()
