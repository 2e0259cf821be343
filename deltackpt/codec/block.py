"""Encode and decode one block: the seam between the codec and everything above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import registry
from deltackpt.codec.choice import READ_FACTOR, Candidate, Choice, choose, payload_bound, slots_of, smallest_payload
from deltackpt.codec.residual import Words
from deltackpt.codec.types import Shape
from deltackpt.codec.workspace import Workspace
from deltackpt.tensor.dtypes import DType

__all__ = ["Candidate", "Choice", "CodecOptions", "Encoded", "choose", "decode_block", "encode_block"]

Bytes = NDArray[np.uint8]

_ZERO = 0  # the predictor
_RAW, _PLANES = 0, 1  # coders


@dataclass(frozen=True, slots=True)
class CodecOptions:
    """How hard the codec tries.

    Attributes:
        level: the zstd level of byte planes.
        read_factor: how many times what it takes without, a read of a block's artifact alone may take.
    """

    level: int = 1
    read_factor: float = READ_FACTOR


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded block, without the addresses that make it a record.

    Attributes:
        predictor, coder: ids.
        params: the predictor's parameters.
        payload: the coder's output.
        choice: which of the candidates was taken; None where no prediction was.
        buffer: what an encoder put the payload in, from its workspace.
    """

    predictor: int
    coder: int
    params: bytes
    payload: bytes | memoryview
    choice: int | None = None
    buffer: Bytes | None = field(default=None, compare=False, repr=False)


def _words(data: Bytes, dtype: DType) -> Words:
    return data.view(dtype.word)


def encode_block(
    data: Bytes,
    dtype: DType,
    candidates: Sequence[Candidate],
    options: CodecOptions,
    choice: Choice | None = None,
    workspace: Workspace | None = None,
    *,
    room: int = 0,
) -> Encoded:
    """Encode a block by the cheapest of the candidates, or without a prediction; never in more than its own bytes.

    Args:
        data: the block's bytes, 1-D.
        dtype: its element type.
        candidates: what it may be predicted from.
        options: how hard to try.
        choice: what :func:`choose` gave for the same block and candidates, where it was asked before.
        workspace: where buffers come from. The one of the result is the caller's, to be given back after use.
        room: how many bytes are left free in it before the payload, for what a record begins with.
    """
    shape = Shape(dtype, data.size // dtype.word_bytes)
    values = _words(data, dtype)
    space = Workspace() if workspace is None else workspace
    taken = choose(data, dtype, candidates, space, read_factor=options.read_factor) if choice is None else choice
    candidate = None if taken.number is None else candidates[taken.number]
    number, spent = (_ZERO, 0) if candidate is None else (candidate.predictor, candidate.input_bytes)
    inputs = {} if candidate is None else slots_of(candidate.inputs)
    predictor = registry.predictor(number, source="encoder")
    buffer = space.take(room + payload_bound(shape))
    body = buffer[room:]
    with space.lend(data.size) if predictor.computes else nullcontext() as lent:
        into = None if lent is None else _words(lent[: data.size], dtype)
        prediction = predictor.predict(shape, inputs, taken.params, source="encoder", out=into)
        coder, length = smallest_payload(values, prediction, shape, taken.survey, body, space, level=options.level)
    if length + spent >= data.size:
        body[: data.size] = data
        return Encoded(_ZERO, _RAW, b"", body.data[: data.size], None, buffer)
    payload = body.data[:length]
    if coder == _PLANES and prediction.values is None:
        # Byte planes have no contexts, so there is nothing to need.
        return Encoded(_ZERO, _PLANES, b"", payload, None, buffer)
    return Encoded(number, coder, taken.params, payload, taken.number, buffer)


def decode_block(
    encoded: Encoded,
    dtype: DType,
    size: int,
    inputs: Mapping[int, tuple[DType, Bytes]],
    *,
    source: str,
    workspace: Workspace | None = None,
    out: Bytes | None = None,
) -> Bytes:
    """The block's bytes.

    Args:
        encoded: what :func:`encode_block` gave.
        dtype: the element type of the block.
        size: its length in bytes; nothing larger is allocated.
        inputs: the slots that the record's needs fill.
        source: what to call the record in errors.
        workspace: where buffers come from.
        out: ``size`` bytes to decode into, which overlap no input; new ones if None. Of no use after an error.

    Raises:
        CorruptObjectError: the payload, parameters or inputs do not fit.
        UnknownVersionError: an unknown predictor or coder.
    """
    shape = Shape(dtype, size // dtype.word_bytes)
    predictor = registry.predictor(encoded.predictor, source=source)
    coder = registry.coder(encoded.coder, source=source)
    space = Workspace() if workspace is None else workspace
    data = np.empty(size, dtype=np.uint8) if out is None else out
    words = _words(data, dtype)
    prediction = predictor.predict(shape, slots_of(inputs), encoded.params, source=source, out=words)
    coder.decode(memoryview(encoded.payload), prediction, shape, words, space, source=source)
    return data
