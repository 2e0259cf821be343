"""Imported files in another format: a torch file under another name, weights as safetensors, a config as values.

Files that are what is wanted already are passed on byte for byte. Tensors are taken from the entries of the step, so
that nothing is unpickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Final

import torch
import yaml

from deltackpt.errors import CorruptObjectError, DamagedFileError, TensorNotFoundError, UnsupportedDataError
from deltackpt.formats.flat_state import flatten
from deltackpt.formats.image import FileImage
from deltackpt.formats.image_file import open_image
from deltackpt.formats.original import original_images
from deltackpt.formats.recipe import FILE_PREFIX, View
from deltackpt.formats.recorded import read_infos, read_structure
from deltackpt.formats.source import StepSource, stored_tensor
from deltackpt.formats.torch_image import StoredTensors, torch_image
from deltackpt.tensor.dtypes import by_code
from deltackpt.tensor.torch_bridge import to_torch_dtype

__all__ = ["imported_config", "imported_model", "imported_torch"]

_TORCH: Final = ("torch-zip", "torch-legacy")
# What lies between tensors in their storage, or is one that several are views of (``importing/regions.py``).
_NO_TENSOR: Final = re.compile("#([0-9]+|storage)$")
_CONFIGS: Final = ("config.yaml", "config.yml", "config.json")


def imported_torch(source: StepSource, only: str | None) -> list[FileImage]:
    """An imported step as ``model.pt``, ``optim.pt`` and whatever else it has.

    Raises:
        TensorNotFoundError: it has no such artifact.
        UnsupportedDataError: a part is spread over several files that cannot be joined.
    """
    formats = {i.path: i.format for i in read_infos(source.store, source.manifest, threads=source.threads)}
    artifacts = {entry.fqn: entry.artifact for entry in source.manifest.entries}
    parts: dict[str, list[FileImage]] = {}
    for image in original_images(source, only):
        parts.setdefault(artifacts[FILE_PREFIX + image.path], []).append(image)
    images: list[FileImage] = []
    for artifact, files in sorted(parts.items()):
        saved = [file for file in files if formats[file.path] in _TORCH]
        if artifact not in ("model", "optim"):
            images += files
        elif len(saved) == 1 and not any(formats[file.path] == "safetensors" for file in files):
            images.append(replace(saved[0], path=f"{artifact}.pt"))
        elif artifact == "model":
            stored = StoredTensors()
            images.append(torch_image("model.pt", imported_model(source, stored), stored))
        else:
            raise UnsupportedDataError(
                f"the optimizer is in {len(files)} files, and what each holds besides tensors is not known",
                where=files[0].path,
                hint="restore the step with the format original, or only='model'",
            )
    return images


def imported_model(source: StepSource, stored: StoredTensors) -> dict[str, torch.Tensor]:
    """The tensors of the model by name, those that are views of others too; they stand for stored ones.

    Raises:
        TensorNotFoundError: the step has no model.
        UnsupportedDataError: it is cut into the parts of ranks.
    """
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
