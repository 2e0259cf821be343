"""Checkpoints that are one file: Lightning's ``.ckpt``, and any other file that a user names or matches."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from deltackpt.errors import DeltackptError
from deltackpt.formats.importing.source import CheckpointFile, CheckpointSource
from deltackpt.formats.layouts.base import by_name
from deltackpt.formats.parsers.pickles import MAX_PICKLE_BYTES, Pairs, parse_pickle
from deltackpt.formats.parsers.source import SourceFile
from deltackpt.formats.parsers.torch_zip import find_pickle
from deltackpt.formats.parsers.zips import read_zip

__all__ = ["named_file", "single_file"]

_SUFFIXES: Final = (".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".npz", ".npy")

_STEP: Final = re.compile(r"(?:step|iter|iteration|checkpoint|ckpt)[-_=]?(\d+)", re.IGNORECASE)
_LAST_NUMBER: Final = re.compile(r"(\d+)(?=\D*$)")


def named_file(path: Path) -> CheckpointSource | None:
    """A file in a folder of checkpoints, if it is one by its name: a ``.ckpt``, or one that speaks of a step."""
    if path.suffix == ".ckpt" or (path.suffix in _SUFFIXES and _STEP.search(path.stem)):
        return single_file(path)
    return None


def _step_in_name(name: str) -> int | None:
    """The step that a name speaks of: the number after ``step`` or the like, else the last one in it."""
    found = _STEP.search(name) or _LAST_NUMBER.search(name)
    return None if found is None or len(found[1]) > 12 else int(found[1])


def single_file(path: Path, step: int | None = None) -> CheckpointSource | None:
    """A file as a checkpoint; None where nothing says which step it is.

    Args:
        step: its number, where it is known already.
    """
    if step is None:
        step = _step_in_name(path.name.rsplit(".", 1)[0])
    if step is None and path.suffix == ".ckpt":
        step = _global_step(path)
    if step is None:
        return None
    layout = "lightning" if path.suffix == ".ckpt" else "file"
    return CheckpointSource(step, path, layout, (CheckpointFile(path.name, path, by_name(path.name)),))


def _global_step(path: Path) -> int | None:
    """What Lightning writes into its files, such as ``last.ckpt``, whose names do not say it."""
    try:
        file = SourceFile(path)
        pickle = find_pickle({member.name: member for member in read_zip(file)})
        if pickle is None or pickle.length > MAX_PICKLE_BYTES:
            return None
        value, _ = parse_pickle(file.bytes(pickle.start, pickle.length), where=str(path))
    except DeltackptError:
        return None  # the import says what is wrong with it
    pairs = value.items if isinstance(value, Pairs) else []
    return next((v for k, v in pairs if k == "global_step" and type(v) is int and 0 <= v < 10**12), None)
