"""Imported files in another format: a torch file under another name, weights as safetensors, a config as values.

Files that are what is wanted already are passed on byte for byte. Tensors are taken from what is stored, and plain
values from pickles that are parsed, so that nothing is unpickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Final

import torch
import yaml

from deltackpt.errors import CorruptObjectError, DamagedFileError, TensorNotFoundError, UnsupportedDataError
from deltackpt.formats.flat_state import flatten
from deltackpt.formats.image import FileImage
from deltackpt.formats.image_file import open_image
from deltackpt.formats.joining.base import Joined
from deltackpt.formats.joining.find import find_joined
from deltackpt.formats.original import original_images
from deltackpt.formats.recipe import FILE_PREFIX, View
from deltackpt.formats.recorded import read_infos, read_structure
from deltackpt.formats.saved import saved_value
from deltackpt.formats.source import StepSource, stored_tensor
from deltackpt.formats.torch_image import StoredTensors, torch_image
from deltackpt.tensor.dtypes import by_code
from deltackpt.tensor.torch_bridge import to_torch_dtype

__all__ = ["has_order", "imported_config", "imported_model", "imported_state", "imported_torch"]

_TORCH: Final = ("torch-zip", "torch-legacy")
# What lies between tensors in their storage, or is one that several are views of (``importing/regions.py``).
_NO_TENSOR: Final = re.compile("#([0-9]+|storage)$")
_CONFIGS: Final = ("config.yaml", "config.yml", "config.json")


def imported_torch(source: StepSource, only: str | None, *, without: frozenset[str] = frozenset()) -> list[FileImage]:
    """An imported step as ``model.pt``, ``optim.pt`` and whatever else it has; the parts of ranks are joined.

    Args:
        without: artifacts that are left out.

    Raises:
        TensorNotFoundError: it has no such artifact.
        IncompleteStepError: the file of a rank is missing.
        UnsupportedDataError: a part is spread over several files that cannot be joined.
    """
    files = original_images(source)
    joined = find_joined(source, files) or Joined({}, frozenset())
    kinds = _artifacts(source, files)
    rest: dict[str, list[FileImage]] = {name: [] for name in joined.parts}
    for file in files:
        if file.path in joined.renamed:
            renamed = replace(file, path=joined.renamed[file.path])
            rest.setdefault(renamed.path.removesuffix(".pt"), []).append(renamed)
        elif file.path not in joined.files:
            rest.setdefault(kinds[file.path], []).append(file)
    if only is not None and only not in rest:
        raise TensorNotFoundError(
            f"the step has no artifact {only!r}",
            where=str(source.manifest.header.key),
            hint=f"it has: {', '.join(sorted(rest))}",
        )
    images: list[FileImage] = []
    for artifact, members in sorted(rest.items()):
        if only not in (None, artifact) or artifact in without:
            continue
        stored = StoredTensors()
        part = joined.parts.get(artifact)
        if part is not None:
            images.append(torch_image(f"{artifact}.pt", part(stored), stored))
        if artifact not in ("model", "optim"):
            images += members
        elif part is None:
            images.append(_file_of(source, artifact, members, stored))
    return images


def _artifacts(source: StepSource, files: Sequence[FileImage]) -> dict[str, str]:
    """The artifact of each file, by its path."""
    artifacts = {entry.fqn: entry.artifact for entry in source.manifest.entries}
    return {file.path: artifacts[FILE_PREFIX + file.path] for file in files}


def _file_of(source: StepSource, artifact: str, files: Sequence[FileImage], stored: StoredTensors) -> FileImage:
    """The one file of a model or an optimizer."""
    whole = _whole_file(source, files)
    if whole is not None:
        return replace(whole, path=f"{artifact}.pt")
    if artifact == "model":
        return torch_image("model.pt", imported_model(source, stored), stored)
    raise _unjoined(files)


def _unjoined(files: Sequence[FileImage]) -> UnsupportedDataError:
    return UnsupportedDataError(
        f"the optimizer is in {len(files)} files, and how they are joined is not known",
        where=files[0].path,
        hint="restore the step with the format original, or only='model'",
    )


def _whole_file(source: StepSource, files: Sequence[FileImage]) -> FileImage | None:
    """The one file of torch among them, if it has all that they have."""
    formats = {info.path: info.format for info in read_infos(source.store, source.manifest, threads=source.threads)}
    saved = [file for file in files if formats[file.path] in _TORCH]
    others = any(formats[file.path] == "safetensors" for file in files)
    return saved[0] if len(saved) == 1 and not others else None


def imported_state(
    source: StepSource, artifact: str, stored: StoredTensors, *, wanted: Callable[[object], bool] | None = None
) -> object:
    """The nested state of ``model``, ``optim`` or ``train``; its tensors stand for stored ones. None where the step has
    none.

    Args:
        wanted: which of its outermost keys are wanted; the others are left out, and may hold anything.

    Raises:
        IncompleteStepError: the file of a rank is missing.
        UnsupportedDataError: it cannot be joined, or holds what is not plain data.
    """
    files = original_images(source)
    joined = find_joined(source, files)
    if joined is not None and artifact in joined.parts:
        value = joined.parts[artifact](stored)
        if wanted is None or not isinstance(value, dict):
            return value
        return {key: member for key, member in value.items() if wanted(key)}
    renamed = {} if joined is None else {new: old for old, new in joined.renamed.items()}
    if f"{artifact}.pt" in renamed:
        image = next(file for file in files if file.path == renamed[f"{artifact}.pt"])
        return saved_value(source, image, stored, wanted=wanted)
    kinds = _artifacts(source, files)
    own = [file for file in files if kinds[file.path] == artifact]
    if not own:
        return None
    whole = _whole_file(source, own)
    if whole is not None:
        return saved_value(source, whole, stored, wanted=wanted)
    if artifact == "model":
        return imported_model(source, stored)
    raise _unjoined(own)


def has_order(source: StepSource) -> bool:
    """Whether the model's file has its tensors in the order of its parameters, as torch files do and others do not."""
    files = original_images(source)
    kinds = _artifacts(source, files)
    return _whole_file(source, [file for file in files if kinds[file.path] == "model"]) is not None


def imported_model(source: StepSource, stored: StoredTensors) -> dict[str, torch.Tensor]:
    """The tensors of the model by name, those that are views of others too; they stand for stored ones.

    Raises:
        TensorNotFoundError: the step has no model.
        IncompleteStepError: the file of a rank is missing.
        UnsupportedDataError: it is cut into the parts of ranks, and these cannot be joined.
    """
    joined = find_joined(source, original_images(source))
    if joined is not None and "model" in joined.parts:
        return flatten(joined.parts["model"](stored))
    entries = [entry for entry in source.state_entries("model") if entry.kind == "tensor"]
    cut = next((entry.fqn for entry in entries if not entry.fqn.startswith("model.")), None)
    if cut is not None:
        raise UnsupportedDataError(
            "the model is spread over files in a way that says nothing of the whole tensors",
            where=cut,
            hint="restore the step with the format original, and join it with the tools of its trainer",
        )
    placed = {entry.fqn: stored_tensor(entry, stored) for entry in entries}
    model = {entry.fqn.removeprefix("model."): placed[entry.fqn] for entry in entries}
    for view in _views(source):
        if view.name.startswith("model.") and view.fqn in placed:
            model[view.name.removeprefix("model.")] = _view_of(placed[view.fqn], view)
    return flatten({name: tensor for name, tensor in model.items() if not _NO_TENSOR.search(name)})


def _views(source: StepSource) -> Sequence[View]:
    infos = read_infos(source.store, source.manifest, threads=source.threads)
    return [
        view
        for info in infos
        for view in read_structure(source.store, source.manifest, info, threads=source.threads).views
    ]


def _view_of(base: torch.Tensor, view: View) -> torch.Tensor:
    typed = base.reshape(-1).view(to_torch_dtype(by_code(view.dtype), where=view.name))
    last = view.offset + sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
    if 0 not in view.shape and last >= typed.numel():
        raise CorruptObjectError(f"it reaches beyond {view.fqn}, of which it is a view", where=view.name)
    return typed.as_strided(view.shape, view.strides, view.offset)


def imported_config(source: StepSource) -> Mapping[str, Any] | None:
    """What ``config.yaml`` or ``config.json`` says; None where the step has neither.

    Raises:
        DamagedFileError: it cannot be parsed.
    """
    try:
        images = original_images(source, "config")
    except TensorNotFoundError:
        return None
    for name in _CONFIGS:
        for image in images:
            if PurePosixPath(image.path).name != name:
                continue
            with open_image(source, image) as file:
                data = file.read()
            try:
                value: Any = json.loads(data) if name.endswith("json") else yaml.safe_load(data)
            except (ValueError, yaml.YAMLError) as error:
                raise DamagedFileError(f"the config cannot be parsed: {error}", where=image.path) from error
            return value if isinstance(value, Mapping) else None
    return None
