"""Sums of a few features of the base and of partners: what several steps of training leave to be said, and SGD.

Over several steps of Adam the update is no function of the moments at both ends, but a sum of them takes away what they
do tell: of 10 steps 1.6 bits of a weight (``docs/design/predictors.md``). One step of SGD with momentum is exactly
such a sum, and so is one of Lion (Chen and others, arXiv 2302.06675) with the sign of a sum of momenta. The
coefficients are fitted to a sample of the block and kept in the record.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec.fitting import solve
from deltackpt.codec.float_env import ieee_arithmetic
from deltackpt.codec.residual import Words
from deltackpt.codec.types import Inputs, Prediction, Shape
from deltackpt.errors import CorruptObjectError

__all__ = ["MOST_TERMS", "Linear", "Term"]

Reals = NDArray[np.float64]

MOST_TERMS = 8
_TERM = struct.Struct("<BBBdd")
_VALUE, _PRODUCT, _RATIO, _SIGN = range(4)
_SLOTS = 5

# Elements handled at a time, so that float64 temporaries stay in the second-level cache.
_CHUNK = 1 << 14

# Exact sums are slow; so many elements determine a handful of coefficients.
_FITTED = 2048

# Adam's epsilon, as nearly everybody has it.
_EPSILON = 1e-8
# Lion's update is the sign of m' - c m: of its two usual pairs of betas, (0.9, 0.99) and (0.95, 0.98).
_LION = (0.9, 0.6)


@dataclass(frozen=True, slots=True)
class Term:
    """One feature and its coefficient.

    Attributes:
        op: 0 ``a``; 1 ``a b``; 2 ``a / (sqrt(b) + constant)``; 3 the sign of ``a - constant b``, or 0.
        a, b: slots; b is 0 where there is none.
    """

    op: int
    a: int
    b: int = 0
    constant: float = 0.0
    coefficient: float = 0.0

    @property
    def slots(self) -> tuple[int, ...]:
        """Those that it takes."""
        return (self.a,) if self.op == _VALUE else (self.a, self.b)

    def feature(self, reals: dict[int, Reals]) -> Reals:
        """Its values; every operation is rounded once, in this order."""
        a = reals[self.a]
        if self.op == _VALUE:
            return a
        b = reals[self.b]
        if self.op == _PRODUCT:
            return a * b
        if self.op == _RATIO:
            return a / (np.sqrt(b) + self.constant)
        return np.sign(a - self.constant * b)


# What may be worth a try, by the slots that are there: 0 the base, 1 and 2 the moments of this step, 3 and 4 those of
# the base. Of several the one that errs least is taken.
_SGD = (Term(_VALUE, 0), Term(_VALUE, 1))
_NESTEROV = (*_SGD, Term(_VALUE, 3))
_FORMS: dict[frozenset[int], tuple[tuple[Term, ...], ...]] = {
    frozenset({0, 1}): (_SGD, (Term(_VALUE, 0), Term(_PRODUCT, 1, 1))),
    frozenset({0, 1, 3}): (
        _NESTEROV,
        *((Term(_VALUE, 0), Term(_SIGN, 1, 3, constant)) for constant in _LION),
    ),
    frozenset({0, 1, 2, 3, 4}): ((Term(_VALUE, 0), Term(_RATIO, 1, 2, _EPSILON), Term(_RATIO, 3, 4, _EPSILON)),),
}


@dataclass(frozen=True, slots=True)
class Linear:
    """float32 words as a sum of features of float32 slots, in float64, rounded once.

    Slot 0 is the base; the parameters say which others there are. See ``docs/format.md`` for their bytes.
    """

    id: int = 6
    name: str = "linear"
    slots: tuple[int, ...] = tuple(range(_SLOTS))
    computes: bool = True

    def applies(self, shape: Shape, inputs: Inputs) -> bool:
        return (
            shape.dtype.name == "float32"
            and 0 in inputs
            and set(inputs) <= set(self.slots)
            and all(slot.dtype == shape.dtype and slot.words.size == shape.words for slot in inputs.values())
        )

    def fit(self, values: Words, shape: Shape, inputs: Inputs) -> bytes | None:
        step = -(-values.size // _FITTED)
        with ieee_arithmetic():
            new = _reals(values[::step])
            reals = {number: _reals(slot.words[::step]) for number, slot in inputs.items()}
            usable = np.isfinite(new) & (new != 0)
            for part in reals.values():
                usable &= np.isfinite(part)
            new = new[usable]
            reals = {number: part[usable] for number, part in reals.items()}
            found = [
                fitted
                for form in _FORMS.get(frozenset(inputs), ())
                for weights in (np.ones_like(new), 1.0 / np.abs(new))
                if (fitted := _fitted(form, reals, new, weights)) is not None
            ]
        return _put(min(found, key=lambda pair: pair[0])[1]) if found else None

    def predict(
        self, shape: Shape, inputs: Inputs, params: bytes, *, source: str, out: Words | None = None
    ) -> Prediction:
        terms = _get(params)
        used = {slot for term in terms for slot in term.slots} | {0}
        if not terms or not self.applies(shape, inputs) or set(inputs) != used:
            raise CorruptObjectError(
                f"predictor linear takes slot 0 and those of 1 to {MOST_TERMS} terms, in float32", where=source
            )
        out = np.empty(shape.words, dtype="<u4") if out is None else out
        with ieee_arithmetic():
            for start in range(0, shape.words, _CHUNK):
                here = slice(start, start + _CHUNK)
                reals = {number: _reals(inputs[number].words[here]) for number in used}
                predicted = _sum(terms, reals).astype(np.float32)
                out[here] = np.where(np.isnan(predicted), inputs[0].words[here], predicted.view("<u4"))
        return Prediction(values=out)


def _reals(words: Words) -> Reals:
    return words.view("<f4").astype(np.float64)


def _sum(terms: Sequence[Term], reals: dict[int, Reals]) -> Reals:
    """In the order of the terms."""
    total = terms[0].coefficient * terms[0].feature(reals)
    for term in terms[1:]:
        total += term.coefficient * term.feature(reals)
    return total


def _fitted(
    form: Sequence[Term], reals: dict[int, Reals], new: Reals, weights: Reals
) -> tuple[float, list[Term]] | None:
    """The form with the best coefficients, and about how many bits an error takes; the change of the base is fitted,
    so that the coefficient of what hardly changes is exact."""
    columns = [term.feature(reals) for term in form]
    usable = np.isfinite(np.stack(columns)).all(axis=0)
    columns, target, scale = [c[usable] for c in columns], (new - reals[0])[usable], weights[usable]
    found = solve([column * scale for column in columns], target * scale)
    if found is None or not target.size:
        return None
    coefficients = [1.0 + found[0], *found[1:]]
    terms = [Term(t.op, t.a, t.b, t.constant, c) for t, c in zip(form, coefficients, strict=True)]
    error = np.abs(_sum(terms, reals)[usable] - new[usable]) / np.abs(new[usable])
    return _bits(1.0 + error * 2.0**24) / error.size, terms


def _bits(values: Reals) -> float:
    """About the sum of the logarithms to base 2, in whole numbers of 2^-20: the same on every machine, as no logarithm
    of a C library is. Between powers of two it is a straight line, at most 0.09 too low."""
    mantissa, exponent = np.frexp(np.fmin(values, 2.0**100))
    parts = ((mantissa - 0.5) * 2.0**21).astype(np.int64) + ((exponent.astype(np.int64) - 1) << 20)
    return float(parts.sum()) / 2.0**20


def _put(terms: Sequence[Term]) -> bytes:
    return bytes([len(terms)]) + b"".join(_TERM.pack(t.op, t.a, t.b, t.constant, t.coefficient) for t in terms)


def _get(params: bytes) -> list[Term]:
    """The terms; none where these are no parameters."""
    count = params[0] if params else 0
    if not 1 <= count <= MOST_TERMS or len(params) != 1 + count * _TERM.size:
        return []
    terms = [Term(*fields) for fields in _TERM.iter_unpack(params[1:])]
    good = all(t.op <= _SIGN and max(t.slots) < _SLOTS and (t.op != _VALUE or t.b == 0) for t in terms)
    return terms if good else []
