"""Whether a step fits what is to be resumed: names, shapes and dtypes of its tensors, without reading them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from deltackpt.backend.oserrors import os_errors
from deltackpt.errors import DamagedFileError, IncompleteStepError, InvalidArgumentError, TensorNotFoundError
from deltackpt.format.manifest import Manifest
from deltackpt.formats import nesting
from deltackpt.formats.expected import expected_shapes
from deltackpt.formats.parsers.calls import calls_text
from deltackpt.formats.parsers.dcp import read_dcp_metadata
from deltackpt.formats.parsers.recognise import parse_file
from deltackpt.formats.parsers.source import SourceFile
from deltackpt.formats.recipe import FILE_ROLE
from deltackpt.tensor.dtypes import by_code
from deltackpt.tensor.roles import Path as Place
from deltackpt.tensor.roles import classify_all, marker_end

__all__ = ["CheckReport", "Described", "compare", "describe_path", "describe_step"]

_CONFIGS: Final = ("config.yaml", "config.yml", "config.json")
_WEIGHTS: Final = ("*.safetensors", "model*.pt", "pytorch_model*.bin", "model*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class Described:
    """What is known of a tensor; the dtype is None where a config does not say it."""

    shape: tuple[int, ...]
    dtype: str | None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """How a step differs from what is wanted.

    Attributes:
        against: what it was compared with.
        tensors: how many tensors are wanted.
        missing: wanted, but not in the step.
        extra: in the step, but not wanted.
        shapes, dtypes: name to what the step has and what is wanted.
        calls: imported files of the step, and what each calls when it is unpickled that checkpoints are not made of.
    """

    against: str
    tensors: int
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    dtypes: Mapping[str, tuple[str, str]]
    calls: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there is no difference. What files call when they are unpickled is none."""
        return not (self.missing or self.extra or self.shapes or self.dtypes)

    @property
    def warnings(self) -> list[str]:
        """What to know of the files, a sentence each."""
        return [f"{path} {calls_text(names)}" for path, names in self.calls.items()]


def compare(have: Mapping[str, Described], want: Mapping[str, Described], against: str) -> CheckReport:
    """The differences between the tensors of a step and those that are wanted."""
    common = [name for name in want if name in have]
    return CheckReport(
        against=against,
        tensors=len(want),
        missing=tuple(name for name in want if name not in have),
        extra=tuple(name for name in have if name not in want),
        shapes={name: (have[name].shape, want[name].shape) for name in common if have[name].shape != want[name].shape},
        dtypes={
            name: (str(have[name].dtype), str(want[name].dtype))
            for name in common
            if want[name].dtype is not None and have[name].dtype != want[name].dtype
        },
    )


def describe_step(manifest: Manifest, artifact: str) -> dict[str, Described]:
    """The tensors of an artifact, by their names in its state dict.

    Raises:
        TensorNotFoundError: the step has no tensors of this artifact.
    """
    entries = [
        entry
        for entry in manifest.entries
        if entry.kind == "tensor" and entry.artifact == artifact and entry.role != FILE_ROLE
    ]
    if not entries:
        have = sorted({entry.artifact for entry in manifest.entries if entry.role != FILE_ROLE})
        raise TensorNotFoundError(
            f"the step has no tensors of the artifact {artifact!r}",
            where=str(manifest.header.key),
            hint=f"it has: {', '.join(have)}",
        )
    facts = {entry.fqn: Described(entry.shape, by_code(entry.dtype, where=entry.fqn).name) for entry in entries}
    parts = nesting.split_parts(nesting.Entry(e.fqn, e.path, artifact, facts[e.fqn]) for e in entries)
    return dict(_leaves(parts[artifact], ""))


def _leaves(value: object, name: str) -> Iterable[tuple[str, Described]]:
    if isinstance(value, Described):
        yield name, value
        return
    members: Iterable[tuple[object, object]] = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, member in members:
        yield from _leaves(member, f"{name}.{key}" if name else str(key))


def describe_path(path: Path, artifact: str) -> dict[str, Described]:
    """The tensors of a file, a folder of weights, a folder of DCP, or a model by its config. Nothing is unpickled.

    Raises:
        InvalidArgumentError: there is nothing, or nothing that has tensors.
        UnsupportedDataError: the config is not of a known model.
        DamagedFileError, UnsafeFileError: a file is not sound.
    """
    if not path.exists():
        raise InvalidArgumentError(
            "there is no such file or folder",
            where=str(path),
            hint="name a config, a folder, a file of weights or a step",
        )
    if path.is_file():
        found = _config(path) if path.suffix in (".yaml", ".yml", ".json") else _file(path, artifact)
    else:
        found = _folder(path, artifact)
    if not found:
        raise InvalidArgumentError(f"there are no tensors of the artifact {artifact!r} in it", where=str(path))
    return found


def _folder(folder: Path, artifact: str) -> dict[str, Described]:
    if (folder / ".metadata").is_file():
        return _dcp(folder / ".metadata", artifact)
    own = [f"{artifact}*.pt"] if artifact != "model" else []
    for pattern in (*own, *_WEIGHTS):
        found: dict[str, Described] = {}
        for path in sorted(folder.glob(pattern)):
            found |= _file(path, artifact)
        if found:
            return found
    for name in _CONFIGS:
        if artifact == "model" and (folder / name).is_file():
            return _config(folder / name)
    return {}


def _file(path: Path, artifact: str) -> dict[str, Described]:
    with SourceFile(path) as file:
        parsed = parse_file(file)
    return _of_artifact(((t.place, Described(t.shape, t.dtype.name)) for t in parsed.tensors), artifact)


def _dcp(path: Path, artifact: str) -> dict[str, Described]:
    with SourceFile(path) as file:
        items = read_dcp_metadata(file).items
    parts = {item.part.name: (item.place, item.part.shape) for members in items.values() for item in members}
    return _of_artifact(((place, Described(shape, None)) for place, shape in parts.values()), artifact)


def _of_artifact(found: Iterable[tuple[Place, Described]], artifact: str) -> dict[str, Described]:
    """Those of one artifact, without what only names it. A file of one artifact need not say which."""
    placed = list(found)
    kinds = classify_all({str(number): (place, True) for number, (place, _) in enumerate(placed)})
    chosen = [one for number, one in enumerate(placed) if kinds[str(number)] == artifact]
    return {".".join(map(str, place[marker_end(place, artifact) :])): facts for place, facts in chosen}


def _config(path: Path) -> dict[str, Described]:
    with os_errors("read the file", str(path)):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        config: Any = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise DamagedFileError(f"the config cannot be parsed: {error}", where=str(path)) from error
    if not isinstance(config, Mapping):
        raise IncompleteStepError("the config is not a set of names and values", where=str(path))
    return {name: Described(shape, None) for name, shape in expected_shapes(config, str(path)).items()}
