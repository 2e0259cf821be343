"""Which objects each manifest lists, read fast enough to go through ten thousand of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from deltackpt.errors import MissingObjectError
from deltackpt.format.keys import INDEXES, MANIFESTS, PACKS, StepKey, index_key, manifest_key, pack_key
from deltackpt.format.manifest import Manifest, decode_closure
from deltackpt.store.base import UNUSABLE
from deltackpt.store.opened import OpenStore
from deltackpt.store.visible import VisibleStep, all_manifests, visible_steps

__all__ = ["Listed", "all_objects", "pinned_bytes", "read_listed"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Listed:
    """What manifests list.

    Attributes:
        by_step: for each manifest the names of its index objects and packs.
        sizes: the size of each manifest.
    """

    by_step: Mapping[StepKey, tuple[frozenset[bytes], frozenset[bytes]]]
    sizes: Mapping[StepKey, int]

    def objects(self, keys: Iterable[StepKey] | None = None) -> set[str]:
        """The keys of all that some manifests (None: all) list."""
        indexes: set[bytes] = set()
        packs: set[bytes] = set()
        for key in self.by_step if keys is None else keys:
            of_step = self.by_step[key]
            indexes |= of_step[0]
            packs |= of_step[1]
        return {index_key(name) for name in indexes} | {pack_key(name) for name in packs}

    def without(self, keys: Iterable[StepKey]) -> Listed:
        """The same without some manifests."""
        gone = set(keys)
        return Listed(
            {key: objects for key, objects in self.by_step.items() if key not in gone},
            {key: size for key, size in self.sizes.items() if key not in gone},
        )

    def replaced(self, manifests: Iterable[Manifest]) -> Listed:
        """The same with manifests in the place of all lower generations of theirs, taken to be as long."""
        newer = {
            (m.header.key.branch, m.header.key.step): (
                frozenset(entry.object for entry in m.indexes),
                frozenset(pack.name for pack in m.packs),
            )
            for m in manifests
        }
        by_step = {key: newer.get((key.branch, key.step), objects) for key, objects in self.by_step.items()}
        return Listed(by_step, self.sizes)


def read_listed(
    store: OpenStore, *, chosen: Iterable[VisibleStep] | None = None, progress: Progress | None = None
) -> Listed:
    """What every manifest lists, of all generations.

    Args:
        chosen: read these instead.
        progress: called with the manifests read and the manifests in all.

    Raises:
        CorruptObjectError, UnknownVersionError: one cannot be read: nobody knows what it needs.
    """
    manifests = list(all_manifests(store, MANIFESTS) if chosen is None else chosen)
    by_step: dict[StepKey, tuple[frozenset[bytes], frozenset[bytes]]] = {}
    kept: dict[bytes, bytes] = {}
    for number, step in enumerate(manifests):
        name = manifest_key(step.key)
        try:
            data = store.backend.get(name)
        except MissingObjectError:  # deleted since it was listed
            continue
        indexes, packs = decode_closure(data, source=name)
        # One bytes object for a name, however many manifests list it.
        by_step[step.key] = (
            frozenset(kept.setdefault(entry.object, entry.object) for entry in indexes),
            frozenset(kept.setdefault(pack.name, pack.name) for pack in packs),
        )
        if progress is not None:
            progress(number + 1, len(manifests))
    return Listed(by_step, {s.key: s.manifest_bytes for s in manifests if s.key in by_step})


def all_objects(store: OpenStore) -> dict[str, int]:
    """Key to size of every pack and index object."""
    return {found.key: found.size for prefix in (INDEXES, PACKS) for found in store.backend.list(prefix)}


def pinned_bytes(store: OpenStore, steps: Sequence[VisibleStep]) -> int:
    """Bytes of packs and index objects that some steps list, and that were saved for steps that are gone.

    Index objects that cannot be read are not counted.

    Raises:
        CorruptObjectError, UnknownVersionError: a manifest cannot be read.
    """
    there = {(step.key.branch, step.key.step) for step in visible_steps(store)}
    listed = read_listed(store, chosen=steps)
    owned: set[str] = set()
    for name in {name for indexes, _ in listed.by_step.values() for name in indexes}:
        try:
            index = store.index(name)
        except UNUSABLE:
            continue
        if (index.header.branch, index.header.step) not in there:
            owned.add(index_key(name))
            owned.update(pack_key(pack.name) for pack in index.location.packs)
    if not owned:
        return 0
    sizes = all_objects(store)
    return sum(sizes.get(key, 0) for key in owned & listed.objects())
