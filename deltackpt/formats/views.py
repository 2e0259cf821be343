"""A step as files of a format: their images, without reading tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from deltackpt.errors import IncompleteStepError, InvalidNameError, TensorNotFoundError, UnsupportedDataError
from deltackpt.formats.flat_state import flat_tensors, flatten
from deltackpt.formats.hf_names import to_hf
from deltackpt.formats.image import FileImage
from deltackpt.formats.imported import has_order, imported_config, imported_model, imported_state, imported_torch
from deltackpt.formats.optim_names import by_name
from deltackpt.formats.original import default_format, original_images
from deltackpt.formats.recipe import check_path
from deltackpt.formats.safetensors_image import MAX_SHARD_BYTES, safetensors_images
from deltackpt.formats.source import StepSource
from deltackpt.formats.torch_image import StoredTensors, torch_image
from deltackpt.formats.yaml_text import to_yaml

__all__ = ["VIEWS", "View", "file_images", "olmo_ranks", "part_image"]

View = Callable[[StepSource, "str | None", int], "list[FileImage]"]
"""Gives the files of a step, or of one artifact of it; the last argument is where safetensors files are cut."""

_OLMO_PARTS: Final = ("config", "model", "optim", "train")


def file_images(source: StepSource, only: str | None = None) -> list[FileImage]:
    """The step's own files: those that were imported or, for a saved state, torch files."""
    return VIEWS[default_format(source.manifest)](source, only, MAX_SHARD_BYTES)


def _original(source: StepSource, only: str | None, _: int) -> list[FileImage]:
    return original_images(source, only)


def _is_imported(source: StepSource) -> bool:
    return default_format(source.manifest) == "original"


def _torch(source: StepSource, only: str | None, _: int) -> list[FileImage]:
    if _is_imported(source):
        return imported_torch(source, only)
    stored = StoredTensors()
    parts = source.parts(source.state_entries(only), stored)
    return [part_image(name, value, stored) for name, value in parts.items()]


def part_image(name: str, value: object, stored: StoredTensors) -> FileImage:
    """A part as a torch file; a plain config as YAML."""
    try:
        check_path(name)
    except InvalidNameError as error:
        raise InvalidNameError(f"the artifact {name!r} cannot be a file's name", hint=error.hint) from error
    if "/" in name:
        raise InvalidNameError(f"the artifact {name!r} cannot be a file's name", hint="read its tensors by name")
    text = to_yaml(value) if name == "config" else None
    return torch_image(f"{name}.pt", value, stored) if text is None else FileImage(f"{name}.yaml", _literal(text))


def _literal(data: bytes) -> tuple[bytes, ...]:
    return (data,) if data else ()


def _olmo(source: StepSource, only: str | None, _: int) -> list[FileImage]:
    stored = StoredTensors()
    wanted = _OLMO_PARTS if only is None else (only,)
    if _is_imported(source):
        return _olmo_of_files(source, only, wanted)
    entries = source.state_entries(only if only != "optim" else None)
    parts = source.parts([entry for entry in entries if entry.artifact in (*wanted, "model")], stored)
    _check_complete(source, [name for name in wanted if name not in parts])
    if "optim" in wanted:
        parts["optim"] = by_name(parts["optim"], flatten(parts["model"]) if "model" in parts else {})
    return [part_image(name, parts[name], stored) for name in wanted]


def olmo_ranks(source: StepSource, ranks: int) -> list[FileImage]:
    """The step as OLMo's ``rankN.pt`` and ``config.yaml``. Random numbers of ranks are left out, as OLMo does itself
    where their number changes.

    Raises:
        InvalidArgumentError: there cannot be so many ranks.
        IncompleteStepError: the step lacks a part.
        UnsupportedDataError: a part holds what is not plain data.
    """
    from deltackpt.formats.rank_files import rank_images

    stored = StoredTensors()
    if _is_imported(source):
        parts = {name: imported_state(source, name, stored) for name in ("model", "optim")}
        parts["train"] = imported_state(source, "train", stored, wanted=lambda key: key != "rng")
        parts = {name: value for name, value in parts.items() if value is not None}
        config = [image for image in imported_torch(source, None) if image.path == "config.yaml"]
    else:
        parts = source.parts([entry for entry in source.state_entries() if entry.artifact in _OLMO_PARTS], stored)
        config = [part_image("config", parts.pop("config"), stored)] if "config" in parts else []
    found = {*parts, *(["config"] if config else [])}
    _check_complete(source, [name for name in _OLMO_PARTS if name not in found])
    train = parts["train"]
    if not isinstance(train, Mapping):
        raise UnsupportedDataError(
            f"the training state is a {type(train).__name__}, not names and values",
            where=str(source.manifest.header.key),
            hint="restore the step with the format olmo without ranks=",
        )
    optim = by_name(parts["optim"], flatten(parts["model"]))
    state = {key: value for key, value in train.items() if key != "rng"}
    return [*config, *rank_images(parts["model"], optim, state, ranks, stored)]


def _olmo_of_files(source: StepSource, only: str | None, wanted: Sequence[str]) -> list[FileImage]:
    images = imported_torch(source, only)
    paths = {image.path for image in images}
    names = {name: "config.yaml" if name == "config" else f"{name}.pt" for name in wanted}
    _check_complete(source, [name for name, path in names.items() if path not in paths])
    chosen = [image for image in images if image.path in names.values()]
    return [_optim_by_name(source, image) if image.path == names.get("optim") else image for image in chosen]


def _optim_by_name(source: StepSource, image: FileImage) -> FileImage:
    """The optimizer's file, written anew with names where it has numbers for its parameters."""
    # Paths of an optimizer's state are (optim, state, parameter, ...); names are not numbers.
    places = [e.path for e in source.state_entries() if e.artifact == "optim" and e.path and "state" in e.path[:-1]]
    if not any(str(place[place.index("state") + 1]).isdigit() for place in places):
        return image
    stored = StoredTensors()
    optim = imported_state(source, "optim", stored)
    model = imported_state(source, "model", stored) if has_order(source) else None
    named = by_name(optim, flatten(model) if model is not None else {})
    return torch_image(image.path, named, stored)


def _check_complete(source: StepSource, missing: Sequence[str]) -> None:
    if missing:
        raise IncompleteStepError(
            f"OLMo resumes from config.yaml, model.pt, optim.pt and train.pt, and the step has no {', '.join(missing)}",
            where=str(source.manifest.header.key),
            hint="restore one artifact with only='model', or the step with the format torch",
        )


def _safetensors(source: StepSource, only: str | None, max_shard_bytes: int) -> list[FileImage]:
    """Weights as safetensors; what that format cannot hold, optimizer and training state, as torch files."""
    stored = StoredTensors()
    images: list[FileImage] = []
    if _is_imported(source):
        if only in (None, "model"):
            tensors = flat_tensors(imported_model(source, stored), stored)
            images += safetensors_images("model", tensors, max_shard_bytes=max_shard_bytes)
        return images + (imported_torch(source, only, without=frozenset({"model"})) if only != "model" else [])
    for name, value in source.parts(source.state_entries(only), stored).items():
        if name == "model":
            tensors = flat_tensors(flatten(value), stored)
            images += safetensors_images("model", tensors, max_shard_bytes=max_shard_bytes)
        else:
            images.append(part_image(name, value, stored))
    return images


def _hf(source: StepSource, only: str | None, max_shard_bytes: int) -> list[FileImage]:
    """Weights and ``config.json`` for ``from_pretrained``."""
    stored = StoredTensors()
    if only not in (None, "model"):
        raise TensorNotFoundError(
            f"the format hf holds a model, not the artifact {only!r}", hint="leave out only=, or choose another format"
        )
    if _is_imported(source):
        parts: dict[str, object] = {"model": imported_model(source, stored), "config": imported_config(source)}
    else:
        entries = [e for e in source.state_entries() if e.artifact in ("model", "config")]
        parts = source.parts(entries, stored)
    if "model" not in parts:
        raise TensorNotFoundError("the step has no artifact 'model'", where=str(source.manifest.header.key))
    model = to_hf(flatten(parts["model"]), parts.get("config"))
    images = safetensors_images("model", flat_tensors(model.tensors, stored), max_shard_bytes=max_shard_bytes)
    return [FileImage("config.json", _literal(model.config_text.encode())), *images]


VIEWS: Final[Mapping[str, View]] = {
    "original": _original,
    "torch": _torch,
    "olmo": _olmo,
    "safetensors": _safetensors,
    "hf": _hf,
}
"""By the name of the format."""
