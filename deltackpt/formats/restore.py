"""A step as files in a folder: which format, which files, and all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from deltackpt.errors import InvalidArgumentError
from deltackpt.formats.folder import new_folder, refuse_existing
from deltackpt.formats.image import FileImage
from deltackpt.formats.image_write import write_images
from deltackpt.formats.original import default_format, original_images
from deltackpt.formats.safetensors_image import MAX_SHARD_BYTES
from deltackpt.formats.source import StepSource

__all__ = ["FORMATS", "restore_step"]

FORMATS: Final = ("original", "torch", "olmo", "safetensors", "hf", "dcp")
"""What a step can be restored as."""

CUT_FORMATS: Final = ("safetensors", "hf")
"""Those whose files are cut at a size."""


def restore_step(
    source: StepSource,
    out: Path,
    file_format: str | None,
    *,
    only: str | None = None,
    force: bool = False,
    max_shard_bytes: int | None = None,
    ranks: int | None = None,
) -> list[Path]:
    """Write a step, or one artifact of it, to the folder ``out``, which appears whole or not at all.

    Args:
        file_format: one of ``FORMATS``; None for ``original`` where the step was imported from files, else ``torch``.
        force: whether a folder that is there is replaced, with all that is in it.
        max_shard_bytes: where safetensors files are cut; None for 5 GB. Other formats have no such files.

        ranks: with the format ``olmo``, how many ranks the files are for; None for whole tensors.

    Returns:
        The files written.

    Raises:
        InvalidArgumentError: an unknown format, ranks or a size for one that has none, or a folder that must not
            be replaced.
        ObjectExistsError: the folder is there, and not ``force``; nothing was written.
        TensorNotFoundError: the step has no artifact called ``only``.
        UnsupportedDataError, IncompleteStepError: the step cannot be written in this format.
        UntrustedObjectError: an object is a pickle, and that is not trusted; nothing was written.
    """
    name = file_format or default_format(source.manifest)
    if name not in FORMATS:
        raise InvalidArgumentError(f"unknown format {name!r}", hint=f"known formats: {', '.join(FORMATS)}")
    if max_shard_bytes is not None and name not in CUT_FORMATS:
        raise InvalidArgumentError(
            f"files of the format {name} are not cut",
            hint=f"max_shard_bytes= goes with the formats {' and '.join(CUT_FORMATS)} only; leave it out",
        )
    if max_shard_bytes is not None and max_shard_bytes < 1:
        raise InvalidArgumentError(f"max_shard_bytes must be at least 1, not {max_shard_bytes}")
    if ranks is not None and (name != "olmo" or only is not None):
        raise InvalidArgumentError(
            "files of ranks are what the format olmo has, with all parts of a state in each",
            hint="ranks= goes with the format olmo, without only=",
        )
    refuse_existing(out, force=force)
    write: Callable[[Path], list[Path]]
    if name == "dcp":
        imported = default_format(source.manifest) == "original"
        entries = [] if imported else source.state_entries(only)
        source.check_trust(entries)
        from deltackpt.formats.dcp_folder import write_dcp_folder, write_imported_dcp

        def write(folder: Path) -> list[Path]:
            if imported:
                return write_imported_dcp(source, only, folder)
            return write_dcp_folder(source, entries, folder)

    else:
        images = _images(source, name, only, max_shard_bytes or MAX_SHARD_BYTES, ranks)

        def write(folder: Path) -> list[Path]:
            return _write(source, images, folder)

    with new_folder(out, force=force) as folder:
        files = [path.relative_to(folder) for path in write(folder)]
    return [out / path for path in files]


def _images(
    source: StepSource, name: str, only: str | None, max_shard_bytes: int, ranks: int | None
) -> list[FileImage]:
    if name == "original":
        # Without torch, which takes longer to import than small files to write.
        return original_images(source, only)
    from deltackpt.formats.views import VIEWS, olmo_ranks

    if ranks is not None:
        return olmo_ranks(source, ranks)
    return VIEWS[name](source, only, max_shard_bytes)


def _write(source: StepSource, images: list[FileImage], folder: Path) -> list[Path]:
    return write_images(source.store, source.manifest, images, folder, threads=source.threads, direct=True)
