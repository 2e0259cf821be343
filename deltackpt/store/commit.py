"""The commit: prove that everything a step needs is there, then put its manifest once.

``docs/invariants.md`` names the states; the commit point is the put-if-absent at the end of :func:`commit_step`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import (
    BackendError,
    CommitConflictError,
    CorruptObjectError,
    DeltackptError,
    IncompleteSaveError,
    ObjectExistsError,
)
from deltackpt.format.index import Index
from deltackpt.format.keys import StepKey, index_key, manifest_key, pack_key
from deltackpt.format.manifest import (
    ArtifactTotals,
    ClosureIndex,
    ClosurePack,
    Entry,
    Manifest,
    ManifestHeader,
    Metric,
    ShardColumns,
    encode_manifest,
)
from deltackpt.format.times import format_time
from deltackpt.store.base import UNUSABLE
from deltackpt.store.catalog import VisibleStep, find_place, newest_before
from deltackpt.store.closure import Closure, find_closure, key_rows
from deltackpt.store.opened import OpenStore
from deltackpt.store.pending import Ticket, check_tickets, withdraw
from deltackpt.store.receipt import WriterReceipt
from deltackpt.tensor.box import Box

__all__ = ["PlannedEntry", "StepDraft", "commit_manifest", "commit_step", "next_generation"]

_LOG = logging.getLogger("deltackpt")


@dataclass(frozen=True, slots=True)
class PlannedEntry:
    """An entry of the step to be, and the boxes that were to be saved of it."""

    entry: Entry
    shards: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class StepDraft:
    """What the coordinator knows of a step before it commits it.

    Attributes:
        key: its place; the generation is the one after that seen when the save began.
        metrics: what the user recorded with it.
        writer: what wrote it, for its header.
        pending: the coordinator's own announcement, where it made one before any writer did.
        replaces: the header of the generation that this one says in other records: the step stays as old as it was.
    """

    key: StepKey
    entries: Sequence[PlannedEntry]
    metrics: Mapping[str, Metric]
    writer: Mapping[str, str | int | float]
    pending: Ticket | None = None
    replaces: ManifestHeader | None = None


def next_generation(store: OpenStore, branch: str, step: int) -> int:
    """The generation that a save which starts now would commit; above 1 where the step exists."""
    newest = find_place(store, branch, step)
    return 1 if newest is None else newest.key.generation + 1


def commit_step(store: OpenStore, draft: StepDraft, receipts: Sequence[WriterReceipt]) -> ManifestHeader:
    """Make the step visible, and remove the announcements of all who wrote it.

    Raises:
        IncompleteSaveError: something planned was not written, something needed is not there, a writer saved another
            step, or an announcement has expired.
        CommitConflictError: somebody else committed this generation of the step first.
    """
    tickets = [receipt.pending for receipt in receipts] + ([] if draft.pending is None else [draft.pending])
    try:
        header = _commit(store, draft, receipts, tickets)
    except DeltackptError as error:
        # After an error of the backend the manifest may appear yet: the announcements hold until they expire.
        if not isinstance(error, BackendError):
            withdraw(store, (ticket.id for ticket in tickets))
        raise
    withdraw(store, (ticket.id for ticket in tickets))
    return header


def _commit(
    store: OpenStore, draft: StepDraft, receipts: Sequence[WriterReceipt], tickets: Sequence[Ticket]
) -> ManifestHeader:
    own = [store.index(receipt.index) for receipt in receipts]
    for header in (index.header for index in own):
        if (header.branch, header.step) != (draft.key.branch, draft.key.step):
            raise IncompleteSaveError(
                f"writer {header.writer} saved step {header.branch}:{header.step} where the step is "
                f"{draft.key.branch}:{draft.key.step}",
                where=store.url,
                hint="give the writers of all ranks the same step and branch",
            )
    known = _Known(store, receipts, own)
    blocks = _gather_blocks(draft.entries, own)
    closure = find_closure(_by_identity(blocks), known.lookup)
    manifest = _build(store, draft, receipts, own, known, blocks, closure)
    _put(store, manifest, tickets)
    return manifest.header


def commit_manifest(store: OpenStore, manifest: Manifest, ticket: Ticket) -> None:
    """Make visible a manifest that is made of what is stored already. Its announcement stays.

    Raises:
        CommitConflictError: somebody else committed this generation of the step first.
        IncompleteSaveError: the announcement has expired.
    """
    _put(store, manifest, [ticket])


def _put(store: OpenStore, manifest: Manifest, tickets: Sequence[Ticket]) -> None:
    data = encode_manifest(manifest)
    check_tickets(tickets, store.clock())
    _publish(store, manifest.header.key, data)
    _check_late(store, manifest, tickets)


def _check_late(store: OpenStore, manifest: Manifest, tickets: Sequence[Ticket]) -> None:
    """A process that was stopped between the check of its announcements and the put may have committed a ruin."""
    try:
        check_tickets(tickets, store.clock())
    except IncompleteSaveError:
        wanted = [index_key(entry.object) for entry in manifest.indexes] + [pack_key(p.name) for p in manifest.packs]
        if not all(any(found.key == key for found in store.backend.list(key)) for key in wanted):
            store.backend.delete(manifest_key(manifest.header.key))
            raise
        _LOG.warning(
            "step %s was committed after its announcement had expired; all of it is there", manifest.header.key
        )


def _publish(store: OpenStore, key: StepKey, data: bytes) -> None:
    """The commit point."""
    name = manifest_key(key)
    try:
        store.backend.put_if_absent(name, data)
    except ObjectExistsError as error:
        raise CommitConflictError(
            f"somebody else committed step {key.branch}:{key.step} meanwhile",
            where=name,
            hint="nothing of this save is visible; save again with overwrite=True if it should replace the other",
        ) from error
    except BackendError:
        # The put may have taken effect before its answer was lost: the store knows.
        if not _is_there(store, name, data):
            raise


def _is_there(store: OpenStore, name: str, data: bytes) -> bool:
    try:
        return store.backend.get(name) == data
    except DeltackptError:
        return False


class _Known:
    """The indexes that a step may refer to: its writers' own, and the closures of the manifests these built on."""

    def __init__(self, store: OpenStore, receipts: Sequence[WriterReceipt], own: Sequence[Index]) -> None:
        self._store = store
        self.bases = sorted({base for index in own for base in index.header.bases})
        self._entries: dict[bytes, ClosureIndex] = {}
        self._loaded: dict[bytes, Index] = {}
        for base in self.bases:
            for entry in store.manifest(base).indexes:
                self._entries[entry.identity] = entry
        for receipt, index in zip(receipts, own, strict=True):
            self._entries[index.digest] = ClosureIndex(index.digest, receipt.index, receipt.index_bytes)

    def entry(self, identity: bytes) -> ClosureIndex:
        if identity not in self._entries:
            raise IncompleteSaveError(
                f"a writer refers to index {identity.hex()}, which none of its bases holds", where=self._store.url
            )
        return self._entries[identity]

    def lookup(self, identity: bytes) -> Index:
        if identity not in self._loaded:
            index = self._store.index(self.entry(identity).object)
            if index.digest != identity:
                raise CorruptObjectError("the index has another identity than its manifest says", where=identity.hex())
            self._loaded[identity] = index
        return self._loaded[identity]


@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    """The blocks of a step in the order of its manifest: for each the number of an identity, and a row."""

    identities: tuple[bytes, ...]
    number: NDArray[np.int64]
    row: NDArray[np.int64]
    per_shard: NDArray[np.int64]


def _gather_blocks(entries: Sequence[PlannedEntry], own: Sequence[Index]) -> _Blocks:
    """Where the writers placed every planned shard; every one of them exactly once."""
    numbers: dict[bytes, int] = {}
    placed: dict[tuple[str, Box], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
    for index in own:
        placement = index.placement
        local = np.array(
            [numbers.setdefault(identity, len(numbers)) for identity in (index.digest, *index.identity.refs)],
            dtype=np.int64,
        )
        ends = np.cumsum([shard.blocks for shard in placement.shards], dtype=np.int64)
        for shard, end in zip(placement.shards, ends.tolist(), strict=True):
            place = (shard.fqn, shard.box)
            if place in placed:
                raise IncompleteSaveError(f"two writers saved the same part of {shard.fqn}", where=str(shard.box))
            part = slice(end - shard.blocks, end)
            placed[place] = (local[placement.block_ref[part]], placement.block_row[part])
    found = []
    for planned in entries:
        for box in planned.shards:
            if (planned.entry.fqn, box) not in placed:
                raise IncompleteSaveError(
                    f"no writer saved the part of {planned.entry.fqn} at offsets {list(box.offsets)}",
                    hint="look for an earlier error in the log of one of the ranks; nothing of this save is visible",
                )
            found.append(placed.pop((planned.entry.fqn, box)))
    if placed:
        fqn, box = next(iter(placed))
        raise IncompleteSaveError(f"a part of {fqn} at offsets {list(box.offsets)} was saved but not planned")
    empty = np.zeros(0, dtype=np.int64)
    return _Blocks(
        tuple(numbers),
        np.concatenate([empty, *(number for number, _ in found)]),
        np.concatenate([empty, *(row for _, row in found)]),
        np.array([len(row) for _, row in found], dtype=np.int64),
    )


def _by_identity(blocks: _Blocks) -> list[tuple[bytes, NDArray[np.int64]]]:
    return [
        (blocks.identities[number], blocks.row[blocks.number == number]) for number in np.unique(blocks.number).tolist()
    ]


def _column(blocks: _Blocks, column: Callable[[bytes], NDArray[np.int64]]) -> NDArray[np.int64]:
    """For every block, the value in its row of a column that its index (by identity) has."""
    values = np.zeros(len(blocks.row), dtype=np.int64)
    for number in np.unique(blocks.number).tolist():
        mask = blocks.number == number
        values[mask] = column(blocks.identities[number])[blocks.row[mask]]
    return values


def _build(
    store: OpenStore,
    draft: StepDraft,
    receipts: Sequence[WriterReceipt],
    own: Sequence[Index],
    known: _Known,
    blocks: _Blocks,
    closure: Closure,
) -> Manifest:
    depth = int(_column(blocks, lambda i: known.lookup(i).identity.depth).max(initial=1))
    raw = _column(blocks, lambda i: known.lookup(i).identity.raw)
    is_key = bool(_column(blocks, lambda i: key_rows(known.lookup(i).identity).astype(np.int64)).all())
    position = {identity: number for number, identity in enumerate(closure.rows)}
    remap = np.array([position.get(identity, -1) for identity in blocks.identities], dtype=np.int64)
    previous = newest_before(store, draft.key.branch, draft.key.step)
    chain_key, distance = _chain_place(store, draft.key, previous, is_key, known.bases)
    header = ManifestHeader(
        key=draft.key,
        created=format_time(store.clock()) if draft.replaces is None else draft.replaces.created,
        parent=(None if previous is None else previous.key) if draft.replaces is None else draft.replaces.parent,
        chain_key=chain_key,
        distance=distance,
        depth=depth,
        raw_bytes=int(raw.sum()),
        stored_bytes=sum(p.size for i in own for p in i.location.packs) + sum(r.index_bytes for r in receipts),
        restore_bytes=closure.stored_bytes(known.lookup),
        metrics=dict(draft.metrics),
        artifacts=_totals(draft.entries, own, blocks, raw),
        writer={
            **draft.writer,
            "writers": len(receipts),
            "duplicates": sum(r.duplicates for r in receipts),
            "bases_cached": sum(r.bases_cached for r in receipts),
            "bases_decoded": sum(r.bases_decoded for r in receipts),
            **_chains(receipts),
        },
    )
    boxes = [box for planned in draft.entries for box in planned.shards]
    return Manifest(
        header=header,
        entries=tuple(planned.entry for planned in draft.entries),
        shards=ShardColumns(
            offsets=np.array([n for box in boxes for n in box.offsets], dtype=np.int64),
            sizes=np.array([n for box in boxes for n in box.sizes], dtype=np.int64),
            blocks=blocks.per_shard,
        ),
        block_index=remap[blocks.number],
        block_row=blocks.row,
        indexes=tuple(known.entry(identity) for identity in closure.rows),
        packs=tuple(ClosurePack(name, size) for name, size in sorted(closure.packs(known.lookup).items())),
    )


def _chain_place(
    store: OpenStore, key: StepKey, previous: VisibleStep | None, is_key: bool, bases: Sequence[StepKey]
) -> tuple[tuple[str, int], int]:
    """The key step of the chain and the distance to it, from what was really written.

    Writers choose bases themselves and may differ from the coordinator; a step without deltas is a key step whatever
    was meant.
    """
    if is_key or not bases:
        return (key.branch, key.step), 0
    if previous is not None:
        try:
            header = store.header(previous.key, previous.manifest_bytes)
        except UNUSABLE as error:
            _LOG.warning("the step before %s:%d cannot be read: %s", key.branch, key.step, error)
        else:
            if header.distance + 1 < store.options.key_every:
                return header.chain_key, header.distance + 1
    base = store.manifest(bases[-1]).header
    return base.chain_key, base.distance + 1


def _chains(receipts: Sequence[WriterReceipt]) -> dict[str, str | float]:
    """The chain policy that most writers followed; what was measured of it, as shares of the bytes without a base."""
    if not receipts:
        return {}
    policies = Counter(receipt.chain.policy for receipt in receipts)
    found: dict[str, str | float] = {"chain": max(sorted(policies), key=lambda policy: policies[policy])}
    measured = [r.chain.measured for r in receipts if r.chain.measured is not None]
    alone = sum(m.alone for m in measured)
    if alone > 0:
        found["chain_near"] = round(sum(m.near for m in measured) / alone, 4)
        if all(m.far is not None for m in measured):
            found["chain_far"] = round(sum(m.far or 0.0 for m in measured) / alone, 4)
    return found


def _totals(
    entries: Sequence[PlannedEntry], own: Sequence[Index], blocks: _Blocks, raw: NDArray[np.int64]
) -> dict[str, ArtifactTotals]:
    """What each artifact has and takes: entries and raw bytes by entry, stored bytes by pack."""
    names = {planned.entry.artifact for planned in entries}
    stored = dict.fromkeys(sorted(names), 0)
    for index in own:
        for pack in index.location.packs:
            # A rank sees only its own entries and may take them for those of another artifact.
            stored[pack.artifact] = stored.get(pack.artifact, 0) + pack.size
    totals = {name: [0, 0] for name in stored}
    shard = block = 0
    for planned in entries:
        count = int(blocks.per_shard[shard : shard + len(planned.shards)].sum())
        shard += len(planned.shards)
        totals[planned.entry.artifact][0] += int(raw[block : block + count].sum())
        totals[planned.entry.artifact][1] += 1
        block += count
    return {name: ArtifactTotals(totals[name][0], stored[name], totals[name][1]) for name in stored}
