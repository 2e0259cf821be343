from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.text import Tokenizer, read_sources

SAMPLE = b"def make_all(self, value):\n    return [self.make(value) for value in self.values]\n" * 20
TOKENIZER = Tokenizer.train(SAMPLE, 280)


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
def test_any_bytes_survive(data: bytes) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(data)) == data


def test_frequent_pieces_become_one_id() -> None:
    ids = TOKENIZER.encode(b" value")
    assert ids.dtype == np.uint16
    assert len(ids) == 1
    assert ids[0] >= 256
    assert TOKENIZER.encode(b"zyx").tolist() == list(b"zyx")


def test_the_vocabulary_is_bounded_and_the_same_each_time() -> None:
    assert len(Tokenizer.train(SAMPLE, 260).pieces) == 260
    assert Tokenizer.train(SAMPLE, 280).pieces == TOKENIZER.pieces


def test_a_tokenizer_needs_every_byte() -> None:
    with pytest.raises(ValueError, match="single bytes"):
        Tokenizer([b"a", b"b"])


def test_sources_of_the_standard_library() -> None:
    text = read_sources(1 << 18)
    assert len(text) == 1 << 18
    assert text == read_sources(1 << 18)
    assert b"import " in text
    assert len(Tokenizer.train(text, 512).encode(text)) < len(text) / 1.5


def test_sources_come_in_path_order_without_tables_and_tests(tmp_path: Path) -> None:
    for name in ("b.py", "a/z.py", "a/readme.txt", "test/t.py", "a/tests/t.py", "encodings/e.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"<{name}>".encode())
    assert read_sources(13, tmp_path) == b"<a/z.py><b.py"


@pytest.mark.parametrize("name", ["", "absent"])
def test_a_python_without_sources_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="too few to train on"):
        read_sources(1 << 20, tmp_path / name)
