"""Symbols in the context of the prediction through rANS, noise bits raw. Section 5 of ``docs/format.md``.

The work is done by the compiled kernels or, with the same bits, by ``deltackpt.codec.rans``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import kernels, rans
from deltackpt.codec.residual import Words
from deltackpt.codec.types import Prediction, Shape
from deltackpt.codec.workspace import Workspace
from deltackpt.errors import CorruptObjectError

__all__ = ["Rans"]


@dataclass(frozen=True, slots=True)
class Rans:
    """Codes blocks of words of 2 or 4 bytes."""

    id: int = 2
    name: str = "rans"

    def serves(self, shape: Shape) -> bool:
        """Whether the format defines this coder for such a block."""
        return shape.words > 0 and shape.dtype.word_bytes in (2, 4)

    def survey(
        self,
        values: Words,
        prediction: Prediction,
        shape: Shape,
        workspace: Workspace,
        part: rans.Part | None = None,
    ) -> rans.Survey:
        """What a sample of the block, or of some rows, tells, for a choice and for :meth:`encode`."""
        found = kernels.active()
        context = _context(prediction, shape, "encoder")
        if found is not None:
            return found.survey(values, prediction.values, context, shape.dtype, workspace, part)
        values, guess, context = _taken(part, values, _values(prediction, shape), context)
        return rans.take_survey(values, guess, context, shape.dtype, None if part is None else shape.words)

    def sort_rows(
        self,
        values: Words,
        prediction: Prediction,
        shape: Shape,
        survey: rans.Survey,
        row_log2: int,
        class_bits: int,
        workspace: Workspace,
    ) -> NDArray[np.uint8]:
        """Which of ``1 << class_bits`` classes each whole row of ``1 << row_log2`` words is in, by how large its
        residuals are beside others of their contexts.

        Args:
            survey: of the block.
        """
        found = kernels.active()
        context = _context(prediction, shape, "encoder")
        if found is not None:
            guess = prediction.values
            return found.sort_rows(values, guess, context, shape.dtype, survey, row_log2, class_bits, workspace)
        guess = _values(prediction, shape)
        return rans.sort_rows(values, guess, context, shape.dtype, survey, row_log2, class_bits)

    def structure(self, values: Words, prediction: Prediction, shape: Shape, workspace: Workspace) -> rans.Structure:
        """What byte planes may gain from."""
        found = kernels.active()
        if found is not None:
            return found.structure(values, prediction.values, shape.dtype, workspace)
        return rans.take_structure(values, _values(prediction, shape), shape.dtype)

    def bound(self, shape: Shape) -> int:
        """Bytes of the buffer that :meth:`encode` writes to."""
        found = kernels.active()
        return shape.words * shape.dtype.word_bytes if found is None else found.bound(shape.dtype, shape.words)

    def encode(
        self,
        values: Words,
        prediction: Prediction,
        shape: Shape,
        survey: rans.Survey,
        out: NDArray[np.uint8],
        workspace: Workspace,
        part: rans.Part | None = None,
    ) -> int | None:
        """The length of the payload at the start of ``out``; None where it would not be shorter than the words.

        Args:
            survey: of the same words.
            part: which rows of the block are coded; None for all.
        """
        found = kernels.active()
        context = _context(prediction, shape, "encoder")
        if found is not None:
            return found.encode(values, prediction.values, context, shape.dtype, survey, out, workspace, part)
        values, guess, context = _taken(part, values, _values(prediction, shape), context)
        whole = None if part is None else shape.words
        payload = rans.encode(values, guess, context, shape.dtype, survey, whole)
        if payload is None:
            return None
        out[: len(payload)] = np.frombuffer(payload, np.uint8)
        return len(payload)

    def decode(
        self,
        payload: memoryview,
        prediction: Prediction,
        shape: Shape,
        out: Words,
        workspace: Workspace,
        part: rans.Part | None = None,
        *,
        source: str,
    ) -> None:
        if not self.serves(shape):
            raise CorruptObjectError(f"coder rans is not defined for {shape.words} {shape.dtype.name}", where=source)
        found = kernels.active()
        context = _context(prediction, shape, source)
        if found is not None:
            found.decode(payload, prediction.values, context, shape.dtype, out, workspace, part, source=source)
            return
        _, guess, context = _taken(part, out, _values(prediction, shape), context)
        words = rans.decode(payload, guess, context, shape.dtype, source=source)
        if part is None:
            out[:] = words
        else:
            out[part.positions()] = words


def _values(prediction: Prediction, shape: Shape) -> Words:
    return np.zeros(shape.words, dtype=shape.dtype.word) if prediction.values is None else prediction.values


def _taken(
    part: rans.Part | None, values: Words, prediction: Words, context: NDArray[np.uint8] | None
) -> tuple[Words, Words, NDArray[np.uint8] | None]:
    """The words of a part."""
    if part is None:
        return values, prediction, context
    at = part.positions()
    return values[at], prediction[at], None if context is None else context[at]


def _context(prediction: Prediction, shape: Shape, source: str) -> NDArray[np.uint8] | None:
    context = prediction.context
    if context is None:
        return None
    if context.size != shape.words:
        raise CorruptObjectError(f"{context.size} contexts for {shape.words} words", where=source)
    if context.dtype != np.uint8:
        context = np.minimum(context, 255).astype(np.uint8)
    return np.ascontiguousarray(context)
