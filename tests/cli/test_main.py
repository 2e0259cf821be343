from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import deltackpt
from deltackpt.cli import copy, diff, doctor, init, log, restore, show, stats, verify
from deltackpt.cli.main import app
from tests.cli.helpers import Run

COMMANDS = (init, log, show, diff, stats, restore, copy, verify, doctor)

STARTS_WITHOUT_TORCH = """
import sys
from deltackpt.cli.main import main
store, new = sys.argv[1:]
commands = ["init", new], ["log", store], ["show", store, "latest"], ["stats", store], ["doctor"]
commands += ["verify", store, "--deep"], ["diff", store, "100", "300"], ["log", store, "--where", "step > 1"]
for arguments in commands:
    main(arguments)
loaded = [name for name in ("torch", "safetensors", "yaml") if name in sys.modules]
sys.exit(f"loaded: {loaded}" if loaded else 0)
"""


def python(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("module", COMMANDS, ids=lambda module: str(module.NAME))
def test_every_command_has_help_with_an_example(module: object) -> None:
    name, example = module.NAME, module.EXAMPLE  # type: ignore[attr-defined]
    ran = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert ran.exit_code == 0
    assert example in ran.output
    assert "--json" in ran.output


def test_options_without_a_value_show_none_in_the_help(cli: Run) -> None:
    for arguments in (["-h"], ["log", "--help"], ["prune", "-h"]):
        ran = cli(*arguments)
        assert ran.code == 0
        assert "<bool>" not in ran.out


@pytest.mark.parametrize("module", COMMANDS, ids=lambda module: str(module.NAME))
def test_the_examples_in_help_are_understood(
    module: object, cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(module.EXAMPLE)  # type: ignore[attr-defined]
    assert words[0] == "deltackpt"
    # There is no such store here; wrong options would be an error before that.
    assert cli(*words[1:]).code == (0 if words[1] in ("init", "doctor") else 10)


def test_the_version(cli: Run) -> None:
    ran = cli("--version")
    assert (ran.code, ran.out, ran.err) == (0, f"deltackpt {deltackpt.__version__}\n", "")


def test_without_a_command_there_is_help(cli: Run) -> None:
    ran = cli()
    assert ran.code == 2
    for module in COMMANDS:
        assert module.NAME in ran.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lgo", "store"], "lgo"),
        (["log"], "STORE"),
        (["log", "store", "--oops"], "--oops"),
        (["log", "store", "-n", "0"], "-n"),
        (["log", "store", "more"], "more"),
        (["show", "store"], "STEP"),
    ],
)
def test_wrong_usage(cli: Run, arguments: list[str], said: str) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    error, hint = ran.err.splitlines()
    assert error.startswith("error: ")
    assert said in error
    assert "--help" in hint
    ran = cli(*arguments, "--json")
    assert (ran.code, ran.err) == (2, "")
    assert ran.error["kind"] == "usage"
    assert said in ran.error["message"]
    assert set(ran.error) == {"kind", "message", "where", "offset", "hint"}


def test_json_after_two_dashes_is_an_argument(cli: Run) -> None:
    ran = cli("log", "--", "--json")
    assert (ran.code, ran.out) == (10, "")
    assert "error: " in ran.err


@pytest.mark.parametrize(
    "command", [["log"], ["show", "1"], ["restore", "1", "--out", "o"], ["verify"]], ids=lambda c: c[0]
)
def test_what_is_no_store(cli: Run, tmp_path: Path, command: list[str]) -> None:
    def run(at: Path) -> object:
        name, *rest = command
        text, ran = cli(name, at, *rest), cli(name, at, *rest, "--json")
        assert ran.code == text.code
        assert text.out == ran.err == ""
        assert text.err.splitlines() == [
            f"error: {ran.error['where']}: {ran.error['message']}",
            f"hint: {ran.error['hint']}",
        ]
        assert str(at) in ran.error["where"] or ran.error["where"] == "store.json"
        return ran.code, ran.error["kind"]

    assert run(tmp_path / "nothing") == (10, "store-not-found")
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "folder").mkdir()
    assert run(tmp_path / "folder") == (11, "not-a-store")
    (tmp_path / "file").write_text("a file")
    assert run(tmp_path / "file") == (11, "not-a-store")
    (tmp_path / "folder" / "store.json").write_text("{}")
    assert run(tmp_path / "folder") == (11, "not-a-store")


def test_a_store_of_a_newer_version(cli: Run, store: Path) -> None:
    config = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps({**config, "format": 99}))
    ran = cli("log", store, "--json")
    assert ran.code == 23
    assert ran.error["kind"] == "unknown-version"
    assert "99" in ran.error["message"]
    assert "newer" in ran.error["hint"]


def test_a_store_whose_configuration_is_damaged(cli: Run, store: Path) -> None:
    config = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps({**config, "id": "?"}))
    ran = cli("log", store, "--json")
    assert ran.code == 20
    assert ran.error["where"].endswith("store.json")


def test_an_unforeseen_error_is_one_line(cli: Run, saved_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("boom\nsecond line")

    monkeypatch.setattr("deltackpt.cli.log.visible_steps", fail)
    ran = cli("log", saved_store)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines()[0] == "error: unexpected ZeroDivisionError: boom\\nsecond line"
    assert "report" in ran.err.splitlines()[1]
    assert "Traceback" not in ran.err
    assert cli("log", saved_store, "--json").error["kind"] == "internal"

    assert "Traceback" in cli("--debug", "log", saved_store).err
    monkeypatch.setenv("DELTACKPT_DEBUG", "1")
    ran = cli("log", saved_store)
    assert (ran.code, ran.out) == (1, "")
    assert "Traceback" in ran.err
    monkeypatch.setenv("DELTACKPT_DEBUG", "0")
    assert "Traceback" not in cli("log", saved_store).err


def test_an_interrupt(cli: Run, saved_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deltackpt.cli.log.visible_steps", interrupt)
    ran = cli("log", saved_store)
    assert (ran.code, ran.out, ran.err) == (130, "", "error: interrupted\n")


def test_torch_is_not_loaded(saved_store: Path, tmp_path: Path) -> None:
    ran = python("-c", STARTS_WITHOUT_TORCH, saved_store, tmp_path / "new")
    assert ran.returncode == 0, ran.stderr
    assert "main:300" in ran.stdout


def test_a_module_can_be_run(saved_store: Path) -> None:
    ran = python("-m", "deltackpt", "log", saved_store, "--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(json.loads(ran.stdout)["steps"]) == 3


def test_a_reader_that_goes_away_is_no_error(saved_store: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "deltackpt", "log", str(saved_store)],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert (ran.returncode, ran.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_output_that_cannot_be_written_is_an_error(saved_store: Path, options: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "deltackpt", "log", str(saved_store), *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ran.returncode == 40
    error, hint = ran.stderr.splitlines()
    assert error.startswith("error: standard output: ")
    assert hint.startswith("hint: ")


def test_a_name_that_is_no_text_is_shown_with_escapes(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/n\xff\x1b[31m"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(
        [sys.executable, "-m", "deltackpt", "log", name], capture_output=True, env=environment, check=False
    )
    assert ran.returncode == 10
    assert b"n\\udcff\\x1b[31m" in ran.stderr
    assert b"Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [("deltackpt rest", ["restore"]), ("deltackpt init --chain ", ["auto", "previous", "anchor", "skip"])],
)
def test_completion(words: str, found: list[str]) -> None:
    environment = {
        **os.environ,
        "_DELTACKPT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    ran = python("-m", "deltackpt", env=environment)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.split() == found


def test_the_completion_script_can_be_shown(cli: Run) -> None:
    ran = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert "--install-completion" in ran.output
    assert "--show-completion" in ran.output


def test_help_speaks_of_no_types(cli: Run) -> None:
    for command in get_command(app).commands:  # type: ignore[attr-defined]
        assert not re.search("<(str|int|float|path|bool|integer|text)>", cli(command, "--help").out), command
