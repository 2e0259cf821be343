"""Many steps one after another: what one of them decodes and a later one wants is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deltackpt.format.index import Index
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import Manifest
from deltackpt.pipeline.shelf import Shelf, plan_uses
from deltackpt.store.base import RecordRef, index_lookup
from deltackpt.store.opened import OpenStore

__all__ = ["walk_steps"]

# Steps are planned together, so that the plan of a long walk stays small.
_TOGETHER = 128


def walk_steps(
    store: OpenStore, steps: Sequence[StepKey], prefix: str, *, memory: int
) -> Iterator[tuple[Manifest, Shelf]]:
    """The manifests of the steps in the order given, each with the shelf to load it with before the next one is taken.

    Args:
        prefix: of the FQNs of the entries that will be loaded of each step.
        memory: bytes of blocks to keep. Where that is too little, those wanted latest are decoded again.
    """
    shelf = Shelf(memory)
    for start in range(0, len(steps), _TOGETHER):
        # With the first step of the next part, so that what it needs of this one stays.
        part = steps[start : start + _TOGETHER + 1]
        shelf.plan(_plan(store, part, prefix))
        for number, key in enumerate(part[:_TOGETHER]):
            shelf.begin(number)
            yield store.manifest(key), shelf


def _plan(store: OpenStore, steps: Sequence[StepKey], prefix: str) -> dict[RecordRef, list[int]]:
    indexes: dict[bytes, Index] = {}
    wanted = []
    for key in steps:
        manifest = store.manifest(key)
        lookup = index_lookup(store, manifest)
        indexes.update({entry.identity: lookup(entry.identity) for entry in manifest.indexes})
        wanted.append(_blocks(manifest, prefix))
    return plan_uses(wanted, indexes.__getitem__)


def _blocks(manifest: Manifest, prefix: str) -> list[RecordRef]:
    """The records of all blocks of the entries that begin so, each once."""
    found: dict[RecordRef, None] = {}
    for number, entry in enumerate(manifest.entries):
        if entry.fqn.startswith(prefix):
            for shard in range(entry.shards):
                for block in manifest.block_range(number, shard):
                    identity = manifest.indexes[int(manifest.block_index[block])].identity
                    found[RecordRef(identity, int(manifest.block_row[block]))] = None
    return list(found)
