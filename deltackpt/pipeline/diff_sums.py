"""How two arrays of elements differ: sums that can be added up block by block. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.tensor.dtypes import DType
from deltackpt.tensor.numeric import as_float64

__all__ = ["ChangeSums", "add_up", "compare"]

Bytes = NDArray[np.uint8]

# Elements that are turned into float64 at once.
_CHUNK = 1 << 17


@dataclass(frozen=True, slots=True)
class ChangeSums:
    """Sums over elements of a (before) and b (after).

    Attributes:
        elements, changed: how many there are, and how many have other bits in b.
        change: the sum of (b - a)².
        before, after: the sums of a² and b².
        product: the sum of a·b.
    """

    elements: int = 0
    changed: int = 0
    change: float = 0.0
    before: float = 0.0
    after: float = 0.0
    product: float = 0.0

    @property
    def changed_share(self) -> float:
        """Of the elements, those that changed."""
        return self.changed / self.elements if self.elements else 0.0

    @property
    def l2(self) -> float:
        """The L2 norm of the change."""
        return math.sqrt(self.change)

    @property
    def relative(self) -> float | None:
        """The norm of the change by that of what was before; None where that is zero and something changed."""
        if self.before == 0:
            return 0.0 if self.change == 0 else None
        return math.sqrt(self.change / self.before)

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between before and after; None where one of them is zero and something changed."""
        if self.changed == 0:
            return 1.0
        if self.before == 0 or self.after == 0:
            return None
        cosine = self.product / math.sqrt(self.before) / math.sqrt(self.after)
        return cosine if math.isnan(cosine) else max(-1.0, min(1.0, cosine))


def add_up(parts: Iterable[ChangeSums]) -> ChangeSums:
    """The sums over all parts; rounded once, so that the order of parts does not matter."""
    listed = list(parts)
    return ChangeSums(
        sum(part.elements for part in listed),
        sum(part.changed for part in listed),
        _sum(part.change for part in listed),
        _sum(part.before for part in listed),
        _sum(part.after for part in listed),
        _sum(part.product for part in listed),
    )


def _sum(values: Iterable[float]) -> float:
    listed = list(values)
    if all(map(math.isfinite, listed)):
        return math.fsum(listed)
    return float(sum(listed))  # of infinities and NaN, which fsum refuses in some orders


def compare(before: Bytes, after: Bytes, dtype: DType) -> ChangeSums:
    """The sums of two arrays of the same number of bytes. Elements count as they are stored, numbers as float64.

    Holds a few MiB beside its arguments.
    """
    step = _CHUNK * dtype.itemsize
    return add_up(_chunk(before[at : at + step], after[at : at + step], dtype) for at in range(0, len(before), step))


def _chunk(before: Bytes, after: Bytes, dtype: DType) -> ChangeSums:
    elements = len(before) // dtype.itemsize
    if before is after or np.array_equal(before, after):
        a = as_float64(before, dtype)
        with np.errstate(all="ignore"):
            norm = float(a @ a)
        return ChangeSums(elements, 0, 0.0, norm, norm, norm)
    differ = (before != after).reshape(elements, dtype.itemsize).any(axis=1)
    a, b = as_float64(before, dtype), as_float64(after, dtype)
    with np.errstate(all="ignore"):
        delta = b - a
        return ChangeSums(elements, int(differ.sum()), float(delta @ delta), float(a @ a), float(b @ b), float(a @ b))
