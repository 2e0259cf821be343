"""Give the objects that steps need parity, so that damage to them can be repaired without a second copy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from deltackpt.errors import DeltackptError
from deltackpt.format.keys import PARITY, manifest_key, parity_key
from deltackpt.format.parity import encode_parity
from deltackpt.pipeline.damage import needed_objects, read_whole
from deltackpt.pipeline.ordered import ordered_map
from deltackpt.store.catalog import visible_steps
from deltackpt.store.opened import OpenStore

__all__ = ["ProtectReport", "protect_store"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ProtectReport:
    """What became protected.

    Attributes:
        added: objects that got parity now.
        kept: objects that had it.
        damaged: keys of objects that are not what was written; they got none.
        parity_bytes: what all parity takes now.
        object_bytes: what the objects that got parity now take.
    """

    added: int
    kept: int
    damaged: tuple[str, ...]
    parity_bytes: int
    object_bytes: int


def protect_store(store: OpenStore, share: float, *, threads: int, progress: Progress | None = None) -> ProtectReport:
    """Write a parity object for every manifest, index object and pack of a visible step that has none.

    Args:
        share: parity bytes for each byte, above 0 and at most 1.
        progress: called with the objects done and the objects in all.

    Raises:
        InvalidArgumentError: the share makes no sense.
        MissingPackageError: ``zfec`` is not installed.
        BackendError: the store could not be read or written; what was written stays, and protects.
    """
    wanted, damaged = _wanted(store)
    there = {found.key for found in store.backend.list(PARITY)}
    todo = [key for key in wanted if parity_key(key) not in there]

    def protect(key: str) -> int | None:
        data, whole = read_whole(store.backend, key)
        if not whole:
            return None
        store.backend.put(parity_key(key), encode_parity(data, share))
        return len(data)

    added = size = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="deltackpt-protect") as executor:
        results = ordered_map(executor, protect, todo, window=2 * threads)
        for number, (key, length) in enumerate(zip(todo, results, strict=True)):
            if length is None:
                damaged.append(key)
            else:
                added += 1
                size += length
            if progress is not None:
                progress(number + 1, len(todo))
    return ProtectReport(
        added=added,
        kept=len(wanted) - len(todo),
        damaged=tuple(damaged),
        parity_bytes=sum(found.size for found in store.backend.list(PARITY)),
        object_bytes=size,
    )


def _wanted(store: OpenStore) -> tuple[list[str], list[str]]:
    """The objects of all steps, each once; and the manifests that cannot be read."""
    wanted: dict[str, None] = {}
    damaged: list[str] = []
    for step in visible_steps(store):
        key = manifest_key(step.key)
        try:
            manifest = store.manifest(step.key)
        except DeltackptError:
            damaged.append(key)
            continue
        wanted.update(dict.fromkeys((key, *needed_objects(manifest))))
    return list(wanted), damaged
