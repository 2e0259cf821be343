"""What changed between two steps: block by block, in bounded memory; blocks with the same bytes are not read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import TensorNotFoundError
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import Entry, Manifest
from deltackpt.pipeline.decode import BlockDecoder
from deltackpt.pipeline.diff_plan import BlockPair, Side, pairs_of
from deltackpt.pipeline.diff_sums import ChangeSums, add_up, compare
from deltackpt.pipeline.memo import BlockMemo
from deltackpt.pipeline.ordered import ordered_map
from deltackpt.pipeline.slots import element_view
from deltackpt.store.base import index_lookup
from deltackpt.store.opened import OpenStore
from deltackpt.tensor.dtypes import by_code
from deltackpt.tensor.roles import is_counter

__all__ = ["GroupDiff", "StepDiff", "TensorDiff", "diff_steps", "layer_of"]

Bytes = NDArray[np.uint8]
Progress = Callable[[int, int], None]

# Blocks of the first step are kept until those of the second one, which are often deltas on them, are decoded.
_MEMO_BLOCKS = 4

_NOTHING = ChangeSums()


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """One tensor or object.

    Attributes:
        fqn, kind, role, artifact, dtype, shape: as in the second step; as in the first where it is only there.
        status: ``same``, ``changed``, ``added``, ``removed``, or ``other`` where the dtype or shape is another one.
        sums: over its elements, as far as they were read; of nothing where the two cannot be compared.
        stored_bytes: of the records that the second step has for it and the first has not.
    """

    fqn: str
    kind: str
    role: str
    artifact: str
    dtype: str
    shape: tuple[int, ...]
    status: str
    sums: ChangeSums
    stored_bytes: int

    @property
    def is_counter(self) -> bool:
        """Whether it is a number that counts steps, such as Adam's ``step``."""
        return self.kind == "tensor" and is_counter(self.fqn, self.shape)


@dataclass(frozen=True, slots=True)
class GroupDiff:
    """The tensors of one layer, without those that count steps: their change would hide that of all others.

    Attributes:
        name: the common beginning of their names.
        tensors: how many there are.
        sums, stored_bytes: over all of them.
    """

    name: str
    tensors: int
    sums: ChangeSums
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class StepDiff:
    """What changed from step ``a`` to step ``b``, in the order of b; what only a has comes last."""

    a: StepKey
    b: StepKey
    tensors: tuple[TensorDiff, ...]

    @property
    def layers(self) -> tuple[GroupDiff, ...]:
        """The same by layer, of the tensors that can be compared and are no counters."""
        groups: dict[str, list[TensorDiff]] = {}
        for tensor in self.tensors:
            if tensor.status in ("same", "changed") and tensor.kind == "tensor" and not tensor.is_counter:
                groups.setdefault(layer_of(tensor.fqn), []).append(tensor)
        return tuple(
            GroupDiff(name, len(group), add_up(t.sums for t in group), sum(t.stored_bytes for t in group))
            for name, group in groups.items()
        )


def layer_of(fqn: str) -> str:
    """The layer that a tensor belongs to: its name up to the first number, or without its last part."""
    parts = fqn.split(".")
    for place, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return ".".join(parts[: place + 1])
    return ".".join(parts[:-1]) or fqn


def diff_steps(
    store: OpenStore,
    a: Manifest,
    b: Manifest,
    *,
    prefix: str = "",
    whole: bool = False,
    threads: int,
    progress: Progress | None = None,
) -> StepDiff:
    """Compare two steps.

    Blocks with the same bytes are counted and not read, so that norms, and with them the relative change and the
    cosine, are those of the other blocks.

    Args:
        prefix: only tensors and objects whose FQN starts with it.
        whole: whether to read blocks with the same bytes, too, for the norms of whole tensors.
        progress: called with the blocks done and the blocks in all.

    Raises:
        TensorNotFoundError: nothing in either step starts with ``prefix``.
        CorruptObjectError, MissingObjectError: a record is damaged or gone.
    """
    befores = {entry.fqn: number for number, entry in enumerate(a.entries) if entry.fqn.startswith(prefix)}
    afters = {entry.fqn: number for number, entry in enumerate(b.entries) if entry.fqn.startswith(prefix)}
    if not befores and not afters and prefix:
        raise TensorNotFoundError(
            f"nothing in either step starts with {prefix!r}", where=f"{a.header.key}, {b.header.key}"
        )
    first, second = Side(a, index_lookup(store, a)), Side(b, index_lookup(store, b))
    planned = [_plan(first, second, befores.get(fqn), number) for fqn, number in afters.items()]
    reads = [pair for plan in planned for pair in plan.pairs if whole or not pair.same]
    read = _compare_all(store, first, second, reads, threads, progress)
    found = []
    for plan in planned:
        parts = [next(read) if whole or not pair.same else ChangeSums(pair.box.numel) for pair in plan.pairs]
        found.append(_described(b.entries[afters[plan.fqn]], plan.status, add_up(parts), plan.stored_bytes))
    found += [
        _described(a.entries[number], "removed", _NOTHING, 0) for fqn, number in befores.items() if fqn not in afters
    ]
    return StepDiff(a.header.key, b.header.key, tuple(found))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be compared of one entry; the status is None where that will tell."""

    fqn: str
    status: str | None
    pairs: list[BlockPair]
    stored_bytes: int


def _plan(a: Side, b: Side, before: int | None, after: int) -> _Plan:
    entry = b.manifest.entries[after]
    if before is None:
        return _Plan(entry.fqn, "added", [], b.stored_bytes(after))
    old = a.manifest.entries[before]
    if old.kind == entry.kind == "object" and old.shape != entry.shape:
        return _Plan(entry.fqn, "changed", [], b.stored_bytes(after))
    if (old.kind, old.dtype, old.shape) != (entry.kind, entry.dtype, entry.shape):
        return _Plan(entry.fqn, "other", [], b.stored_bytes(after))
    pairs, stored = pairs_of(a, b, before, after)
    return _Plan(entry.fqn, None, pairs, stored)


def _compare_all(
    store: OpenStore, a: Side, b: Side, pairs: Sequence[BlockPair], threads: int, progress: Progress | None
) -> Iterator[ChangeSums]:
    """The sums of each pair, in order."""
    largest = max((pair.box.numel * pair.dtype.itemsize for pair in pairs), default=0)
    memo = BlockMemo(_MEMO_BLOCKS * threads * largest)
    before, after = BlockDecoder(store, a.lookup, memo), BlockDecoder(store, b.lookup, memo)

    def work(pair: BlockPair) -> ChangeSums:
        old = _assemble(pair, before)
        return compare(old, old if pair.same else after.decode(pair.after), pair.dtype)

    with ThreadPoolExecutor(threads, thread_name_prefix="deltackpt-diff") as executor:
        for number, sums in enumerate(ordered_map(executor, work, pairs, window=2 * threads)):
            yield sums
            if progress is not None:
                progress(number + 1, len(pairs))


def _assemble(pair: BlockPair, decoder: BlockDecoder) -> Bytes:
    """The bytes that the first step has where a block of the second one lies."""
    if len(pair.before) == 1 and pair.before[0][1] == pair.box:
        return decoder.decode(pair.before[0][0])
    out = np.zeros(pair.box.numel * pair.dtype.itemsize, dtype=np.uint8)
    target = element_view(out, pair.dtype, pair.box.sizes)
    for ref, box in pair.before:
        common = box.intersect(pair.box)
        if common is not None:
            source = element_view(decoder.decode(ref), pair.dtype, box.sizes)
            target[common.relative_to(pair.box).slices()] = source[common.relative_to(box).slices()]
    return out


def _described(entry: Entry, status: str | None, sums: ChangeSums, stored_bytes: int) -> TensorDiff:
    if status is None:
        status = "changed" if sums.changed else "same"
    return TensorDiff(
        fqn=entry.fqn,
        kind=entry.kind,
        role=entry.role,
        artifact=entry.artifact,
        dtype=by_code(entry.dtype, where=entry.fqn).name,
        shape=entry.shape,
        status=status,
        sums=sums,
        stored_bytes=stored_bytes,
    )
