"""Whole steps from numpy arrays, without torch or DCP: for tests of backends, plugins and the package itself.

Example:
    >>> import numpy as np
    >>> from deltackpt.backend.memory import MemoryBackend
    >>> from deltackpt.store.opened import create_store
    >>> from deltackpt.store.options import StoreOptions
    >>> from deltackpt.testing.arrays import load_step, save_step, state_bytes
    >>> store = create_store(MemoryBackend(), StoreOptions())
    >>> state = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    >>> save_step(store, state, step=1).raw_bytes
    24
    >>> load_step(store, "latest") == state_bytes(state)
    True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import InvalidArgumentError
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import Entry, Manifest, ManifestHeader, Metric
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.load import load_wanted
from deltackpt.pipeline.plan_load import Wanted
from deltackpt.pipeline.save import SaveSettings, write_items
from deltackpt.pipeline.slots import element_view
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.catalog import find_step, parse_step
from deltackpt.store.commit import PlannedEntry, StepDraft, commit_step, next_generation
from deltackpt.store.opened import OpenStore
from deltackpt.store.receipt import WriterReceipt
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import DType, by_code, by_name

__all__ = [
    "State",
    "Stored",
    "commit",
    "load_manifest",
    "load_step",
    "planned_entries",
    "save_items",
    "save_step",
    "split",
    "state_bytes",
    "write_step",
]


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A tensor or object of a state, and how it is to be saved.

    Attributes:
        array: its elements. A dtype that numpy does not have is given as one of as many bytes.
        dtype: its name in the format; by default that of the array's dtype.
        boxes: the shards, in global coordinates; by default the whole. Shard k is saved by writer ``k % writers``.
        artifact, role, kind: as in an entry of a manifest. An object is a 1-D array of uint8.
    """

    array: NDArray[Any]
    dtype: str = ""
    boxes: Sequence[Box] | None = None
    artifact: str = "model"
    role: str = "weight"
    kind: Literal["tensor", "object"] = "tensor"

    @property
    def element(self) -> DType:
        """The dtype in the format's table.

        Raises:
            InvalidArgumentError: the array's elements are not as large as those of its dtype.
        """
        dtype = by_name(self.dtype or self.array.dtype.name)
        if dtype.itemsize != self.array.dtype.itemsize:
            raise InvalidArgumentError(f"an array of {self.array.dtype} cannot hold {dtype.name}")
        return dtype

    @property
    def shards(self) -> tuple[Box, ...]:
        return (Box.whole(self.array.shape),) if self.boxes is None else tuple(self.boxes)


State: TypeAlias = "Mapping[str, NDArray[Any] | Stored]"


def split(shape: tuple[int, ...], parts: int, axis: int = 0) -> tuple[Box, ...]:
    """A shape cut along one dimension as DCP does: into ``parts`` of equal size, the last ones smaller or left out."""
    step = max(1, -(-shape[axis] // parts))
    return tuple(
        Box(
            (*(0,) * axis, start, *(0,) * (len(shape) - axis - 1)),
            (*shape[:axis], min(step, shape[axis] - start), *shape[axis + 1 :]),
        )
        for start in range(0, shape[axis], step)
    )


def state_bytes(state: State) -> dict[str, bytes]:
    """The bytes of every array in C order, as :func:`load_step` gives them."""
    return {fqn: _stored(value).array.tobytes() for fqn, value in state.items()}


def save_items(state: State, *, writer: int = 0, writers: int = 1) -> list[SaveItem]:
    """What one of several writers saves of a state."""
    return [
        SaveItem(fqn, stored.kind, stored.element, box, stored.artifact, stored.role, (fqn,), _reader(stored.array))
        for fqn, stored in _items(state)
        for number, box in enumerate(stored.shards)
        if number % writers == writer
    ]


def planned_entries(state: State, block_elements: int) -> list[PlannedEntry]:
    """The entries of a step that holds a state, for the coordinator."""
    return [
        PlannedEntry(
            Entry(
                fqn=fqn,
                kind=stored.kind,
                artifact=stored.artifact,
                role=stored.role,
                dtype=stored.element.code,
                block_elements=block_elements,
                requires_grad=False,
                pinned=False,
                shape=stored.array.shape,
                shards=len(stored.shards),
                path=None,
                encoding="tree" if stored.kind == "object" else "",
            ),
            stored.shards,
        )
        for fqn, stored in _items(state)
    ]


def write_step(
    store: OpenStore,
    state: State,
    *,
    step: int,
    branch: str = "main",
    writers: int = 1,
    threads: int = 1,
    base_memory: int = 0,
    cache: BaseCache | None = None,
) -> list[WriterReceipt]:
    """All of a save but its commit, one writer after another. Without a cache, bases are decoded from the store."""
    return [
        write_items(
            store,
            save_items(state, writer=writer, writers=writers),
            branch=branch,
            step=step,
            writer=writer,
            settings=SaveSettings(threads, base_memory),
            cache=BaseCache(0) if cache is None else cache,
        )
        for writer in range(writers)
    ]


def commit(
    store: OpenStore,
    state: State,
    receipts: Sequence[WriterReceipt],
    *,
    step: int,
    branch: str = "main",
    generation: int | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> ManifestHeader:
    """The commit of what :func:`write_step` wrote; without a generation, the next one."""
    number = next_generation(store, branch, step) if generation is None else generation
    entries = planned_entries(state, store.options.block_elements)
    return commit_step(store, StepDraft(StepKey(branch, step, number), entries, metrics or {}, {}), receipts)


def save_step(
    store: OpenStore,
    state: State,
    *,
    step: int,
    branch: str = "main",
    writers: int = 1,
    threads: int = 1,
    base_memory: int = 0,
    cache: BaseCache | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> ManifestHeader:
    """Save and commit a state; a step that is there gets a new generation."""
    generation = next_generation(store, branch, step)
    receipts = write_step(
        store,
        state,
        step=step,
        branch=branch,
        writers=writers,
        threads=threads,
        base_memory=base_memory,
        cache=cache,
    )
    return commit(store, state, receipts, step=step, branch=branch, generation=generation, metrics=metrics)


def load_manifest(store: OpenStore, step: int | str, branch: str = "main") -> Manifest:
    """The manifest of a step as users write it, at its newest generation."""
    return store.manifest(find_step(store, parse_step(step, branch)).key)


def load_step(
    store: OpenStore, step: int | str | Manifest, branch: str = "main", *, threads: int = 1
) -> dict[str, bytes]:
    """The bytes of everything in a step, by FQN, in C order."""
    manifest = step if isinstance(step, Manifest) else load_manifest(store, step, branch)
    arrays: dict[str, NDArray[np.uint8]] = {}
    wanted = []
    for entry in manifest.entries:
        dtype = by_code(entry.dtype)
        arrays[entry.fqn] = np.zeros(math.prod(entry.shape) * dtype.itemsize, np.uint8)
        wanted.append(_wanted(entry, element_view(arrays[entry.fqn], dtype, entry.shape)))
    load_wanted(store, manifest, wanted, threads=threads)
    return {fqn: array.tobytes() for fqn, array in arrays.items()}


def _wanted(entry: Entry, target: NDArray[np.generic]) -> Wanted:
    def write(place: Box, elements: NDArray[np.generic]) -> None:
        target[place.slices()] = elements

    return Wanted(entry.fqn, Box.whole(entry.shape), write)


def _reader(array: NDArray[Any]) -> Callable[[Box], NDArray[np.uint8]]:
    def read(box: Box) -> NDArray[np.uint8]:
        return np.array(array[box.slices()], order="C").reshape(-1).view(np.uint8)

    return read


def _stored(value: NDArray[Any] | Stored) -> Stored:
    return value if isinstance(value, Stored) else Stored(value)


def _items(state: State) -> list[tuple[str, Stored]]:
    return [(fqn, _stored(value)) for fqn, value in state.items()]
