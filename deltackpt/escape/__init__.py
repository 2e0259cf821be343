"""The way out: what every store holds so that its tensors can be read without this package."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["reader_source", "readme_text"]


def reader_source() -> bytes:
    """The text of ``reader.py``: a script that reads a store with numpy and zstandard alone."""
    return files(__name__).joinpath("reader.py").read_bytes()


def readme_text() -> bytes:
    """The text of ``README.txt``: what a store's folder holds and how to get tensors out of it."""
    return files(__name__).joinpath("README.txt").read_bytes()
