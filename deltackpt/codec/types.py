"""The two seams of the codec: what a predictor and a coder are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from deltackpt.codec.residual import Words
from deltackpt.codec.workspace import Workspace
from deltackpt.tensor.dtypes import DType

__all__ = ["Coder", "Inputs", "Prediction", "Predictor", "Shape", "Slot"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a decoder knows of a block before it reads the payload.

    Attributes:
        dtype: the element type.
        words: the number of words.
    """

    dtype: DType
    words: int


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """One input of a predictor.

    Attributes:
        dtype: its element type.
        words: its elements as words of that type.
    """

    dtype: DType
    words: Words


Inputs: TypeAlias = Mapping[int, Slot]


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the decoder knows of the words to come.

    Attributes:
        values: the expected words, or None for all bits zero.
        context: small integers, one a word, that select the statistics; best uint8, and above 255 as 255. None where
            the exponents of the values are the context.
    """

    values: Words | None = None
    context: Words | None = None


class Predictor(Protocol):
    """Turns input slots into a prediction, word by word: each one follows from the inputs at its place.

    Stateless; its ``id`` is in the format and never changes meaning.
    """

    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def slots(self) -> tuple[int, ...]: ...
    @property
    def computes(self) -> bool:
        """Whether a prediction takes work; if not, it is one of the inputs as it is, or nothing."""
        ...

    def applies(self, shape: Shape, inputs: Inputs) -> bool:
        """Whether all slots are there and fit the block."""
        ...

    def fit(self, values: Words, shape: Shape, inputs: Inputs) -> bytes | None:
        """The parameters for these words (a sample of the block), as they go into the record; None if nothing fits."""
        ...

    def predict(
        self, shape: Shape, inputs: Inputs, params: bytes, *, source: str, out: Words | None = None
    ) -> Prediction:
        """The prediction; the same on every machine.

        Args:
            out: where a prediction that is computed is put; a new array if None. Overlaps no input.

        Raises:
            CorruptObjectError: the parameters or inputs are not what the predictor takes.
        """
        ...


class Coder(Protocol):
    """Turns a payload, given the prediction, into words. Stateless; its ``id`` never changes meaning.

    How words become payloads differs from coder to coder; ``codec/choice.py`` knows them all.
    """

    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...

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
        """Put the words into ``out``, which may be the prediction itself.

        Raises:
            CorruptObjectError: the payload is not one that this coder wrote for this shape.
        """
        ...
