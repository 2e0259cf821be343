"""Imported files of a step that call more than checkpoints are made of when they are unpickled. Reads pickles alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from deltackpt.errors import DeltackptError
from deltackpt.format.manifest import Manifest
from deltackpt.formats.original import original_images
from deltackpt.formats.parsers.calls import foreign_calls
from deltackpt.formats.parsers.pickles import parse_pickle
from deltackpt.formats.parsers.recognise import read_saved
from deltackpt.formats.recipe import FILE
from deltackpt.formats.recorded import read_infos
from deltackpt.formats.saved import ImageReadable
from deltackpt.formats.source import StepSource
from deltackpt.store.opened import OpenStore

__all__ = ["suspect_calls"]

_SAVED: Final = ("torch-zip", "torch-legacy")


def suspect_calls(store: OpenStore, manifest: Manifest, *, threads: int) -> dict[str, Sequence[str]]:
    """Path to the functions and classes that it calls, for each file with any; nothing is called here.

    Empty for a step that was saved from memory. What cannot be read as a pickle has none.

    Raises:
        CorruptObjectError, MissingObjectError: a part of the store is damaged or gone.
    """
    if not any(entry.encoding == FILE for entry in manifest.entries):
        return {}
    source = StepSource(store, manifest, threads)
    formats = {info.path: info.format for info in read_infos(store, manifest, threads=threads)}
    pickles = {path for path, name in formats.items() if name in (*_SAVED, "pickle")}
    found: dict[str, Sequence[str]] = {}
    for image in original_images(source):
        if image.path in pickles:
            calls = _calls(ImageReadable(source, image), formats[image.path])
            if calls:
                found[image.path] = calls
    return found


def _calls(file: ImageReadable, name: str) -> Sequence[str]:
    try:
        if name == "pickle":
            return foreign_calls(parse_pickle(file.bytes(0, file.size), where=str(file.path))[0])
        saved = read_saved(file)
    except DeltackptError as error:
        if error.where == str(file.path):
            return ()
        raise
    return () if isinstance(saved, str) else foreign_calls(saved.value)
