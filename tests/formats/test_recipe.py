from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.errors import CorruptObjectError, DeltackptError, InvalidArgumentError, InvalidNameError
from deltackpt.formats.recipe import (
    FileInfo,
    Segment,
    Structure,
    View,
    check_path,
    encode_info,
    encode_structure,
    parse_info,
    parse_structure,
)

INFO = FileInfo("a/model.pt", 30, 0o644, 1_700_000_000_123_456_789, "ab" * 32, "torch-zip", 50)
STRUCTURE = Structure(
    (Segment("", 0, 10), Segment("model.w", 4, 12), Segment("", 10, 5), Segment("model.v", 0, 3)),
    (View("model.t", "model.w", 12, 1, (2, 3), (1, 2)), View("model.s", "model.w", 12, 0, (), ())),
)


def test_info_comes_back() -> None:
    assert parse_info(encode_info(INFO), "file:a/model.pt") == INFO
    old = replace(INFO, mtime_ns=-5, mode=0, size=0)
    assert parse_info(encode_info(old), old.fqn) == old


def test_structure_comes_back() -> None:
    assert parse_structure(encode_structure(STRUCTURE), INFO) == STRUCTURE
    assert STRUCTURE.literals == 15


def test_an_empty_file_has_no_segments() -> None:
    empty = replace(INFO, size=0)
    assert parse_structure(encode_structure(Structure(())), empty) == Structure(())


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/./b", "a\nb", "a\x00b", "x" * 256, "a/" * 3000 + "a"],
)
def test_paths_that_leave_the_folder_are_refused(path: str) -> None:
    with pytest.raises(InvalidNameError):
        check_path(path)
    with pytest.raises(CorruptObjectError, match="path"):
        parse_info(json.dumps({**_info(), "path": path}).encode(), "file:" + path)


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidNameError, match="not text"):
        check_path("a\udcff")


@pytest.mark.parametrize("path", ["a", "a/b", "..a", "a..", "a b", "ä/漢", "-a", "~", "C:", "a\\b", "x" * 255])
def test_paths_that_are_fine(path: str) -> None:
    assert check_path(path) == path


def _info() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode_info(INFO))
    return found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", -1),
        ("size", 1.0),
        ("size", 1 << 63),
        ("mode", 0o10000),
        ("mtime_ns", "0"),
        ("sha256", "AB" * 32),
        ("sha256", "ab"),
        ("format", 1),
        ("structure", 0),
    ],
)
def test_a_description_with_a_wrong_field_is_refused(key: str, value: object) -> None:
    with pytest.raises(CorruptObjectError, match=key):
        parse_info(json.dumps({**_info(), key: value}).encode(), INFO.fqn)


def test_a_description_under_another_name_is_refused() -> None:
    with pytest.raises(CorruptObjectError, match=r"a/model\.pt"):
        parse_info(encode_info(INFO), "file:b")


def _structure() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode_structure(STRUCTURE))
    return found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("entries", [""]),
        ("entries", [1]),
        ("segments", [[0, 0, 31]]),
        ("segments", [[0, 0, 29]]),
        ("segments", [[0, 0, 30, 0]]),
        ("segments", [[0, 0, 30], [0, 30, 0]]),
        ("segments", [[3, 0, 30]]),
        ("segments", [[0, 1, 30]]),
        ("segments", [[0, 0, 15], [0, 14, 15]]),
        ("segments", [[1, -1, 30]]),
        ("segments", [[1, True, 30]]),
        ("segments", {}),
        ("views", [["n", 0, 12, 0, [], []]]),
        ("views", [["n", 1, 99, 0, [], []]]),
        ("views", [["n", 1, 12, 0, [1], []]]),
        ("views", [["n", 1, 12, -1, [], []]]),
        ("views", [["n", 1, 12, 0, [1] * 65, [1] * 65]]),
        ("views", [["n", 1, 12, 0, [1.0], [1]]]),
        ("views", [7]),
    ],
)
def test_a_structure_with_a_wrong_field_is_refused(key: str, value: object) -> None:
    with pytest.raises(CorruptObjectError) as caught:
        parse_structure(json.dumps({**_structure(), key: value}).encode(), INFO)
    assert caught.value.where == INFO.body


def test_what_cannot_be_read_back_is_not_written() -> None:
    with pytest.raises(InvalidArgumentError):
        encode_structure(Structure((Segment("", 3, 1),)))
    with pytest.raises(InvalidArgumentError):
        encode_info(replace(INFO, path="../x"))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for parse in (lambda: parse_info(data, "file:a"), lambda: parse_structure(data, INFO)):
        with pytest.raises(DeltackptError):
            parse()


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b.c"]), st.integers(1, 9)), max_size=20))
def test_any_structure_comes_back(parts: list[tuple[str, int]]) -> None:
    segments, literal = [], 0
    for fqn, length in parts:
        segments.append(Segment(fqn, 5 if fqn else literal, length))
        literal += 0 if fqn else length
    structure = Structure(tuple(segments))
    info = replace(INFO, size=sum(length for _, length in parts))
    assert parse_structure(encode_structure(structure), info) == structure
