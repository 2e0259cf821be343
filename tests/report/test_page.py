"""The page: whole in itself, true to the data, and safe whatever names a store has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from deltackpt.report.page import render_page
from tests.report.made import EVIL, made


class _Tags(HTMLParser):
    """Counts elements, and keeps text and what could load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.text: list[str] = []
        self.suspects: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            if name.startswith("on") or (name in {"src", "href"} and value != "data:,"):
                self.suspects.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(made())


def parsed(page: str) -> _Tags:
    found = _Tags()
    found.feed(page)
    return found


def test_names_from_a_store_stay_text(page: str) -> None:
    found = parsed(page)
    assert found.suspects == []
    assert "img" not in found.tags
    assert found.tags["script"] == 3
    assert EVIL in "".join(found.text)


def test_nothing_may_be_loaded(page: str) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "http" not in policy[1]


def test_the_charts_are_in_the_page(page: str) -> None:
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    charts = json.loads(found[1])
    assert [chart["name"] for chart in charts] == re.findall(r'class="plot" id="(\w+)"', page)
    assert all("template" not in chart["layout"] for chart in charts)


def test_every_step_is_in_the_table(page: str) -> None:
    rows = page.split("<tbody>")[1].split("</tbody>", maxsplit=1)[0]
    assert rows.count("<tr>") == len(made().steps)
    assert "9.78x" in rows


def test_a_store_without_steps_has_a_page() -> None:
    page = render_page(made(()))
    assert "Plotly" not in page
    assert "<b>0</b>" in page


def browse(path: Path, *arguments: str) -> tuple[str, list[str]]:
    """The page as a headless browser has it, and what it had to say of it."""
    browser = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no browser: install chromium")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000"]
    ran = subprocess.run(
        [*command, "--enable-logging=stderr", *arguments, "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return ran.stdout, [line for line in ran.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("width", [400, 1600])
def test_a_browser_draws_it_without_complaint(page: str, tmp_path: Path, width: int) -> None:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    drawn, said = browse(path, f"--window-size={width},900")
    assert said == []
    assert drawn.count('class="plot js-plotly-plot"') == 6
    assert "<script>alert" not in drawn


def test_a_browser_would_complain(page: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page.replace("</body>", "<script>fetch('https://example.com/')</script></body>"), encoding="utf-8")
    _, said = browse(path)
    assert any("Content Security Policy" in line for line in said)
