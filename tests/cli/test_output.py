from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from deltackpt.cli.output import Output, json_value, plain_table
from deltackpt.errors import InvalidArgumentError
from deltackpt.text import format_metric, format_size, parse_size, shown
from tests.cli.helpers import Terminal


def terminal(monkeypatch: pytest.MonkeyPatch, name: str, width: int = 60) -> Terminal:
    stream = Terminal()
    monkeypatch.setattr(sys, name, stream)
    monkeypatch.setenv("COLUMNS", str(width))
    return stream


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_shown(text: str) -> None:
    safe = shown(text)
    assert safe.isprintable()
    if text.isprintable():
        assert safe == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (1 << 20, "1.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (3 << 40, "3.0 TiB"),
        (1 << 62, "4.0 EiB"),
        (1 << 72, "4096.0 EiB"),
    ],
)
def test_sizes_are_written_in_binary_units(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("65536", 65536),
        ("64KiB", 65536),
        ("64 kib", 65536),
        ("64K", 65536),
        ("64kB", 64000),
        ("64MB", 64_000_000),
        ("2G", 2 << 30),
        ("1TiB", 1 << 40),
        ("7b", 7),
        (" 1M ", 1 << 20),
    ],
)
def test_sizes_are_read_in_both(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.5MiB", "1e6", "0x10", "1 MiB x", "1XB", "٣", "9" * 40])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is not a size") as caught:
        parse_size(text)
    assert caught.value.hint


@given(st.integers(0, 1 << 62))
def test_a_written_size_is_near_what_it_stands_for(size: int) -> None:
    number, unit = format_size(size).split()
    scale = parse_size(f"1{unit}")
    assert abs(float(number) * scale - size) <= 0.05 * scale + 1e-6 * size


def test_metrics_are_short() -> None:
    values = [2.3100000001, 3e-4, math.nan, -math.inf, 1200, True, None, "warm"]
    assert [format_metric(v) for v in values] == ["2.31", "0.0003", "nan", "-inf", "1200", "true", "none", "warm"]


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@given(json_like)
def test_every_document_is_strict_json(value: object) -> None:
    text = json.dumps(json_value(value), allow_nan=False)
    text.encode("ascii")
    json.loads(text)


def test_a_lone_surrogate_is_no_json() -> None:
    assert json_value({"a\udcff": "b\ud800"}) == {"a\\udcff": "b\\ud800"}


def test_columns_line_up_whatever_their_characters_take() -> None:
    lines = plain_table(["~name", ">size", "what"], [["重み", "1", "x"], ["weight", "1000", ""]]).splitlines()
    assert lines == ["name    size  what", "重み       1  x", "weight  1000"]
    assert cell_len(lines[1][: lines[1].index("1") + 1]) == len(lines[2])


def rows(names: Iterable[str]) -> list[list[str]]:
    return [[name, "1"] for name in names]


def test_a_terminal_folds_names_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch, "stdout", width=40)
    name = "".join(f"{n:03d}." for n in range(30))
    Output().table(["~name", ">blocks"], rows([name]))
    lines = Text.from_ansi(stream.getvalue()).plain.splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= 40
    text = "".join(line.split()[0] for line in lines[1:])
    assert text == name


def test_a_long_table_is_not_folded_even_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch, "stdout", width=20)
    names = [f"a.very.long.name.of.layer.{n}" for n in range(2000)]
    Output().table(["~name", ">blocks"], rows(names))
    assert [line.split()[0] for line in stream.getvalue().splitlines()[1:]] == names


def test_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stderr", plain)
    with Output().progress("verifying") as tick:
        assert tick is None
    assert plain.getvalue() == ""

    stream = terminal(monkeypatch, "stderr", width=100)
    with Output().progress("verifying", size=True) as tick:
        assert tick is not None
        tick(512, 2048)
        tick(4096, 2048)
    assert "verifying" in stream.getvalue()
    assert "2.0 KiB / 2.0 KiB" in stream.getvalue()


def test_json_leaves_progress_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(monkeypatch, "stderr")
    output = Output(as_json=True)
    with output.progress("verifying") as tick:
        assert tick is not None
        tick(1, 2)
    output.document({"ok": True})
    assert json.loads(capsys.readouterr().out) == {"ok": True}
