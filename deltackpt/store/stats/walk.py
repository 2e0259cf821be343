"""A walk over the steps of a store, in order: what each adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from deltackpt.errors import MissingObjectError
from deltackpt.format.index import Index
from deltackpt.format.manifest import Manifest
from deltackpt.store.base import index_lookup
from deltackpt.store.catalog import VisibleStep
from deltackpt.store.opened import OpenStore
from deltackpt.store.stats.blocks import Flags, Ints, SeenRecords, StepBlocks, blocks_of
from deltackpt.store.stats.report import Share, StepStats, saved_share

__all__ = ["Sum", "Walk"]


@dataclass(slots=True)
class Sum:
    """Sums over records of one kind; ``expected`` is what those of delta steps, ``delta`` bytes, would take without."""

    records: int = 0
    raw: int = 0
    stored: int = 0
    expected: float = 0.0
    delta: int = 0

    def add(self, index: Index, rows: Ints) -> None:
        """Add records of an index."""
        self.records += len(rows)
        self.raw += int(index.identity.raw[rows].sum())
        self.stored += int(index.location.length[rows].sum())

    def share(self, name: str) -> Share:
        """The sums, by a name."""
        return Share(name, self.records, self.raw, self.stored, saved_share(self.expected, self.delta))


@dataclass(slots=True)
class Walk:
    """What is known after some steps.

    Attributes:
        roles: sums over the records of the blocks of steps, each once.
        objects: for each index (by identity) that a step names, an object that holds it.
        index_sizes: of these objects, and of others with the same identity.
        users: for each pack, its size and how many steps name it.
        key_costs: for each FQN the stored bytes a raw byte in the newest key step.
    """

    store: OpenStore
    seen: SeenRecords = field(default_factory=SeenRecords)
    roles: dict[str, Sum] = field(default_factory=dict)
    objects: dict[bytes, bytes] = field(default_factory=dict)
    index_sizes: dict[bytes, int] = field(default_factory=dict)
    users: dict[bytes, list[int]] = field(default_factory=dict)
    key_costs: dict[str, float] = field(default_factory=dict)

    def lookup(self, identity: bytes) -> Index:
        """The index of an identity that a step names."""
        if identity not in self.objects:
            raise MissingObjectError("no step names the index", where=identity.hex())
        return self.store.index(self.objects[identity])

    def add(self, step: VisibleStep) -> StepStats:
        """Add a step.

        Raises:
            CorruptObjectError, MissingObjectError, UnknownVersionError: it cannot be read; nothing was added.
        """
        manifest = self.store.manifest(step.key)
        blocks = blocks_of(manifest, index_lookup(self.store, manifest), self.seen)
        self.objects.update((entry.identity, entry.object) for entry in manifest.indexes)
        self.index_sizes.update((entry.object, entry.size) for entry in manifest.indexes)
        for pack in manifest.packs:
            self.users.setdefault(pack.name, [pack.size, 0])[1] += 1
        expected, delta = self._add_roles(manifest, blocks)
        header = manifest.header
        old = ~blocks.new
        return StepStats(
            step=header.key.step,
            branch=header.key.branch,
            is_key=header.is_key,
            raw_bytes=header.raw_bytes,
            stored_bytes=header.stored_bytes + step.manifest_bytes,
            new_records=int(blocks.new.sum()),
            duplicate_blocks=int(old.sum()),
            duplicate_bytes=int(blocks.raw[old].sum()),
            delta_saved=saved_share(expected, delta),
            bases_cached=_count(header.writer, "bases_cached"),
            bases_decoded=_count(header.writer, "bases_decoded"),
        )

    def _add_roles(self, manifest: Manifest, blocks: StepBlocks) -> tuple[float, int]:
        """Add the step's records to the sums of their roles.

        Returns:
            For a delta step, what its new records were expected to take as key records, and what they take.
        """
        per_entry = _PerEntry(blocks, len(manifest.entries))
        records, raw = per_entry.count(blocks.new), per_entry.total(blocks.raw)
        new_raw, stored = per_entry.total(blocks.raw, blocks.new), per_entry.total(blocks.stored, blocks.new)
        all_expected, all_delta = 0.0, 0
        for number, entry in enumerate(manifest.entries):
            total = self.roles.setdefault(entry.role, Sum())
            total.records += records[number]
            total.raw += raw[number]
            total.stored += stored[number]
            cost = self.key_costs.get(entry.fqn)
            if not new_raw[number]:
                continue
            if cost is None or manifest.header.is_key:
                self.key_costs[entry.fqn] = stored[number] / new_raw[number]
                continue
            total.expected += new_raw[number] * cost
            total.delta += stored[number]
            all_expected += new_raw[number] * cost
            all_delta += stored[number]
        return all_expected, all_delta


class _PerEntry:
    """Sums of columns of blocks by entry."""

    def __init__(self, blocks: StepBlocks, entries: int) -> None:
        self._entry = blocks.entry
        self._entries = entries

    def count(self, mask: Flags) -> list[int]:
        found: list[int] = np.bincount(self._entry[mask], minlength=self._entries).tolist()
        return found

    def total(self, column: Ints, mask: Flags | None = None) -> list[int]:
        # Sums of int64: bincount's weights are float64, which ends at 2^53.
        out = np.zeros(self._entries, dtype=np.int64)
        np.add.at(out, self._entry if mask is None else self._entry[mask], column if mask is None else column[mask])
        totals: list[int] = out.tolist()
        return totals


def _count(writer: Mapping[str, str | int | float], name: str) -> int:
    value = writer.get(name, 0)
    return value if isinstance(value, int) else 0
