"""What one step of Adam or AdamW does, computed again: weights from their moments, second moments from first ones.

Kingma and Ba, "Adam: a method for stochastic optimization" (arXiv 1412.6980); Loshchilov and Hutter, "Decoupled
weight decay regularization" (arXiv 1711.05101). Only the first moment carries news: with it, the second moment and
the weight after one step follow from those before it. Settings (rate, betas, decay) are fitted from a sample of the
block and kept in the record, so nothing has to be known of the optimizer.

The formulas round to float32 where torch's own step does. On a small network trained with torch's AdamW on a CPU that
leaves up to 0.13 bits for a weight and 0.09 for a second moment, where rounding once at the end leaves about 1.2 and 1
(``python -m benchmarks.predictors``, ``docs/design/predictors.md``).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import kernels
from deltackpt.codec.fitting import products, solve
from deltackpt.codec.float_env import ieee_arithmetic
from deltackpt.codec.kernels import arithmetic
from deltackpt.codec.residual import Words
from deltackpt.codec.types import Inputs, Prediction, Shape
from deltackpt.errors import CorruptObjectError

__all__ = ["AdamSecond", "AdamWeight"]

Reals = NDArray[np.float64]

_WEIGHT = struct.Struct("<ddf")
_SECOND = struct.Struct("<dd")

# Elements handled at a time, so that float64 temporaries stay in the second-level cache.
_CHUNK = 1 << 14

# Adam's epsilon, divided by the root of its second bias correction; 1e-8 is what nearly everybody uses.
_EPSILONS = (1e-8, 0.0, 1e-6, 1e-7, 1e-9, 1e-10, 1e-12, 1e-15)

_BETA_DIGITS = 4

# Weights that are missed by no more, relative to their size, are missed by the roundings of float32 alone.
_ROUNDING = 2.0**-23


def _all_float32(shape: Shape, inputs: Inputs, slots: tuple[int, ...]) -> bool:
    return (
        shape.dtype.name == "float32"
        and set(inputs) == set(slots)
        and all(slot.dtype == shape.dtype and slot.words.size == shape.words for slot in inputs.values())
    )


def _reals(words: Words) -> Reals:
    return words.view("<f4").astype(np.float64)


def _or_base(predicted: NDArray[np.float32], base: Words) -> Words:
    """The predicted words; the base's where the prediction is a NaN, the bits of which differ between machines."""
    words: Words = predicted.view("<u4")
    return np.where(np.isnan(predicted), base, words)


@dataclass(frozen=True, slots=True)
class AdamWeight:
    """A float32 weight from its base (slot 0), and this step's exp_avg (1) and exp_avg_sq (2).

    ``w' = f32(f32(w * decay) + f32(rate * (m / (sqrt(v) + epsilon))))``; parameters: float64 rate, epsilon, float32
    decay.
    """

    id: int = 3
    name: str = "adam_weight"
    slots: tuple[int, ...] = (0, 1, 2)
    computes: bool = True

    def applies(self, shape: Shape, inputs: Inputs) -> bool:
        return _all_float32(shape, inputs, self.slots)

    def fit(self, values: Words, shape: Shape, inputs: Inputs) -> bytes | None:
        with ieee_arithmetic():
            new = _reals(values)
            old, m, v = (_reals(inputs[slot].words) for slot in self.slots)
            # Errors are roundings, in proportion to the weight.
            usable = np.isfinite(new) & np.isfinite(old) & np.isfinite(m) & (v >= 0) & np.isfinite(v) & (new != 0)
            new, old, m, root = new[usable], old[usable], m[usable], np.sqrt(v[usable])
            scale = 1.0 / np.abs(new)
            change, kept = (new - old) * scale, old * scale
            best: tuple[float, bytes] | None = None
            for epsilon in _EPSILONS:
                update = m / (root + epsilon) * scale
                update[~np.isfinite(update)] = 0.0
                found = solve([update, kept], change)
                if found is None:
                    continue
                rate, decay = found
                missed = rate * update + decay * kept - change
                error = float(products(missed[np.newaxis])[0, 0])
                if best is None or error < best[0]:
                    best = (error, _WEIGHT.pack(rate, epsilon, np.float32(1.0 + decay)))
                if error <= missed.size * _ROUNDING**2:
                    break
        return None if best is None else best[1]

    def predict(
        self, shape: Shape, inputs: Inputs, params: bytes, *, source: str, out: Words | None = None
    ) -> Prediction:
        if len(params) != _WEIGHT.size or not self.applies(shape, inputs):
            raise CorruptObjectError(
                f"predictor {self.name} takes slots 0, 1 and 2 in float32 and {_WEIGHT.size} bytes of parameters",
                where=source,
            )
        rate, epsilon, decay = _WEIGHT.unpack(params)
        base, m, v = (inputs[slot].words for slot in self.slots)
        out = np.empty(shape.words, dtype="<u4") if out is None else out
        found = kernels.active()
        if found is not None:
            arithmetic.adam_weight(found, (base, m, v), out, rate, epsilon, decay)
            return Prediction(values=out)
        with ieee_arithmetic():
            for start in range(0, shape.words, _CHUNK):
                part = slice(start, start + _CHUNK)
                update = np.sqrt(_reals(v[part]))
                update += epsilon
                np.divide(_reals(m[part]), update, out=update)
                update *= rate
                kept = base[part].view("<f4") * np.float32(decay)
                out[part] = _or_base(kept + update.astype(np.float32), base[part])
        return Prediction(values=out)


@dataclass(frozen=True, slots=True)
class AdamSecond:
    """A float32 second moment from its base (slot 0), this step's exp_avg (1) and the base's exp_avg (2).

    ``v' = f32(f32(v * f32(beta2)) + (1 - beta2) * ((m' - beta1 * m) / (1 - beta1))^2)``; parameters: float64 beta1,
    beta2.
    """

    id: int = 4
    name: str = "adam_second"
    slots: tuple[int, ...] = (0, 1, 2)
    computes: bool = True

    def applies(self, shape: Shape, inputs: Inputs) -> bool:
        return _all_float32(shape, inputs, self.slots)

    def fit(self, values: Words, shape: Shape, inputs: Inputs) -> bytes | None:
        with ieee_arithmetic():
            new = _reals(values)
            old, m, before = (_reals(inputs[slot].words) for slot in self.slots)
            usable = np.isfinite(new) & np.isfinite(old) & np.isfinite(m) & np.isfinite(before) & (new > 0)
            new, old, m, before = new[usable], old[usable], m[usable], before[usable]
            scale = 1.0 / new
            # beta2 v + k (m' - beta1 m)^2, multiplied out, is linear in beta2, k, -2 k beta1 and k beta1^2.
            found = solve([old * scale, m * m * scale, m * before * scale, before * before * scale], np.ones_like(new))
        if found is None or found[1] == 0.0:
            return None
        beta1, beta2 = -found[2] / (2 * found[1]), found[0]
        if not (0.0 <= beta1 < 1.0 and 0.0 <= beta2 < 1.0):
            return None
        # Betas are decimal fractions that somebody typed: 0.9, 0.95, 0.999.
        return _SECOND.pack(_typed(beta1), _typed(beta2))

    def predict(
        self, shape: Shape, inputs: Inputs, params: bytes, *, source: str, out: Words | None = None
    ) -> Prediction:
        if len(params) != _SECOND.size or not self.applies(shape, inputs):
            raise CorruptObjectError(
                f"predictor {self.name} takes slots 0, 1 and 2 in float32 and {_SECOND.size} bytes of parameters",
                where=source,
            )
        beta1, beta2 = _SECOND.unpack(params)
        base, m, before = (inputs[slot].words for slot in self.slots)
        out = np.empty(shape.words, dtype="<u4") if out is None else out
        found = kernels.active()
        if found is not None:
            arithmetic.adam_second(found, (base, m, before), out, beta1, beta2)
            return Prediction(values=out)
        with ieee_arithmetic():
            for start in range(0, shape.words, _CHUNK):
                part = slice(start, start + _CHUNK)
                gradient = _reals(before[part])
                gradient *= beta1
                np.subtract(_reals(m[part]), gradient, out=gradient)
                gradient /= 1.0 - beta1
                np.multiply(gradient, gradient, out=gradient)
                gradient *= 1.0 - beta2
                gradient += base[part].view("<f4") * np.float32(beta2)
                out[part] = _or_base(gradient.astype(np.float32), base[part])
        return Prediction(values=out)


def _typed(beta: float) -> float:
    """The decimal fraction of few digits that is very near, if there is one."""
    rounded = round(beta, _BETA_DIGITS)
    return rounded if abs(rounded - beta) < 1e-5 and rounded < 1.0 else beta
