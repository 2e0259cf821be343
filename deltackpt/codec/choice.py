"""Which predictor and which coder a block gets, from samples; all is encoded twice only where it may pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import zstandard
from numpy.typing import NDArray

from deltackpt.codec import registry
from deltackpt.codec.coders.narrow import Narrow
from deltackpt.codec.coders.planes import Planes
from deltackpt.codec.coders.rans import Rans
from deltackpt.codec.coders.rows import Rows
from deltackpt.codec.rans import Survey
from deltackpt.codec.residual import Words, to_residual
from deltackpt.codec.sampling import residual_bits, sample
from deltackpt.codec.types import Prediction, Shape, Slot
from deltackpt.codec.workspace import Workspace
from deltackpt.tensor.dtypes import DType

__all__ = ["READ_FACTOR", "Candidate", "Choice", "choose", "payload_bound", "slots_of", "smallest_payload"]

Bytes = NDArray[np.uint8]

_RANS, _PLANES, _NARROW, _ROWS = Rans(), Planes(), Narrow(), Rows()

# A prediction has to save this share of the bits to be worth a need: it costs a decode of the base at every read.
_LEAST_GAIN = 0.01

# The same where the inputs are read anyway by who reads the block's artifact: what is left is the time to decode.
_LEAST_GAIN_NEAR = 0.002

# Moments that predict a weight are read with it. A weights-only read may cost this many times what it would without.
READ_FACTOR = 2.0

# A prediction that leaves so few bits a word is good enough: fitting another one takes longer than it can save.
_ENOUGH = 2.0

# Blocks up to so many words are encoded by both coders: tables and states weigh there, and time does not.
_SMALL = 1 << 13

# Matches that zstd finds in so many consecutive residuals show structure that frequencies alone do not.
_RUN = 2048
_STRUCTURED = 0.9

# It finds none worth looking for where so few windows of 8 bytes occur twice among them.
_REPEATS = 128

# Surveys count in 1/65536 bits.
_Q16 = 65536

# Byte planes are tried after rans where a sample says that they are so much smaller. That takes ten times as long
# as rans alone; at 0.98 they were 0.3 to 1% smaller where they were tried, which is zstd's own tables every 128 KiB.
_WORTH_TWICE = 0.93


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A predictor, and the inputs that it may have for a block.

    Attributes:
        predictor: its id.
        inputs: for each of its slots the element type and the bytes, of as many elements as the block.
        input_bytes: what the record takes beside its payload, to say which the inputs are.
        read_bytes: what decoding reads besides, of records that a reader of this artifact would not read otherwise.
        near: whether all inputs are of the same step and artifact.
    """

    predictor: int
    inputs: Mapping[int, tuple[DType, Bytes]]
    input_bytes: int = 0
    read_bytes: int = 0
    near: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """What a block is predicted from.

    Attributes:
        number: of the candidate; None for no prediction.
        params: the parameters that its predictor was fitted to have.
        bits: about how many bits a word costs.
        survey: of the block with this prediction, where it is known.
    """

    number: int | None = None
    params: bytes = b""
    bits: float = 0.0
    survey: Survey | None = None


def slots_of(inputs: Mapping[int, tuple[DType, Bytes]]) -> dict[int, Slot]:
    """The inputs as words."""
    return {number: Slot(dtype, data.view(dtype.word)) for number, (dtype, data) in inputs.items()}


def _estimate(values: Words, prediction: Prediction, shape: Shape, workspace: Workspace) -> tuple[float, Survey | None]:
    """About how many bits a word costs with the coder that suits the block, and what was found out for it."""
    if not _RANS.serves(shape):
        guess = None if prediction.values is None else sample(prediction.values)
        return residual_bits(sample(values), guess, shape.dtype.kind), None
    survey = _RANS.survey(values, prediction, shape, workspace)
    return survey.cost / _Q16 / survey.taken, survey


def choose(
    data: Bytes,
    dtype: DType,
    candidates: Sequence[Candidate],
    workspace: Workspace | None = None,
    *,
    read_factor: float = READ_FACTOR,
) -> Choice:
    """The candidate with the fewest estimated bits; none where none saves enough.

    Predictors go word by word, so a sample of the inputs gives a sample of the prediction.

    Args:
        data: the block's bytes, 1-D.
        dtype: its element type.
        candidates: what it may be predicted from.
        workspace: where buffers come from.
        read_factor: how many times what it takes without, a read of this block's artifact alone may take.
    """
    values = data.view(dtype.word)
    if values.size == 0:
        return Choice()
    shape, space = Shape(dtype, values.size), Workspace() if workspace is None else workspace
    best_bits, survey = _estimate(values, Prediction(), shape, space)
    best, alone_bits = Choice(bits=best_bits, survey=survey), best_bits
    for number, candidate in enumerate(candidates):
        predictor = registry.predictor(candidate.predictor, source="encoder")
        inputs = slots_of(candidate.inputs)
        read_bits = 8 * candidate.read_bytes / values.size
        if not predictor.applies(shape, inputs) or read_bits > read_factor * alone_bits:
            continue
        if best_bits < _ENOUGH:
            break
        taken, part = values, shape
        if predictor.computes:
            taken = sample(values)
            part = Shape(dtype, taken.size)
            inputs = {slot: Slot(found.dtype, sample(found.words)) for slot, found in inputs.items()}
        params = predictor.fit(taken, part, inputs)
        if params is None:
            continue
        prediction = predictor.predict(part, inputs, params, source="encoder")
        bits, survey = _estimate(taken, prediction, part, space)
        bits += 8 * candidate.input_bytes / values.size
        if not read_bits:
            alone_bits = min(alone_bits, bits)
        elif bits + read_bits > read_factor * alone_bits:
            continue
        if bits < best_bits * (1 - (_LEAST_GAIN_NEAR if candidate.near else _LEAST_GAIN)):
            best_bits, best = bits, Choice(number, params, bits, None if predictor.computes else survey)
    return best


def payload_bound(shape: Shape) -> int:
    """Bytes of the buffer that :func:`smallest_payload` writes to: at least those of the block."""
    return max(shape.words * shape.dtype.word_bytes, _ROWS.bound(shape) if _RANS.serves(shape) else 0)


def smallest_payload(
    values: Words,
    prediction: Prediction,
    shape: Shape,
    survey: Survey | None,
    out: Bytes,
    workspace: Workspace,
    *,
    level: int,
) -> tuple[int, int]:
    """The id of a coder and the length of what it put at the start of ``out``; a length as large as the block's means
    that there is nothing shorter.

    Args:
        survey: of the block with this prediction, if there is one.
        out: :func:`payload_bound` bytes.
    """
    coder, length = _RANS.id, values.nbytes
    if _RANS.serves(shape):
        known = _RANS.survey(values, prediction, shape, workspace) if survey is None else survey
        coder, length = _entropy_coded(values, prediction, shape, known, out, workspace)
        if not _may_be_structured(values, prediction, shape, length, workspace):
            return coder, length
    planes = _PLANES.encode(values, prediction, shape, level=level)
    if len(planes) < length:
        coder, length = _PLANES.id, len(planes)
        out[:length] = np.frombuffer(planes, np.uint8)
    narrow = _NARROW.encode(values, prediction, shape, length, workspace)
    if narrow is not None and len(narrow) < length:
        coder, length = _NARROW.id, len(narrow)
        out[:length] = np.frombuffer(narrow, np.uint8)
    return coder, length


def _entropy_coded(
    values: Words, prediction: Prediction, shape: Shape, survey: Survey, out: Bytes, workspace: Workspace
) -> tuple[int, int]:
    """The id of the coder and the length, with rows in classes where these look worth it."""
    class_bits = _ROWS.class_bits(shape, survey)
    if class_bits:
        length = _ROWS.encode(values, prediction, shape, survey, class_bits, out, workspace)
        if length is not None and length < values.nbytes:
            return _ROWS.id, length
    return _RANS.id, _RANS.encode(values, prediction, shape, survey, out, workspace) or values.nbytes


def _may_be_structured(values: Words, prediction: Prediction, shape: Shape, size: int, workspace: Workspace) -> bool:
    """Whether byte planes may be smaller than the ``size`` bytes of the other coder."""
    if shape.words <= _SMALL:
        return size > 1 + shape.dtype.word_bytes
    found = _RANS.structure(values, prediction, shape, workspace)
    if found.planes / _Q16 / found.taken * shape.words < _WORTH_TWICE * 8 * size:
        return True
    if found.repeats < _REPEATS:
        return False
    middle = slice((shape.words - _RUN) // 2, (shape.words + _RUN) // 2)
    guess = None if prediction.values is None else prediction.values[middle]
    residual = to_residual(values[middle], guess, shape.dtype.kind)
    packed = zstandard.ZstdCompressor(level=1).compress(residual.view(np.uint8).data)
    return len(packed) * shape.words < _STRUCTURED * size * _RUN
