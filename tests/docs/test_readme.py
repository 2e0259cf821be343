"""What the README shows works, in both languages; and the pages of this repository link to what is there."""

from __future__ import annotations

import ast
import re
import shlex
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deltackpt import Store
from deltackpt.cli.main import main
from tests.formats.values import identical

ROOT = Path(__file__).parents[2]
README, CHINESE = "README.md", "README.zh-CN.md"
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / README, ROOT / CHINESE, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL)


def command_lines(page: str) -> list[list[str]]:
    """The words of each line of the bash blocks, without comments."""
    lines = (line for block in blocks(page, "bash") for line in block.splitlines())
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def links(page: str) -> list[str]:
    """The relative links of a page, without their fragments."""
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    targets = (target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)", text))
    return [target for target in targets if target and not re.match(r"[a-z][a-z0-9+.-]*:", target)]


@dataclass(frozen=True, slots=True)
class Example:
    """The Python examples of a page, after they ran in the current folder: what they printed, what they began with."""

    page: str
    printed: str
    model: dict[str, Any]
    optim: dict[str, Any]


@pytest.fixture(params=[README, CHINESE])
def example(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Example:
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 16)).square().sum().backward()
    optimizer.step()
    weights, optim = deepcopy(dict(model.state_dict())), deepcopy(optimizer.state_dict())
    namespace = {"__name__": "example", "model": model, "optimizer": optimizer}
    for block in blocks(request.param, "python"):
        exec(compile(block, request.param, "exec"), namespace)  # noqa: S102 - of this repository
    return Example(request.param, capsys.readouterr().out, weights, optim)


def test_the_python_examples_work(example: Example) -> None:
    assert example.printed.startswith("1000 {'loss': 2.31} ")
    (info,) = Store.open("runs/gpt").steps()
    assert (info.step, info.branch, dict(info.metrics), info.is_key) == (1000, "main", {"loss": 2.31}, True)
    assert identical(torch.load("out/model.pt", weights_only=True), example.model)
    assert identical(torch.load("out/optim.pt", weights_only=True), example.optim)
    assert torch.load("out/train.pt", weights_only=True) == {"step": 1000}


def test_the_commands_work(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    ran: dict[str, list[str]] = {}
    for program, *arguments in command_lines(example.page):
        if program == "make":
            assert all(re.search(rf"^{target}:", read("Makefile"), re.MULTILINE) for target in arguments), arguments
            continue
        assert program == "deltackpt"
        assert main(arguments) == 0, f"{arguments}\n{capsys.readouterr().err}"
        ran.setdefault(arguments[0], arguments)
    assert ran.keys() >= {"log", "show", "restore", "verify", "import", "prune", "gc", "repack"}
    out = Path(ran["restore"][-1])
    assert identical(torch.load(out / "model.pt", weights_only=True), example.model)
    assert Path("files/model.pt").read_bytes() == Path("out/model.pt").read_bytes()


def headings(page: str) -> list[str]:
    return re.findall(r"^(#+) ", re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL), re.MULTILINE)


def numbers(page: str) -> Counter[str]:
    """All figures; not those inside of names such as fp32."""
    return Counter(re.findall(r"(?<![A-Za-z0-9_.])\d+(?:\.\d+)*", read(page)))


def code(page: str) -> list[str]:
    """The Python examples without comments."""
    return [ast.dump(ast.parse(block)) for block in blocks(page, "python")]


@pytest.mark.parametrize("part", [headings, numbers, code, command_lines])
def test_both_languages_say_the_same(part: Callable[[str], object]) -> None:
    assert part(README)
    assert part(CHINESE) == part(README)


def test_both_languages_link_to_the_same_pages() -> None:
    english, chinese = links(README), links(CHINESE)
    assert english[-1:] == [CHINESE]
    assert chinese == [*english[:-1], README]


@pytest.mark.parametrize("page", [page for page in PAGES if links(page)])
def test_links_point_to_what_is_there(page: str) -> None:
    folder = (ROOT / page).parent
    assert [target for target in links(page) if not (folder / target).exists()] == []
