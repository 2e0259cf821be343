"""Which predictor and coder an id in a record means. Ids never change meaning; new ones are added here."""

from __future__ import annotations

from deltackpt.codec.coders.narrow import Narrow
from deltackpt.codec.coders.planes import Planes
from deltackpt.codec.coders.rans import Rans
from deltackpt.codec.coders.raw import Raw
from deltackpt.codec.coders.rows import Rows
from deltackpt.codec.predictors.adam import AdamSecond, AdamWeight
from deltackpt.codec.predictors.cast import Cast
from deltackpt.codec.predictors.linear import Linear
from deltackpt.codec.predictors.mean import Mean
from deltackpt.codec.predictors.previous import Previous
from deltackpt.codec.predictors.scale import Scale
from deltackpt.codec.predictors.zero import Zero
from deltackpt.codec.types import Coder, Predictor
from deltackpt.errors import UnknownVersionError

__all__ = [
    "ADAM_SECOND",
    "ADAM_WEIGHT",
    "CAST",
    "CODERS",
    "LINEAR",
    "MEAN",
    "PREDICTORS",
    "PREVIOUS",
    "SCALE",
    "ZERO",
    "coder",
    "predictor",
]

ZERO, PREVIOUS, CAST, ADAM_WEIGHT, ADAM_SECOND, SCALE, LINEAR, MEAN = range(8)

PREDICTORS: tuple[Predictor, ...] = (
    Zero(),
    Previous(),
    Cast(),
    AdamWeight(),
    AdamSecond(),
    Scale(),
    Linear(),
    Mean(),
)
CODERS: tuple[Coder, ...] = (Raw(), Planes(), Rans(), Narrow(), Rows())

_PREDICTORS = {p.id: p for p in PREDICTORS}
_CODERS = {c.id: c for c in CODERS}


def predictor(number: int, *, source: str) -> Predictor:
    """The predictor with this id.

    Raises:
        UnknownVersionError: this version has none.
    """
    if number not in _PREDICTORS:
        raise UnknownVersionError(f"unknown predictor {number}", where=source, hint="read it with a newer deltackpt")
    return _PREDICTORS[number]


def coder(number: int, *, source: str) -> Coder:
    """The coder with this id.

    Raises:
        UnknownVersionError: this version has none.
    """
    if number not in _CODERS:
        raise UnknownVersionError(f"unknown coder {number}", where=source, hint="read it with a newer deltackpt")
    return _CODERS[number]
