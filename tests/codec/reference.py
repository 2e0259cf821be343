"""The residual of section 5 of ``docs/format.md`` on Python's integers, written from that page alone."""

from __future__ import annotations

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


def residuals(values: Sequence[int], predictions: Sequence[int] | None, bits: int, kind: str) -> list[int]:
    expected = [0] * len(values) if predictions is None else predictions
    return [residual(v, p, bits, kind) for v, p in zip(values, expected, strict=True)]
