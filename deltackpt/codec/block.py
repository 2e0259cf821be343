"""Encode and decode one block: the seam between the codec and everything above it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import registry
from deltackpt.codec.choice import cheapest_predictor, smallest_payload
from deltackpt.codec.residual import Words
from deltackpt.codec.types import Shape, Slot
from deltackpt.errors import CorruptObjectError
from deltackpt.tensor.dtypes import DType

__all__ = ["CodecOptions", "Encoded", "decode_block", "encode_block"]

_RAW = 0


@dataclass(frozen=True, slots=True)
class CodecOptions:
    """How hard the codec tries.

    Attributes:
        level: the zstd level of byte planes.
    """

    level: int = 1


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded block, without the addresses that make it a record.

    Attributes:
        predictor, coder: ids.
        params: the predictor's parameters.
        payload: the coder's output.
        slots: the inputs that decoding takes.
    """

    predictor: int
    coder: int
    params: bytes
    payload: bytes | memoryview
    slots: tuple[int, ...]


def _words(data: NDArray[np.uint8], dtype: DType) -> Words:
    return data.view(dtype.word)


def encode_block(
    data: NDArray[np.uint8],
    dtype: DType,
    inputs: Mapping[int, tuple[DType, NDArray[np.uint8]]],
    options: CodecOptions,
    *,
    input_bytes: int = 0,
) -> Encoded:
    """Encode a block by the cheapest of the predictors whose inputs are there, and never in more than its own bytes.

    Args:
        data: the block's bytes, 1-D.
        dtype: its element type.
        inputs: for each slot its element type and bytes, of as many elements as the block.
        options: how hard to try.
        input_bytes: what a record that uses the inputs takes beside its payload, to say which they are.
    """
    shape = Shape(dtype, data.size // dtype.word_bytes)
    values = _words(data, dtype)
    slots = _slots(inputs)
    chosen = cheapest_predictor(values, shape, slots, input_bytes)
    used = {number: slots[number] for number in chosen.slots}
    params = chosen.fit(values, shape, used)
    prediction = chosen.predict(shape, used, params, source="encoder")
    coder, payload = smallest_payload(values, prediction, shape, level=options.level)
    if len(payload) + (input_bytes if chosen.slots else 0) >= data.size:
        return Encoded(0, _RAW, b"", data.tobytes(), ())
    return Encoded(chosen.id, coder, params, payload, chosen.slots)


def _slots(inputs: Mapping[int, tuple[DType, NDArray[np.uint8]]]) -> dict[int, Slot]:
    return {number: Slot(kind, _words(array, kind)) for number, (kind, array) in inputs.items()}


def decode_block(
    encoded: Encoded,
    dtype: DType,
    size: int,
    inputs: Mapping[int, tuple[DType, NDArray[np.uint8]]],
    *,
    source: str,
) -> NDArray[np.uint8]:
    """The block's bytes.

    Args:
        encoded: what :func:`encode_block` gave.
        dtype: the element type of the block.
        size: its length in bytes; nothing larger is allocated.
        inputs: the slots that the record's needs fill.
        source: what to call the record in errors.

    Raises:
        CorruptObjectError: the payload, parameters or inputs do not fit.
        UnknownVersionError: an unknown predictor or coder.
    """
    shape = Shape(dtype, size // dtype.word_bytes)
    predictor = registry.predictor(encoded.predictor, source=source)
    coder = registry.coder(encoded.coder, source=source)
    prediction = predictor.predict(shape, _slots(inputs), encoded.params, source=source)
    values = coder.decode(memoryview(encoded.payload), prediction, shape, source=source)
    if values.size != shape.words:
        raise CorruptObjectError(f"decoded {values.size} words instead of {shape.words}", where=source)
    return values.view(np.uint8)
