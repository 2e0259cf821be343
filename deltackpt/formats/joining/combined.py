"""One file that holds model, optimizer and the rest: ``torch.save({"model": ..., "optimizer": ..., "step": ...})``.

So do the trainers of many scripts, and Lightning. Which part is what is told from the names of its members, by the
markers of ``tensor/roles.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from deltackpt.errors import DamagedFileError, UnsafeFileError
from deltackpt.formats.joining.base import Files, Joined
from deltackpt.formats.parsers.pickles import Call, Global, Pairs, Value
from deltackpt.formats.parsers.recognise import read_saved
from deltackpt.formats.saved import ImageReadable, build_value
from deltackpt.formats.torch_image import StoredTensors
from deltackpt.tensor.roles import marker_end

__all__ = ["join_combined"]

_SUFFIXES: Final = frozenset({".pt", ".pth", ".bin", ".ckpt", ".tar"})
# Of dicts around the parts, such as {"state": {"model": ..., "optimizer": ...}}.
_MOST_AROUND: Final = 3

Place = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """A member of the file's value: its place, and what it belongs to."""

    place: Place
    artifact: str
    node: Value


def join_combined(files: Files) -> Joined | None:
    """How the one file of torch of a step is taken apart; None where it is not one with parts, or there are others.

    The only part of a kind is its artifact, several are a dict of them; Lightning's list of a single optimizer is that
    optimizer. What is neither model nor optimizer makes up ``train``.
    """
    found = [image for path, image in files.images.items() if PurePosixPath(path).suffix in _SUFFIXES]
    if len(found) != 1 or any(path.endswith(".safetensors") for path in files.images):
        return None
    image = found[0]
    try:
        saved = read_saved(ImageReadable(files.source, image))
    except (DamagedFileError, UnsafeFileError):
        return None  # it was imported as bytes
    if isinstance(saved, str):
        return None
    parts = list(_parts(saved.value, ()))
    if not any(part.artifact == "model" for part in parts):
        return None

    def state(artifact: str) -> Callable[[StoredTensors], object]:
        own = [part for part in parts if part.artifact == artifact]

        def build(stored: StoredTensors) -> object:
            values = {part.place: build_value(saved, image, stored, part.node, part.place) for part in own}
            return _nested(values) if artifact == "train" else _only(values)

        return build

    kinds = dict.fromkeys(part.artifact for part in parts)
    return Joined({artifact: state(artifact) for artifact in kinds}, frozenset({image.path}))


def _parts(value: Value, place: Place) -> Iterator[_Part]:
    """The parts of a dict, and of dicts in it around parts."""
    for key, member in _members(value) or ():
        if not isinstance(key, str):
            continue
        where = (*place, key)
        marked = next((a for a in ("model", "optim") if marker_end(where[-1:], a)), None)
        if marked is not None and (isinstance(member, list) or _members(member) is not None):
            yield _Part(where, marked, member)
        elif len(where) < _MOST_AROUND and any(part.artifact == "model" for part in _parts(member, where)):
            yield from _parts(member, where)
        else:
            yield _Part(where, "train", member)


def _members(value: Value) -> list[tuple[Value, Value]] | None:
    """Those of a dict; None for anything else."""
    if isinstance(value, Pairs):
        return value.items
    is_dict = isinstance(value, Call) and value.function == Global("collections", "OrderedDict")
    return value.pairs if isinstance(value, Call) and is_dict else None


def _only(values: dict[Place, Any]) -> object:
    if len(values) > 1:
        return {".".join(place): value for place, value in values.items()}
    value = next(iter(values.values()))
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _nested(values: dict[Place, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for place, value in values.items():
        inner = found
        for key in place[:-1]:
            inner = inner.setdefault(key, {})
        inner[place[-1]] = value
    return found
