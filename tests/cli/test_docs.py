"""What the pages say is what the package does: the table of errors, the examples, the keys of the JSON."""

from __future__ import annotations

import re
import shlex
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deltackpt import Store, errors
from deltackpt.store.pending import Announcement
from deltackpt.store.signing_keys import make_keys
from tests.cli.helpers import Run, flip, manifest, pack_of, save

DOCS = Path(__file__).parents[2] / "docs"
CLI = (DOCS / "cli.md").read_text()
ERRORS = (DOCS / "errors.md").read_text()

# Members of these objects have names of the user's choice.
FREE = {"metrics", "artifacts", "writer", "packages"}


def test_the_table_of_errors_is_complete() -> None:
    documented = re.findall(r"^\| `([a-z-]+)` \| `(\w+)` \| (\d+) \| (.+) \| (.+) \|$", ERRORS, re.MULTILINE)
    classes = [getattr(errors, name) for name in errors.__all__]
    assert sorted((kind, name, int(code)) for kind, name, code, _, _ in documented) == sorted(
        (cls.kind, cls.__name__, cls.exit_code) for cls in classes
    )
    assert len({cls.kind for cls in classes}) == len(classes)
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.DeltackptError)
    }
    assert defined == set(errors.__all__)


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Fenced blocks of a page: language and text."""
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


def fits(lines: list[str], pattern: list[str]) -> bool:
    """Whether lines are as shown: `…` stands for any text, alone on a line for any lines; spaces count as one."""
    if not pattern:
        return not lines
    if pattern[0] == "…":
        return any(fits(lines[skip:], pattern[1:]) for skip in range(len(lines) + 1))
    if not lines:
        return False
    expected = ".*".join(re.escape(part) for part in " ".join(pattern[0].split()).split("…"))
    return re.fullmatch(expected, " ".join(lines[0].split())) is not None and fits(lines[1:], pattern[1:])


@pytest.mark.parametrize(("page", "least"), [("cli.md", 8), ("repair.md", 3), ("import.md", 6)])
def test_the_examples_work(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, least: int) -> None:
    monkeypatch.chdir(tmp_path)
    if page == "import.md":
        make_checkpoints(tmp_path)
    commands = 0
    names = {"__name__": "example"}
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, f"docs/{page}", "exec"), names)  # noqa: S102 - of this repository
            continue
        assert language == "console"
        for example in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, *shown = example.splitlines()
            program, *arguments = shlex.split(command)
            assert program == "deltackpt"
            ran = cli(*arguments)
            assert (ran.code != 0) == any(line.startswith(("error: ", "hint: ")) for line in shown), command
            assert fits((ran.out + ran.err).splitlines(), shown), f"{command}\n{ran.out}{ran.err}"
            commands += 1
    assert commands >= least


def make_checkpoints(folder: Path) -> None:
    """The checkpoints that the page on imports speaks of."""
    for step in (1000, 2000, 1):
        weights = {"wte.weight": torch.linspace(1, 2, 4096) * (1 + step * 1e-6)}
        made = folder / ("weights" if step == 1 else "checkpoints") / f"step{step}-unsharded"
        made.mkdir(parents=True)
        (made / "config.yaml").write_text("run_name: small")
        torch.save(weights, made / "model.pt")
        if step > 1:
            torch.save({"state": {"wte.weight": {"exp_avg": weights["wte.weight"] / 8}}}, made / "optim.pt")
            torch.save({"global_step": step}, made / "train.pt")


def section(title: str) -> str:
    found = re.search(rf"^###? {re.escape(title)}\n(.*?)(?=^##|\Z)", CLI, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def documented_keys(title: str) -> set[str]:
    """The first column of the last table of a section."""
    keys: set[str] = set()
    for row in section(title).split("| key |")[-1].splitlines():
        if row.startswith("| `"):
            keys.update(re.findall(r"`([^`]+)`", row.split("|")[1]))
    return keys


def keys_of(value: Any, path: str = "") -> set[str]:
    """The paths of all values in a document, as the page writes them."""
    if isinstance(value, list):
        return {key for member in value for key in keys_of(member, f"{path}[]")} if value else set()
    if isinstance(value, dict) and set(value) != {"float"}:
        free = path.rsplit(".", 1)[-1] in FREE
        dot = "." if path else ""
        return {
            key for name, member in value.items() for key in keys_of(member, f"{path}{dot}{'NAME' if free else name}")
        }
    return {re.sub(r"(shape|has|wanted)\[\]$", r"\1", path)}


def with_steps(keys: set[str], prefix: str) -> set[str]:
    """Keys in which ``prefix`` stands for a step object."""
    return (keys - {prefix}) | {f"{prefix}.{key}".lstrip(".") for key in documented_keys("The step object")}


def checkpoints(folder: Path) -> Path:
    """Three checkpoints: one lacks files, one cannot be understood, one is damaged; and one that is unfinished."""
    for step in (1, 2, 3):
        (folder / f"step{step}-unsharded").mkdir(parents=True)
    (folder / "step1-unsharded" / "config.yaml").write_text("run_name: small")
    torch.save({}, folder / "step1-unsharded" / "model.pt")
    with zipfile.ZipFile(folder / "step2-unsharded" / "model.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("archive/data.pkl", b"N.")
    (folder / "step3-unsharded" / "model.pt").write_bytes(b"")
    (folder / "step4-unsharded-tmp").mkdir()
    return folder


def other_weights(folder: Path) -> Path:
    """Weights of which one is new, one is gone, and one has another shape and dtype."""
    folder.mkdir()
    torch.save({"weight": torch.ones(1).half(), "new": torch.ones(1)}, folder / "model.pt")
    return folder


COMMANDS = [
    "init",
    "estimate",
    "import",
    "log",
    "show",
    "restore",
    "diff",
    "stats",
    "report",
    "check",
    "copy",
    "eject",
    "watch",
    "annotate",
    "tag",
    "untag",
    "branch",
    "prune",
    "gc",
    "repack",
    "verify",
    "protect",
    "keygen",
    "sign",
    "doctor",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_keys_of_the_json_are_documented(cli: Run, store: Path, tmp_path: Path, command: str) -> None:
    make_keys(tmp_path / "lab.key")
    Store.open(store).tag(300, "paper")
    Store.open(store).tag(100, "early")
    if command in ("prune", "branch"):
        save(str(store), 260, branch="tuned")
        named = Store.open(store).step(100 if command == "prune" else "tuned:250").manifest
        Announcement(Store.open(store).opened, "main", 400).claim([named])
        if command == "prune":
            flip(manifest(store, 200), 60)
    elif command not in ("sign", "gc", "estimate"):
        flip(manifest(store, 200), 60)
        flip(pack_of(store, 300, "model"), 70)
    if command == "verify":
        shutil.copytree(store, tmp_path / "copy")
        flip(pack_of(store, 100, "model"), 70)
    options: dict[str, list[object]] = {
        "init": [tmp_path / "new", "--config"],
        "estimate": [store],
        "import": [checkpoints(tmp_path / "checkpoints"), "--store", store, "--branch", "files"],
        "log": [store, "--all"],
        "show": [store, "300"],
        "restore": [store, "100", "--out", tmp_path / "out"],
        "diff": [store, "100", "100"],
        "stats": [store],
        "report": [store, "--out", tmp_path / "report.html"],
        "check": [store, "100", "--against", other_weights(tmp_path / "weights")],
        "copy": [store, tmp_path / "other", "--steps", "tuned:latest", "--steps", "tag:early"],
        "eject": [store, "--out", tmp_path / "all"],
        "watch": [checkpoints(tmp_path / "run"), "--store", store, "--branch", "watched", "--once"],
        "annotate": [store, "300", "a=1"],
        "tag": [store],
        "untag": [store, "paper"],
        "branch": [store, "tuned", "--delete"],
        "prune": [store, "--keep-last", "1", "--rebase"],
        "gc": [store, "--dry-run"],
        "repack": [store, "--branch", "tuned", "--dry-run"],
        "verify": [store, "--deep", "--repair", "--from", tmp_path / "copy"],
        "protect": [store],
        "keygen": [tmp_path / "new.key"],
        "sign": [store, "--key", tmp_path / "lab.key"],
        "doctor": [],
    }
    documented = documented_keys(f"`deltackpt {command}`")
    if command == "log":
        documented = with_steps(documented, "steps[]")
    if command == "show":
        documented = with_steps(documented, "")
    shown = keys_of(cli(command, *options[command], "--json").document)
    if command == "gc":  # what is compacted depends on the store
        shown |= {"compacted[]"}
    if command == "stats":  # what there is to say depends on the store
        shown |= {"advice[]"}
    if command == "check":  # only imported files call anything
        shown = (shown - {"calls"}) | {"calls[].path", "calls[].names"}
    if command == "repack":  # nobody else saves
        shown |= {"spared[]"}
    if command == "estimate":  # only files that are not understood are worth a note
        shown |= {"notes[]"}
    if command == "verify":  # after that there are no problems
        shown |= keys_of(cli(command, *options[command], "--drop", "--json").document)
        shown -= {"problems", "repair.repaired", "repair.dropped"}  # empty in one of the two
    assert shown == documented


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_are_documented(command: str) -> None:
    import typer.main

    from deltackpt.cli.main import app

    documented = set(re.findall(r"^\| `(--?[a-z-]+)", section(f"`deltackpt {command}`"), re.MULTILINE))
    commands: Any = typer.main.get_command(app)
    options = {
        parameter.opts[-1] for parameter in commands.commands[command].params if parameter.param_type_name == "option"
    }
    assert documented == options - {"--json"}
