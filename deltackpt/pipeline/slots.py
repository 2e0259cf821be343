"""Predictor inputs put together from boxes of other records. Used alike by savers and loaders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import CorruptObjectError
from deltackpt.format.record import Need
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import DType, by_code

__all__ = ["assemble", "element_view", "slot_inputs"]

Bytes = NDArray[np.uint8]

_ELEMENTS: dict[int, np.dtype[Any]] = {
    1: np.dtype("u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
    8: np.dtype("<u8"),
    16: np.dtype("<c16"),
}


def element_view(data: Bytes, dtype: DType, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Bytes as an array of opaque elements, so that boxes of it can be copied; shares memory."""
    return data.view(_ELEMENTS[dtype.itemsize]).reshape(shape)


def assemble(shape: tuple[int, ...], dtype: DType, parts: Sequence[tuple[Need, Bytes]], *, source: str) -> Bytes:
    """One slot, from the needs that fill it and the decoded bytes of their records.

    A whole need is passed on without a copy; the caller must not change the result.

    Raises:
        CorruptObjectError: a source is not as large as its need says.
    """
    size = math.prod(shape) * dtype.itemsize
    if len(parts) == 1 and parts[0][0].tile is None:
        data = parts[0][1]
        if data.size != size:
            raise CorruptObjectError(f"a base of {data.size} bytes for a block of {size}", where=source)
        return data
    out = np.zeros(size, dtype=np.uint8)
    target = element_view(out, dtype, shape)
    for need, data in parts:
        tile = need.tile
        if tile is None or data.size != math.prod(tile.source_shape) * dtype.itemsize:
            raise CorruptObjectError("the boxes of a base do not fit their records", where=source)
        taken = element_view(data, dtype, tile.source_shape)
        target[Box(tile.offsets, tile.sizes).slices()] = taken[Box(tile.source_offsets, tile.sizes).slices()]
    return out


def slot_inputs(
    shape: tuple[int, ...], needs: Sequence[Need], data: Mapping[bytes, Bytes], *, source: str
) -> dict[int, tuple[DType, Bytes]]:
    """All slots of a record, from its needs and the decoded bytes by address."""
    slots: dict[int, list[Need]] = {}
    for need in needs:
        slots.setdefault(need.slot, []).append(need)
    inputs: dict[int, tuple[DType, Bytes]] = {}
    for number, parts in slots.items():
        dtype = by_code(parts[0].dtype, where=source)
        inputs[number] = (dtype, assemble(shape, dtype, [(n, data[n.address]) for n in parts], source=source))
    return inputs
