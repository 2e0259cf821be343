"""Check a store: is everything there that its steps need, and is it what was written?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from deltackpt.errors import CorruptObjectError, DeltackptError, MissingObjectError
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.keys import INDEXES, PACKS, index_key, pack_key
from deltackpt.format.manifest import Manifest
from deltackpt.pipeline.decode import BlockDecoder
from deltackpt.pipeline.memo import BlockMemo
from deltackpt.pipeline.ordered import ordered_map
from deltackpt.store.base import RecordRef, index_lookup
from deltackpt.store.catalog import VisibleStep, visible_steps
from deltackpt.store.closure import find_closure
from deltackpt.store.opened import OpenStore
from deltackpt.store.signing import check_signature
from deltackpt.store.signing_keys import TrustedKey

__all__ = ["Problem", "VerifyReport", "verify_store"]

# Enough to keep the blocks of one state of a small model between neighbouring steps; above it chains are decoded anew.
_MEMO_BYTES = 1 << 30

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: the kind of error, as in ``errors.py``.
        where: the key of the object.
        offset: the byte in it, where one is known.
        message: what is wrong.
        affected: what cannot be read because of it, as ``"BRANCH:STEP FQN"``, or ``"BRANCH:STEP"`` for a whole step.
    """

    kind: str
    where: str
    offset: int | None
    message: str
    affected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result of a verification.

    Attributes:
        problems: empty where all is well.
        steps, indexes, packs, records: how many were checked (records only in a deep one).
        unreferenced_bytes: what no manifest lists.
    """

    problems: tuple[Problem, ...]
    steps: int
    indexes: int
    packs: int
    records: int
    unreferenced_bytes: int

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(slots=True)
class _Findings:
    """Problems by place, each with everything that it affects."""

    root: str
    found: dict[tuple[str, str, int | None, str], list[str]] = field(default_factory=dict)

    def add(self, error: DeltackptError, affected: str | None) -> None:
        # Backends name objects by where they are.
        where = (error.where or "").removeprefix(self.root).lstrip("/")
        place = (error.kind, where, error.offset, error.message)
        listed = self.found.setdefault(place, [])
        if affected is not None and affected not in listed:
            listed.append(affected)

    def problems(self) -> tuple[Problem, ...]:
        return tuple(Problem(*place, tuple(affected)) for place, affected in self.found.items())


def verify_store(
    store: OpenStore,
    *,
    deep: bool,
    threads: int,
    trusted: TrustedKey | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check every visible step, from what the backend holds now: nothing that ``store`` remembers is trusted.

    Args:
        deep: also hash every pack and decode every record that a step needs.
        trusted: whose signature every step must have.
        progress: called with the steps done and the steps in all.
    """
    store = OpenStore(store.backend, store.config)
    findings = _Findings(store.url)
    steps = visible_steps(store)
    sizes = {found.key: found.size for prefix in (PACKS, INDEXES) for found in store.backend.list(prefix)}
    listed: set[str] = set()
    checker = _DeepChecker(store, findings, threads) if deep else None
    hashed: set[str] = set()
    for number, step in enumerate(steps):
        name = f"{step.key.branch}:{step.key.step}"
        if trusted is not None:
            _check_signature(store, step, trusted, findings, name)
        manifest = _read_manifest(store, step, findings, name)
        if manifest is not None:
            listed.update(_check_objects(store, manifest, sizes, findings, name))
            whole = _check_closure(store, manifest, findings, name)
            if checker is not None and whole:
                checker.check(manifest, name)
            if deep:
                _hash_packs(store, manifest, sizes, hashed, findings)
        if progress is not None:
            progress(number + 1, len(steps))
    return VerifyReport(
        problems=findings.problems(),
        steps=len(steps),
        indexes=sum(1 for key in listed if key.startswith(INDEXES)),
        packs=sum(1 for key in listed if key.startswith(PACKS)),
        records=0 if checker is None else len(checker.good),
        unreferenced_bytes=sum(size for key, size in sizes.items() if key not in listed),
    )


def _read_manifest(store: OpenStore, step: VisibleStep, findings: _Findings, name: str) -> Manifest | None:
    try:
        return store.manifest(step.key)
    except DeltackptError as error:
        findings.add(error, name)
        return None


def _check_signature(store: OpenStore, step: VisibleStep, trusted: TrustedKey, findings: _Findings, name: str) -> None:
    try:
        check_signature(store, step.key, trusted)
    except DeltackptError as error:
        findings.add(error, name)


def _check_objects(
    store: OpenStore, manifest: Manifest, sizes: dict[str, int], findings: _Findings, name: str
) -> Iterator[str]:
    """The keys that a manifest lists; notes those that are missing or of another size."""
    wanted = [(index_key(entry.object), entry.size) for entry in manifest.indexes]
    wanted += [(pack_key(pack.name), pack.size) for pack in manifest.packs]
    for key, size in wanted:
        if key not in sizes:
            findings.add(MissingObjectError("the object is gone", where=key), name)
        elif sizes[key] != size:
            findings.add(CorruptObjectError(f"{sizes[key]} bytes instead of {size}", where=key), name)
        yield key


def _check_closure(store: OpenStore, manifest: Manifest, findings: _Findings, name: str) -> bool:
    """Whether all indexes can be read and every need resolves to what the manifest lists."""
    lookup = index_lookup(store, manifest)
    try:
        blocks = [
            (entry.identity, manifest.block_row[manifest.block_index == number])
            for number, entry in enumerate(manifest.indexes)
        ]
        closure = find_closure(blocks, lookup)
        packs = {pack.name for pack in manifest.packs}
        for pack in closure.packs(lookup):
            if pack not in packs:
                raise CorruptObjectError("the manifest does not list a pack that it needs", where=pack_key(pack))
    except DeltackptError as error:
        findings.add(error, name)
        return False
    return True


def _hash_packs(
    store: OpenStore, manifest: Manifest, sizes: dict[str, int], hashed: set[str], findings: _Findings
) -> None:
    """Compare every pack with its name, once; finds damage to bytes that no live record covers, too."""
    for pack in manifest.packs:
        key = pack_key(pack.name)
        if key in hashed or key not in sizes:
            continue
        hashed.add(key)
        try:
            if blake3_digest(store.backend.get(key)) != pack.name:
                findings.add(CorruptObjectError("the pack does not have the hash in its name", where=key), None)
        except DeltackptError as error:
            findings.add(error, None)


class _DeepChecker:
    """Decodes every block of steps that come in order; a record that was decoded is not decoded again."""

    def __init__(self, store: OpenStore, findings: _Findings, threads: int) -> None:
        self.good: set[RecordRef] = set()
        self._store = store
        self._findings = findings
        self._threads = threads
        self._memo = BlockMemo(_MEMO_BYTES)

    def check(self, manifest: Manifest, name: str) -> None:
        lookup = index_lookup(self._store, manifest)
        decoder = BlockDecoder(self._store, lookup, self._memo)
        todo = [(ref, fqn) for ref, fqn in _blocks(manifest) if ref not in self.good]

        def decode(item: tuple[RecordRef, str]) -> tuple[RecordRef, str, DeltackptError | None]:
            ref, fqn = item
            try:
                decoder.decode(ref)
            except DeltackptError as error:
                return ref, fqn, error
            return ref, fqn, None

        with ThreadPoolExecutor(self._threads, thread_name_prefix="deltackpt-verify") as executor:
            for ref, fqn, error in ordered_map(executor, decode, todo, window=2 * self._threads):
                if error is None:
                    self.good.add(ref)
                else:
                    self._findings.add(error, f"{name} {fqn}")


def _blocks(manifest: Manifest) -> Iterator[tuple[RecordRef, str]]:
    """Every block's record, and the entry it belongs to."""
    for number, entry in enumerate(manifest.entries):
        for shard in range(entry.shards):
            for block in manifest.block_range(number, shard):
                identity = manifest.indexes[int(manifest.block_index[block])].identity
                yield RecordRef(identity, int(manifest.block_row[block])), entry.fqn
