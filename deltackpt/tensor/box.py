"""Boxes: rectangular parts of a tensor, in global coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Box"]


@dataclass(frozen=True, slots=True)
class Box:
    """The elements ``offsets[d] <= i[d] < offsets[d] + sizes[d]`` of a tensor.

    A 0-dimensional box (``Box((), ())``) has one element.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> Box:
        """The box that covers a tensor of this shape."""
        return cls((0,) * len(shape), shape)

    @property
    def ndim(self) -> int:
        return len(self.sizes)

    @property
    def numel(self) -> int:
        return math.prod(self.sizes)

    def intersect(self, other: Box) -> Box | None:
        """The common part, or None where there is none or it is empty. Both have the same number of dimensions."""
        offsets = tuple(max(a, b) for a, b in zip(self.offsets, other.offsets, strict=True))
        ends = tuple(
            min(a + m, b + n) for a, m, b, n in zip(self.offsets, self.sizes, other.offsets, other.sizes, strict=True)
        )
        sizes = tuple(e - o for o, e in zip(offsets, ends, strict=True))
        if any(s <= 0 for s in sizes):
            return None
        return Box(offsets, sizes)

    def relative_to(self, outer: Box) -> Box:
        """This box in coordinates that start at ``outer``'s offsets."""
        return Box(tuple(a - b for a, b in zip(self.offsets, outer.offsets, strict=True)), self.sizes)

    def inside(self, shape: tuple[int, ...]) -> bool:
        """Whether the box lies within a tensor of this shape."""
        return len(shape) == self.ndim and all(
            o >= 0 and s >= 0 and o + s <= n for o, s, n in zip(self.offsets, self.sizes, shape, strict=True)
        )

    def slices(self) -> tuple[slice, ...]:
        """The box as an index for an array of the tensor's shape."""
        return tuple(slice(o, o + s) for o, s in zip(self.offsets, self.sizes, strict=True))
