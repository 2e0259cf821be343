"""What a parser learns of a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deltackpt.tensor.dtypes import DType

__all__ = ["Check", "FoundTensor", "ParsedFile", "PartOf", "Storage"]


@dataclass(frozen=True, slots=True, order=True)
class Storage:
    """Consecutive bytes of a file that tensors lie in: ``[start, start + length)``."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class PartOf:
    """Where a tensor of a file lies in a tensor that is spread over several.

    Attributes:
        name: that of the whole tensor.
        shape: of the whole tensor.
        offsets: of this part in it.
        joined: whether the parts that there are make up the whole tensor, each of them rows of it.
    """

    name: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    joined: bool


@dataclass(frozen=True, slots=True)
class FoundTensor:
    """A tensor in a file.

    Attributes:
        place: where it is in the file's nested value; strings for keys of dicts, integers for positions.
        dtype: of its elements, which are little-endian.
        storage: the bytes it is a view of.
        offset: of its first element, in elements.
        shape, strides: in elements, as in torch.
        part: of which tensor it is a part; None for one that is whole.
    """

    place: tuple[str | int, ...]
    dtype: DType
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    part: PartOf | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def is_contiguous(self) -> bool:
        """Whether its elements follow one another in C order."""
        wanted = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != wanted:
                return False
            wanted *= size
        return True

    @property
    def span(self) -> int:
        """How many elements lie between its first and its last, both included; 0 where it has none."""
        if self.numel == 0:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))


@dataclass(frozen=True, slots=True)
class Check:
    """A checksum that the file itself keeps: the CRC-32 of ``[start, start + length)``, which are called ``what``."""

    start: int
    length: int
    crc32: int
    what: str


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """What a file was recognised as, and the tensors in it.

    Attributes:
        format: such as ``torch-zip``; ``bytes`` where it was not recognised.
        tensors: in the order in which they were found.
        checks: the checksums that it keeps of parts of itself, in the order of the file.
        note: why its tensors were not looked for, for people; empty as a rule.
        calls: what its pickle calls that has nothing to do with tensors and plain values: ``os.system``.
    """

    format: str
    tensors: Sequence[FoundTensor] = ()
    checks: Sequence[Check] = ()
    note: str = ""
    calls: Sequence[str] = ()
