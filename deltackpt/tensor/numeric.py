"""Elements as float64, for statistics: without torch, and exact but for integers of 64 bits."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from deltackpt.tensor.dtypes import DType

__all__ = ["as_float64"]

Floats = NDArray[np.float64]

_NATIVE = {
    "bool": "?",
    "uint8": "<u1",
    "int8": "<i1",
    "int16": "<i2",
    "uint16": "<u2",
    "int32": "<i4",
    "uint32": "<u4",
    "int64": "<i8",
    "uint64": "<u8",
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
    "complex32": "<f2",
    "complex64": "<f4",
    "complex128": "<f8",
}


def as_float64(data: NDArray[np.uint8], dtype: DType) -> Floats:
    """Bytes of elements as numbers; a complex element is two, and so is one of float4_e2m1fn_x2 (the low half first).

    Returns:
        a new array of shape (n,), n the number of elements, or twice that.
    """
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        if dtype.name in _NATIVE:
            return data.view(_NATIVE[dtype.name]).astype(np.float64)
        if dtype.name == "bfloat16":
            return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype.name == "float4_e2m1fn_x2":
        return _table(dtype.name)[np.stack([data & 15, data >> 4], axis=1).reshape(-1)]
    return _table(dtype.name)[data]


@lru_cache
def _table(name: str) -> Floats:
    """The value of every code of a small float, from its definition.

    OCP 8-bit Floating Point Specification 1.0 (e4m3fn, e5m2), OCP Microscaling Formats 1.0 (e8m0fnu, e2m1fn), and
    Noune et al., "8-bit Numerical Formats for Deep Neural Networks" (2022) for the ``fnuz`` forms, whose only special
    value is the NaN at the code of minus zero.
    """
    if name == "float8_e8m0fnu":
        powers = np.ldexp(np.ones(256), np.arange(256) - 127)
        powers[255] = np.nan
        return powers
    exponent_bits, mantissa_bits, bias = {
        "float8_e4m3fn": (4, 3, 7),
        "float8_e4m3fnuz": (4, 3, 8),
        "float8_e5m2": (5, 2, 15),
        "float8_e5m2fnuz": (5, 2, 16),
        "float4_e2m1fn_x2": (2, 1, 1),
    }[name]
    codes = np.arange(1 << (1 + exponent_bits + mantissa_bits))
    exponent = codes >> mantissa_bits & (1 << exponent_bits) - 1
    mantissa = codes & (1 << mantissa_bits) - 1
    sign = np.where(codes >> (exponent_bits + mantissa_bits), -1.0, 1.0)
    subnormal = exponent == 0
    significand = mantissa / (1 << mantissa_bits) + ~subnormal
    values: Floats = sign * np.ldexp(significand, np.where(subnormal, 1, exponent) - bias)
    if name.endswith("fnuz"):
        values[codes == 1 << (exponent_bits + mantissa_bits)] = np.nan
    elif name == "float8_e4m3fn":
        values[(codes & 0x7F) == 0x7F] = np.nan
    elif name == "float8_e5m2":
        top = exponent == 31
        values[top & (mantissa == 0)] *= np.inf
        values[top & (mantissa != 0)] = np.nan
    return values
