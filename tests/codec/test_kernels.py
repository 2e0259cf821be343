"""Which kernels a process takes: the environment decides, and a lack of them is said once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deltackpt.codec import kernels
from deltackpt.codec.coders.rans import Rans
from deltackpt.codec.kernels import library
from deltackpt.codec.residual import Words
from deltackpt.codec.types import Prediction, Shape
from deltackpt.codec.workspace import Workspace
from deltackpt.errors import CorruptObjectError, InvalidArgumentError
from deltackpt.tensor.dtypes import by_name

F32 = by_name("float32")
WORDS = np.arange(5000, dtype="<u4") % 100


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Decides anew in each test, and for the tests that follow."""
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    kernels._chosen.cache_clear()
    yield
    kernels._chosen.cache_clear()


def payload() -> bytes:
    return encoded(Prediction())


def encoded(prediction: Prediction) -> bytes:
    shape, space = Shape(F32, WORDS.size), Workspace()
    out = np.empty(Rans().bound(shape), np.uint8)
    length = Rans().encode(WORDS, prediction, shape, Rans().survey(WORDS, prediction, shape, space), out, space)
    assert length is not None
    return out[:length].tobytes()


def decoded(data: memoryview | bytes, prediction: Prediction, shape: Shape) -> Words:
    out = np.empty(shape.words, shape.dtype.word)
    Rans().decode(memoryview(data), prediction, shape, out, Workspace(), source="test")
    return out


@pytest.mark.parametrize("wanted", ["numpy", *kernels.VARIANTS])
def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    expected = payload()
    kernels._chosen.cache_clear()
    monkeypatch.setenv(kernels.VARIABLE, wanted)
    if wanted != "numpy" and kernels.open_library(wanted)[0] is None:
        with pytest.raises(InvalidArgumentError, match=f"{wanted}, but"):
            kernels.status()
        return
    assert kernels.status().path == wanted
    assert (kernels.status().library is None) == (wanted == "numpy")
    assert payload() == expected
    shape = Shape(F32, WORDS.size)
    assert decoded(expected, Prediction(), shape).tolist() == WORDS.tolist()
    with pytest.raises(CorruptObjectError):
        decoded(expected[:-1], Prediction(), shape)


def test_a_name_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.VARIABLE, "sse9")
    with pytest.raises(InvalidArgumentError, match="sse9 names no kernels"):
        kernels.active()


def test_the_fastest_is_taken() -> None:
    found, _ = kernels.open_library()
    if found is None:
        pytest.skip("the kernels are not built here")
    assert kernels.status().path == found.variant
    faster = kernels.VARIANTS[kernels.VARIANTS.index(found.variant) + 1 :]
    assert all(kernels.open_library(name)[0] is None for name in faster)


@pytest.mark.parametrize("broken", [False, True])
def test_without_a_library_it_warns_once_and_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, broken: bool
) -> None:
    expected = payload()
    kernels._chosen.cache_clear()
    missing = tmp_path / "_kernels.so"
    if broken:
        missing.write_bytes(b"no library")
    monkeypatch.setattr(library, "LIBRARY", missing)
    with caplog.at_level(logging.WARNING, logger="deltackpt"):
        assert payload() == expected
        assert payload() == expected
    assert len(caplog.records) == 1
    assert "fall back to numpy" in caplog.text
    assert kernels.status().path == "numpy"
    assert ("do not load" if broken else "were not built") in kernels.status().reason


def test_contexts_of_any_width() -> None:
    shape = Shape(F32, WORDS.size)
    wide = (np.arange(WORDS.size) % 300).astype("<u4")
    narrow = np.minimum(wide, 255).astype(np.uint8)
    assert encoded(Prediction(context=wide)) == encoded(Prediction(context=narrow))
    assert decoded(encoded(Prediction(context=wide)), Prediction(context=wide), shape).tolist() == WORDS.tolist()
    with pytest.raises(CorruptObjectError, match="contexts for"):
        decoded(encoded(Prediction(context=wide)), Prediction(context=wide[1:]), shape)


def test_blocks_that_it_does_not_serve() -> None:
    for name, words in (("float64", 5), ("uint8", 5), ("float32", 0)):
        with pytest.raises(CorruptObjectError, match="not defined for"):
            decoded(b"\0\0\0\0\0", Prediction(), Shape(by_name(name), words))
