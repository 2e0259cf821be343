"""Folders of ``torch.distributed.checkpoint``: tensors are joined already; what is no tensor is read from the files."""

from __future__ import annotations

from collections.abc import Callable

from deltackpt.errors import CorruptObjectError, DamagedFileError, UnsupportedDataError
from deltackpt.formats import nesting
from deltackpt.formats.importing.parts import METADATA
from deltackpt.formats.joining.base import Files, Joined
from deltackpt.formats.parsers.dcp import DcpMetadata, read_dcp_metadata
from deltackpt.formats.parsers.source import Window
from deltackpt.formats.saved import ImageReadable, read_value
from deltackpt.formats.source import stored_tensor
from deltackpt.formats.torch_image import StoredTensors
from deltackpt.tensor.roles import classify_all

__all__ = ["join_dcp"]


def join_dcp(files: Files) -> Joined | None:
    """How a folder of DCP is read; None where there is none.

    Raises:
        UnsupportedDataError: there are several.
        CorruptObjectError: the store gives another file than was imported.
    """
    found = [path for path in files.images if path.rpartition("/")[2] == METADATA]
    if not found:
        return None
    if len(found) > 1:
        raise UnsupportedDataError(
            f"the checkpoint has {len(found)} folders of DCP",
            where=found[1],
            hint="restore it with the format original",
        )
    folder = found[0].removesuffix(METADATA)
    try:
        metadata = read_dcp_metadata(ImageReadable(files.source, files.images[found[0]]))
    except DamagedFileError as error:
        raise CorruptObjectError(error.message, where=found[0], hint="run `deltackpt verify --deep`") from error
    tensors = {item.part.name: item.place for items in metadata.items.values() for item in items}
    objects = {one.name: one.place for one in metadata.objects}
    kinds = classify_all({n: (p, True) for n, p in tensors.items()} | {n: (p, False) for n, p in objects.items()})

    def part(artifact: str) -> Callable[[StoredTensors], object]:
        names = frozenset(name for name, kind in kinds.items() if kind == artifact)
        return lambda stored: _read(files, folder, metadata, names, artifact, stored)

    parts = {artifact: part(artifact) for artifact in sorted({*kinds.values()})}
    trains = [path for path in files.images if path.startswith("train/rank")]
    renamed = {} if "train" in parts or "train/rank0.pt" not in trains else {"train/rank0.pt": "train.pt"}
    used = {found[0], *(folder + path for path in metadata.files), *(trains if renamed else ())}
    return Joined(parts, frozenset(used & files.images.keys()), renamed)


def _read(
    files: Files, folder: str, metadata: DcpMetadata, names: frozenset[str], artifact: str, stored: StoredTensors
) -> object:
    manifest = files.source.manifest
    entries = {entry.fqn: entry for entry in manifest.entries}
    placed = []
    for name, place in {i.part.name: i.place for items in metadata.items.values() for i in items}.items():
        if name not in names:
            continue
        if name not in entries:
            raise UnsupportedDataError(
                "the parts of this tensor are not rows of it, or are not all there",
                where=name,
                hint="restore the step with the format original, and load it with torch.distributed.checkpoint",
            )
        placed.append(nesting.Entry(name, place, artifact, stored_tensor(entries[name], stored)))
    for one in metadata.objects:
        if one.name not in names:
            continue
        image = files.images.get(folder + one.file)
        if image is None:
            raise UnsupportedDataError(f"{one.file}, which has it, was not imported", where=one.name)
        file = ImageReadable(files.source, image)
        value = read_value(Window(file, one.start, one.length), image, stored, at=one.start)
        placed.append(nesting.Entry(one.name, one.place, artifact, value))
    return nesting.split_parts(placed)[artifact]
