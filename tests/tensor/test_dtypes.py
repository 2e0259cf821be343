from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from deltackpt.errors import UnknownVersionError, UnsupportedDataError
from deltackpt.tensor.dtypes import DTYPES, DType, by_code, by_name

FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "format.md"
ROW = re.compile(r"\| (\d+) \| (\w+) \| (\d+) \| u(\d+)(?: \S2)? \| (int|float) \|")


def test_the_table_is_that_of_the_format_page() -> None:
    page = {
        (int(code), name, int(size), int(bits) // 8, kind)
        for code, name, size, bits, kind in ROW.findall(FORMAT_PAGE.read_text(encoding="utf-8"))
    }
    assert {(d.code, d.name, d.itemsize, d.word_bytes, d.kind) for d in DTYPES} == page
    assert len(page) == len(DTYPES)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_words_are_little_endian_and_make_up_elements(dtype: DType) -> None:
    assert dtype.word.itemsize == dtype.word_bytes
    assert np.array([1], dtype.word).tobytes()[0] == 1
    assert dtype.itemsize in (dtype.word_bytes, 2 * dtype.word_bytes)
    assert by_code(dtype.code) is dtype
    assert by_name(dtype.name) is dtype


@pytest.mark.parametrize("code", [0, 23, 255, -1])
def test_unknown_codes(code: int) -> None:
    with pytest.raises(UnknownVersionError, match=rf"packs/x, byte 7: unknown dtype code {code}"):
        by_code(code, where="packs/x", offset=7)


def test_unknown_names() -> None:
    with pytest.raises(UnsupportedDataError, match=r"w: dtype quint8 cannot be stored .*bfloat16"):
        by_name("quint8", where="w")
