"""Byte planes of the residual, each raw, constant or a zstd frame. Section 5 of ``docs/format.md``."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from deltackpt.codec.residual import Words, from_residual, to_residual
from deltackpt.codec.sampling import plane_bits
from deltackpt.codec.types import Prediction, Shape
from deltackpt.codec.workspace import Workspace
from deltackpt.errors import CorruptObjectError, TruncatedObjectError

__all__ = ["Planes"]

_METHOD_RAW, _METHOD_ZSTD, _METHOD_CONSTANT = 0, 1, 2
_HEAD = struct.Struct("<BI")

# A plane whose sampled entropy is above this many bits a byte is noise: zstd would only find that out again.
_NOISE_BITS = 7.95


@dataclass(frozen=True, slots=True)
class Planes:
    """Splits residual words into planes of equal significance, most significant first."""

    id: int = 1
    name: str = "planes"

    def encode(self, values: Words, prediction: Prediction, shape: Shape, *, level: int) -> bytes:
        residual = to_residual(values, prediction.values, shape.dtype.kind)
        by_significance = residual.view(np.uint8).reshape(shape.words, shape.dtype.word_bytes)
        heads, bodies = bytearray(), []
        for significance in reversed(range(shape.dtype.word_bytes)):
            method, body = _encode_plane(np.ascontiguousarray(by_significance[:, significance]), level)
            heads += _HEAD.pack(method, len(body))
            bodies.append(body)
        return b"".join((bytes(heads), *bodies))

    def decode(
        self,
        payload: memoryview,
        prediction: Prediction,
        shape: Shape,
        out: Words,
        workspace: Workspace,
        *,
        source: str,
    ) -> None:
        width = shape.dtype.word_bytes
        if len(payload) < width * _HEAD.size:
            raise TruncatedObjectError("payload ends in its table of planes", where=source)
        residual = np.empty_like(out) if prediction.values is out else out
        by_significance = residual.view(np.uint8).reshape(shape.words, width)
        start = width * _HEAD.size
        for number in range(width):
            method, length = _HEAD.unpack_from(payload, number * _HEAD.size)
            body = payload[start : start + length]
            if len(body) != length:
                raise TruncatedObjectError(f"payload ends inside plane {number}", where=source)
            by_significance[:, width - 1 - number] = _decode_plane(method, body, shape.words, source)
            start += length
        if start != len(payload):
            raise CorruptObjectError(f"{len(payload) - start} bytes after the last plane", where=source)
        words = from_residual(residual, prediction.values, shape.dtype.kind)
        if residual is not out:
            out[:] = words


def _encode_plane(plane: NDArray[np.uint8], level: int) -> tuple[int, bytes]:
    if plane.size and bool((plane == plane[0]).all()):
        return _METHOD_CONSTANT, plane[:1].tobytes()
    if plane.size and plane_bits(plane) < _NOISE_BITS:
        packed = zstandard.ZstdCompressor(level=level, write_content_size=True).compress(plane.data)
        if len(packed) < plane.size:
            return _METHOD_ZSTD, packed
    return _METHOD_RAW, plane.tobytes()


def _decode_plane(method: int, body: memoryview, size: int, source: str) -> NDArray[np.uint8] | np.uint8:
    if method == _METHOD_RAW:
        if len(body) != size:
            raise CorruptObjectError(f"raw plane of {len(body)} bytes for {size} words", where=source)
        return np.frombuffer(body, dtype=np.uint8)
    if method == _METHOD_CONSTANT and size:
        if len(body) != 1:
            raise CorruptObjectError(f"constant plane of {len(body)} bytes", where=source)
        return np.uint8(body[0])
    if method == _METHOD_ZSTD and size:
        return np.frombuffer(_unzstd(body, size, source), dtype=np.uint8)
    raise CorruptObjectError(f"unknown plane method {method}", where=source)


def _unzstd(body: memoryview, size: int, source: str) -> bytes:
    try:
        declared: Any = zstandard.frame_content_size(body)
        if declared != size:
            raise CorruptObjectError(f"zstd frame of {declared} bytes for a plane of {size}", where=source)
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptObjectError(f"plane does not decompress: {error}", where=source) from error
