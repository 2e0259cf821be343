"""Which parts of a file become tensors of the step, and which tensors are only views of such a part. Pure.

A storage that holds tensors side by side is cut into them. One that holds tensors which overlap, or whose elements do
not follow one another in C order, becomes one tensor of one dimension, and these are views of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deltackpt.errors import UnsafeFileError
from deltackpt.formats.parsers.found import FoundTensor, PartOf, Storage
from deltackpt.tensor.dtypes import DType

__all__ = ["Region", "RegionView", "plan_regions"]

Place = tuple[str | int, ...]

# Less than this between two tensors is padding, and literal.
_LEAST_GAP = 4096


@dataclass(frozen=True, slots=True)
class Region:
    """Consecutive bytes of a file that become a tensor.

    Attributes:
        place: of the tensor that gives it its name.
        suffix: what to add to that name where the region is not that tensor itself.
        dtype, shape: of its elements in C order.
        start: of its first byte in the file.
        part: of which tensor, spread over several files, it is a part.
        is_alias: whether another region is the same bytes and stands for them in the file.
    """

    place: Place
    suffix: str
    dtype: DType
    shape: tuple[int, ...]
    start: int
    length: int
    part: PartOf | None = None
    is_alias: bool = False


@dataclass(frozen=True, slots=True)
class RegionView:
    """A tensor that is a view of a region.

    Attributes:
        region: its number.
        offset: of its first element in the region, in elements of its own dtype.
    """

    tensor: FoundTensor
    region: int
    offset: int


def plan_regions(tensors: Sequence[FoundTensor], where: str) -> tuple[list[Region], list[RegionView]]:
    """The regions of a file, in the order of the tensors, and the views of them.

    Raises:
        UnsafeFileError: two storages overlap.
    """
    by_storage: dict[Storage, list[FoundTensor]] = {}
    for tensor in tensors:
        by_storage.setdefault(tensor.storage, []).append(tensor)
    _check_apart(by_storage, where)
    regions: list[Region] = []
    views: list[RegionView] = []
    for storage, members in by_storage.items():
        if _are_side_by_side(members):
            _cut(storage, members, regions, views)
        else:
            _keep_whole(storage, members, regions, views)
    return regions, views


def _check_apart(storages: Iterable[Storage], where: str) -> None:
    placed = sorted(storage for storage in storages if storage.length)
    for one, other in itertools.pairwise(placed):
        if one.start + one.length > other.start:
            raise UnsafeFileError("two of its tensors overlap in the file", where=where, offset=other.start)


def _range(tensor: FoundTensor) -> tuple[int, int]:
    """Its bytes in the file, if it is contiguous."""
    start = tensor.storage.start + tensor.offset * tensor.dtype.itemsize
    return start, start + tensor.numel * tensor.dtype.itemsize


def _are_side_by_side(tensors: Sequence[FoundTensor]) -> bool:
    """Whether all are contiguous, and any two are the same bytes or have none in common."""
    if not all(tensor.is_contiguous for tensor in tensors if tensor.numel):
        return False
    ranges = sorted({_range(tensor) for tensor in tensors if tensor.numel})
    return all(one[1] <= other[0] for one, other in itertools.pairwise(ranges))


def _cut(storage: Storage, tensors: Sequence[FoundTensor], regions: list[Region], views: list[RegionView]) -> None:
    first: dict[tuple[int, int], int] = {}
    for tensor in tensors:
        if tensor.numel == 0:
            # Nothing of it is in the file, wherever its storage says it begins.
            regions.append(
                Region(tensor.place, "", tensor.dtype, tensor.shape, storage.start, 0, tensor.part, is_alias=True)
            )
            continue
        start, end = _range(tensor)
        number = first.setdefault((start, end), len(regions))
        if number == len(regions):
            regions.append(Region(tensor.place, "", tensor.dtype, tensor.shape, start, end - start, tensor.part))
        elif (regions[number].dtype, regions[number].shape) == (tensor.dtype, tensor.shape):
            regions.append(Region(tensor.place, "", tensor.dtype, tensor.shape, start, end - start, is_alias=True))
        else:
            views.append(RegionView(tensor, number, 0))
    if first:
        _add_gaps(storage, tensors[0], sorted(first), regions)


def _add_gaps(storage: Storage, tensor: FoundTensor, ranges: Sequence[tuple[int, int]], regions: list[Region]) -> None:
    """What no tensor covers, such as the rest of a storage of which a slice was saved."""
    ends = [storage.start, *(end for _, end in ranges)]
    starts = [*(start for start, _ in ranges), storage.start + storage.length]
    item = tensor.dtype.itemsize
    for end, start in zip(ends, starts, strict=True):
        elements = (start - end) // item
        if elements * item >= _LEAST_GAP:
            suffix = f"#{end - storage.start}"
            regions.append(Region(tensor.place, suffix, tensor.dtype, (elements,), end, elements * item))


def _keep_whole(
    storage: Storage, tensors: Sequence[FoundTensor], regions: list[Region], views: list[RegionView]
) -> None:
    leader = next(tensor for tensor in tensors if tensor.numel)
    item = leader.dtype.itemsize
    elements = storage.length // item
    shape = _memory_shape(leader) if len(tensors) == 1 else None
    if shape is None or leader.numel != elements:
        shape = (elements,)
    number = len(regions)
    regions.append(Region(leader.place, "#storage", leader.dtype, shape, storage.start, elements * item))
    # A view of another dtype may reach into the few bytes beyond the last whole element; then nothing is lost but it.
    views.extend(
        RegionView(tensor, number, tensor.offset)
        for tensor in tensors
        if (tensor.offset + tensor.span) * tensor.dtype.itemsize <= elements * item
    )


def _memory_shape(tensor: FoundTensor) -> tuple[int, ...] | None:
    """The shape of a permuted tensor in the order of memory; None where it is no permutation of a dense one."""
    order = sorted(range(len(tensor.shape)), key=lambda d: (-tensor.strides[d], d))
    shape = tuple(tensor.shape[d] for d in order)
    wanted = 1
    for d in reversed(order):
        if tensor.shape[d] != 1 and tensor.strides[d] != wanted:
            return None
        wanted *= tensor.shape[d]
    return shape if tensor.offset == 0 else None
