"""Section 5 of ``docs/format.md`` on Python's own numbers, word by word, written from that page alone."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence


def image(word: int, bits: int, kind: str) -> int:
    if kind == "int":
        return word
    top = 1 << (bits - 1)
    return word ^ ((1 << bits) - 1) if word & top else word ^ top


def from_image(number: int, bits: int, kind: str) -> int:
    if kind == "int":
        return number
    top = 1 << (bits - 1)
    return number ^ top if number & top else number ^ ((1 << bits) - 1)


def residual(value: int, prediction: int, bits: int, kind: str) -> int:
    ones = (1 << bits) - 1
    r = (image(value, bits, kind) - image(prediction, bits, kind)) & ones
    return ((r << 1) & ones) ^ (ones if r >> (bits - 1) else 0)


def shifted(prediction: int, r: int, bits: int, kind: str) -> int:
    """The word that lies ``r`` places after the prediction in the order of images."""
    return from_image((image(prediction, bits, kind) + r) & ((1 << bits) - 1), bits, kind)


def mean(one: int, other: int, bits: int, kind: str) -> int:
    """The word halfway between two, in the order of images."""
    return from_image((image(one, bits, kind) + image(other, bits, kind)) // 2, bits, kind)


def residuals(values: Sequence[int], predictions: Sequence[int] | None, bits: int, kind: str) -> list[int]:
    expected = [0] * len(values) if predictions is None else predictions
    return [residual(v, p, bits, kind) for v, p in zip(values, expected, strict=True)]


# Predictors 2 to 4. Python's floats are IEEE doubles, and rounding a double's sum or product of two float32 numbers to
# float32 is the same as the float32 operation: 53 >= 2 * 24 + 2.


def f32(x: float) -> float:
    """Rounded to float32, to nearest, ties to even; beyond its range an infinity."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)
    return rounded


def of_word(word: int) -> float:
    found: float = struct.unpack("<f", word.to_bytes(4, "little"))[0]
    return found


def to_word(x: float) -> int:
    return int.from_bytes(struct.pack("<f", f32(x)), "little")


def divide(a: float, b: float) -> float:
    if b != 0:
        return a / b
    if a == 0 or math.isnan(a) or math.isnan(b):
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1.0, b)


def square_root(x: float) -> float:
    return math.sqrt(x) if x >= 0 else math.nan


def cast(word: int, name: str) -> int:
    x = of_word(word)
    if math.isnan(x):
        return {"bfloat16": 0x7FC0, "float16": 0x7E00}[name]
    if name == "float16":
        try:
            return int.from_bytes(struct.pack("<e", x), "little")
        except OverflowError:
            return 0x7C00 | (word >> 31 << 15)
    # The two 16-bit neighbours of a float32 word are its upper half and the next one up; ties to the even one.
    upper, lower = word >> 16, word & 0xFFFF
    return upper + (lower > 0x8000 or (lower == 0x8000 and upper % 2 == 1))


def adam_weight(base: int, first: int, second: int, rate: float, epsilon: float, decay: float) -> int:
    update = f32(rate * divide(of_word(first), square_root(of_word(second)) + epsilon))
    found = f32(f32(of_word(base) * f32(decay)) + update)
    return base if math.isnan(found) else to_word(found)


def adam_second(base: int, first: int, before: int, beta1: float, beta2: float) -> int:
    g = divide(of_word(first) - beta1 * of_word(before), 1 - beta1)
    found = f32(f32(of_word(base) * f32(beta2)) + (1 - beta2) * (g * g))
    return base if math.isnan(found) else to_word(found)


# Predictors 5 and 6.


def scale_context(word: int, name: str) -> int:
    exponent = word >> {"float32": 23, "bfloat16": 7}[name] & 0xFF
    return (exponent + 1) // 2


Term = tuple[int, int, int, float, float]  # op, a, b, constant, coefficient


def linear(words: Sequence[int], terms: Sequence[Term]) -> int:
    """One word from those of the slots, by number."""
    total: float | None = None
    for op, a, b, constant, coefficient in terms:
        x, y = of_word(words[a]), of_word(words[b])
        if op == 0:
            feature = x
        elif op == 1:
            feature = x * y
        elif op == 2:
            feature = divide(x, square_root(y) + constant)
        else:
            difference = x - constant * y
            feature = difference if math.isnan(difference) else float((difference > 0) - (difference < 0))
        product = coefficient * feature
        total = product if total is None else total + product
    assert total is not None
    return words[0] if math.isnan(total) else to_word(total)
