"""Safetensors files of tensors in the store: their images. The format: https://github.com/huggingface/safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from deltackpt.errors import UnsupportedDataError
from deltackpt.formats.image import FileImage, Piece, join_pieces, pieces_length
from deltackpt.tensor.dtypes import DType

__all__ = ["MAX_SHARD_BYTES", "FlatTensor", "safetensors_images"]

MAX_SHARD_BYTES: Final = 5 * 10**9
"""Where a model is cut into several files: what ``save_pretrained`` did for years, and every reader takes."""

_NAMES: Final = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
}
_HEADER_ALIGNMENT: Final = 8


@dataclass(frozen=True, slots=True)
class FlatTensor:
    """A tensor and its bytes, in C order."""

    dtype: DType
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


def safetensors_images(
    stem: str, tensors: Mapping[str, FlatTensor], *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> list[FileImage]:
    """One file ``STEM.safetensors`` or, above ``max_shard_bytes``, several with an index as ``transformers`` has them.

    Raises:
        UnsupportedDataError: the format has no such dtype.
    """
    shards = _split(tensors, max_shard_bytes)
    if len(shards) == 1:
        return [_image(f"{stem}.safetensors", tensors, shards[0])]
    names = [f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    images = [_image(name, tensors, members) for name, members in zip(names, shards, strict=True)]
    index = {
        "metadata": {"total_size": sum(pieces_length(tensor.pieces) for tensor in tensors.values())},
        "weight_map": {member: name for name, members in zip(names, shards, strict=True) for member in sorted(members)},
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    return [*images, FileImage(f"{stem}.safetensors.index.json", (text.encode(),))]


def _split(tensors: Mapping[str, FlatTensor], limit: int) -> list[list[str]]:
    """Names in their order, as many in each file as fit; a tensor is never cut."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        length = pieces_length(tensor.pieces)
        if shards[-1] and size + length > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += length
    return shards


def _image(path: str, tensors: Mapping[str, FlatTensor], names: Sequence[str]) -> FileImage:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    pieces: list[Piece] = []
    at = 0
    # Wider elements first, so that all are aligned: the order of safetensors' own writer.
    for name in sorted(names, key=lambda name: (-tensors[name].dtype.itemsize, name)):
        tensor = tensors[name]
        known = _NAMES.get(tensor.dtype.name)
        if known is None:
            raise UnsupportedDataError(
                f"safetensors has no dtype {tensor.dtype.name}", where=name, hint="restore it with the format torch"
            )
        end = at + pieces_length(tensor.pieces)
        header[name] = {"dtype": known, "shape": list(tensor.shape), "data_offsets": [at, end]}
        pieces += tensor.pieces
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    return FileImage(path, join_pieces([len(text).to_bytes(8, "little") + text, *pieces]))
