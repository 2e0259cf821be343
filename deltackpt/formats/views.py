"""A step as files of a format: their images, without reading tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from deltackpt.errors import IncompleteStepError, InvalidNameError, TensorNotFoundError
from deltackpt.format.manifest import Manifest
from deltackpt.formats.flat_state import flat_tensors, flatten
from deltackpt.formats.hf_names import to_hf
from deltackpt.formats.image import FileImage, Stored
from deltackpt.formats.optim_names import by_name
from deltackpt.formats.recipe import FILE, FileInfo, check_path
from deltackpt.formats.recorded import read_infos, read_structure
from deltackpt.formats.safetensors_image import MAX_SHARD_BYTES, safetensors_images
from deltackpt.formats.source import StepSource
from deltackpt.formats.torch_image import StoredTensors, torch_image
from deltackpt.formats.yaml_text import to_yaml

__all__ = ["VIEWS", "View", "default_format", "file_images", "original_images", "part_image"]

View = Callable[[StepSource, "str | None", int], "list[FileImage]"]
"""Gives the files of a step, or of one artifact of it; the last argument is where safetensors files are cut."""

_OLMO_PARTS: Final = ("config", "model", "optim", "train")


def default_format(manifest: Manifest) -> str:
    """What a step's own files are: ``original`` where it was imported from files, else ``torch``."""
    return "original" if any(entry.encoding == FILE for entry in manifest.entries) else "torch"


def file_images(source: StepSource, only: str | None = None) -> list[FileImage]:
    """The step's own files: those that were imported or, for a saved state, torch files."""
    return VIEWS[default_format(source.manifest)](source, only, MAX_SHARD_BYTES)


def original_images(source: StepSource, only: str | None = None, _: int = MAX_SHARD_BYTES) -> list[FileImage]:
    """The files that were imported.

    Raises:
        IncompleteStepError: the step was not imported from files.
        TensorNotFoundError: none of them belongs to the artifact ``only``.
    """
    infos = read_infos(source.store, source.manifest, threads=source.threads)
    if not infos:
        raise IncompleteStepError(
            "the step was saved from memory, not imported from files",
            where=str(source.manifest.header.key),
            hint="restore it with the format torch",
        )
    if only is not None:
        artifacts = {entry.fqn: entry.artifact for entry in source.manifest.entries}
        chosen = [info for info in infos if artifacts[info.fqn] == only]
        if not chosen:
            have = sorted({artifacts[info.fqn] for info in infos})
            raise TensorNotFoundError(
                f"the step has no artifact {only!r}",
                where=str(source.manifest.header.key),
                hint=f"it has: {', '.join(have)}",
            )
        infos = chosen
    return [_original(source, info) for info in infos]


def _original(source: StepSource, info: FileInfo) -> FileImage:
    structure = read_structure(source.store, source.manifest, info, threads=source.threads)
    pieces = [
        Stored(segment.fqn, segment.start, segment.length)
        if segment.fqn
        else Stored(info.body, info.structure + segment.start, segment.length)
        for segment in structure.segments
    ]
    return FileImage(info.path, tuple(pieces), mode=info.mode, mtime_ns=info.mtime_ns, sha256=info.sha256)


def _torch(source: StepSource, only: str | None, _: int) -> list[FileImage]:
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
    entries = source.state_entries(only if only != "optim" else None)
    parts = source.parts([entry for entry in entries if entry.artifact in (*wanted, "model")], stored)
    missing = [name for name in wanted if name not in parts]
    if missing:
        raise IncompleteStepError(
            f"OLMo resumes from config.yaml, model.pt, optim.pt and train.pt, and the step has no {', '.join(missing)}",
            where=str(source.manifest.header.key),
            hint="restore one artifact with only='model', or the step with the format torch",
        )
    if "optim" in wanted:
        parts["optim"] = by_name(parts["optim"], flatten(parts["model"]) if "model" in parts else {})
    return [part_image(name, parts[name], stored) for name in wanted]


def _safetensors(source: StepSource, only: str | None, max_shard_bytes: int) -> list[FileImage]:
    """Weights as safetensors; what that format cannot hold, optimizer and training state, as torch files."""
    stored = StoredTensors()
    images: list[FileImage] = []
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
            f"the format hf holds a model, not the artifact {only!r}", hint="leave only= out, or choose another format"
        )
    entries = [e for e in source.state_entries() if e.artifact in ("model", "config")]
    parts = source.parts(entries, stored)
    if "model" not in parts:
        raise TensorNotFoundError("the step has no artifact 'model'", where=str(source.manifest.header.key))
    model = to_hf(flatten(parts["model"]), parts.get("config"))
    images = safetensors_images("model", flat_tensors(model.tensors, stored), max_shard_bytes=max_shard_bytes)
    return [FileImage("config.json", _literal(model.config_text.encode())), *images]


VIEWS: Final[Mapping[str, View]] = {
    "original": original_images,
    "torch": _torch,
    "olmo": _olmo,
    "safetensors": _safetensors,
    "hf": _hf,
}
"""By the name of the format."""
