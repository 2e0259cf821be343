"""Put damaged objects of a store back as they were: from parity, from another store, from the same blocks elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from deltackpt.backend.base import Backend
from deltackpt.errors import CommitConflictError, DeltackptError, MissingObjectError, StepNotFoundError
from deltackpt.format.keys import StepKey, manifest_key, parity_key, parse_pack_key, step_prefix
from deltackpt.format.parity import decode_parity, rebuild
from deltackpt.pipeline.damage import is_whole, needed_objects, read_whole
from deltackpt.pipeline.rewrite import rewrite_step, step_items
from deltackpt.pipeline.salvage import Salvage
from deltackpt.pipeline.save import SaveSettings
from deltackpt.store.base import UNUSABLE
from deltackpt.store.catalog import VisibleStep, visible_steps
from deltackpt.store.opened import OpenStore

__all__ = ["LostObject", "RepairReport", "RepairedObject", "repair_store"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class RepairedObject:
    """An object that was damaged and is whole again.

    Attributes:
        key: which.
        source: ``"parity"``; ``"copy"``: another store; or ``"duplicates"``: equal records in other packs of this one.
        sectors: how many of its sectors were rebuilt; 0 without parity.
    """

    key: str
    source: Literal["parity", "copy", "duplicates"]
    sectors: int


@dataclass(frozen=True, slots=True)
class LostObject:
    """An object that is damaged and could not be repaired.

    Attributes:
        key: which.
        reason: why, in words.
        steps: the steps that need it, as ``"BRANCH:STEP"``.
    """

    key: str
    reason: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair did.

    Attributes:
        checked: how many objects were read.
        repaired: what is whole again.
        lost: what is not, and is needed.
        rewritten: steps that were written anew, as ``"BRANCH:STEP"``: all their blocks were found, but in other records
            than those of a damaged pack, which they need no longer. They are key steps now, and not signed.
        dropped: the steps removed because of that, as ``"BRANCH:STEP"``.
    """

    checked: int
    repaired: tuple[RepairedObject, ...]
    lost: tuple[LostObject, ...]
    rewritten: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every step that the store lists now is whole."""
        return not self.lost or {step for lost in self.lost for step in lost.steps} <= set(self.dropped)


def repair_store(
    store: OpenStore,
    *,
    other: OpenStore | None = None,
    drop: bool = False,
    threads: int = 1,
    progress: Progress | None = None,
) -> RepairReport:
    """Read every object that a visible step needs, and put back as it was what is not what was written.

    What is put back is byte for byte the object that the step names, so nothing else has to change. Where a pack cannot
    be had, but every block of a step in some other record, the step is written anew. Can be killed at any time and run
    again.

    Args:
        other: a store that may hold the same objects, such as a copy.
        drop: whether steps that stay damaged are removed, so that what the store lists is whole.
        threads: how many encode blocks of steps that are written anew.
        progress: called with the steps done and the steps in all.

    Raises:
        BackendError: the store could not be read or written.
    """
    store = OpenStore(store.backend, store.config)
    sources = _Sources(store.backend, None if other is None else other.backend)
    steps = visible_steps(store)
    users: dict[str, list[str]] = {}
    state: dict[str, RepairedObject | str | None] = {}
    for number, step in enumerate(steps):
        for key in _objects(store, step, sources, state):
            if key not in state:
                state[key] = sources.repair(key)
            users.setdefault(key, []).append(_name(step.key))
        if progress is not None:
            progress(number + 1, len(steps))
    rewritten = _from_duplicates(store, steps, state, users, threads)
    lost = tuple(
        LostObject(key, found, still)
        for key, found in state.items()
        if isinstance(found, str) and (still := tuple(name for name in users[key] if name not in rewritten))
    )
    broken = {name for found in lost for name in found.steps}
    dropped = _drop(store.backend, [s for s in steps if _name(s.key) in broken]) if drop else ()
    repaired = tuple(found for found in state.values() if isinstance(found, RepairedObject))
    return RepairReport(len(state), repaired, lost, rewritten, dropped)


def _from_duplicates(
    store: OpenStore,
    steps: Sequence[VisibleStep],
    state: dict[str, RepairedObject | str | None],
    users: Mapping[str, Sequence[str]],
    threads: int,
) -> tuple[str, ...]:
    """Rebuild lost packs from equal records, noted in ``state``; the steps that were written anew for those left."""
    lost = {name: key for key, found in state.items() if isinstance(found, str) and (name := parse_pack_key(key))}
    if not lost:
        return ()
    readable = [step for step in steps if not isinstance(state[manifest_key(step.key)], str)]
    manifests = {_name(step.key): store.manifest(step.key) for step in readable}
    salvage = Salvage(store, manifests.values(), lost)
    for name, key in list(lost.items()):
        whole = salvage.rebuild(name, read_whole(store.backend, key)[0])
        if whole is not None:
            store.backend.put(key, whole)
            state[key] = RepairedObject(key, "duplicates", 0)
            del lost[name]
    rewritten = []
    for step in sorted({step for key in lost.values() for step in users[key]}):
        try:
            items = step_items(store, manifests[step], salvage.decode)
            rewrite_step(store, manifests[step], settings=SaveSettings(threads, 0), items=items)
        except (*UNUSABLE, StepNotFoundError, CommitConflictError):
            continue  # It stays as damaged as it was, or somebody wrote or deleted it meanwhile.
        rewritten.append(step)
    for key in lost.values():
        state[key] = f"{state[key]}; the same blocks are not all in other packs"
    return tuple(rewritten)


def _objects(
    store: OpenStore, step: VisibleStep, sources: _Sources, state: dict[str, RepairedObject | str | None]
) -> list[str]:
    """The objects of a step, its manifest first, which is repaired here: what else there is stands in it."""
    name = manifest_key(step.key)
    state[name] = sources.repair(name)
    if isinstance(state[name], str):
        return [name]
    return [name, *needed_objects(store.manifest(step.key))]


class _Sources:
    """Where an object can be had from."""

    def __init__(self, backend: Backend, other: Backend | None) -> None:
        self._backend = backend
        self._other = other

    def repair(self, key: str) -> RepairedObject | str | None:
        """None for an object that is whole, what was done for one that is whole again, else why it is not."""
        data, whole = read_whole(self._backend, key)
        if whole:
            return None
        reasons = []
        for attempt in (self._from_parity, self._from_other):
            found = attempt(key, data)
            if not isinstance(found, str):
                content, repaired = found
                self._backend.put(key, content)
                return repaired
            reasons.append(found)
        return "; ".join(reasons)

    def _from_parity(self, key: str, damaged: bytes) -> tuple[bytes, RepairedObject] | str:
        name = parity_key(key)
        try:
            rebuilt = rebuild(decode_parity(self._backend.get(name), source=name), damaged, source=key)
        except MissingObjectError:
            return "it has no parity"
        except DeltackptError as error:
            return error.message
        if not is_whole(key, rebuilt.data):
            return "its parity is of another object"
        return rebuilt.data, RepairedObject(key, "parity", rebuilt.sectors)

    def _from_other(self, key: str, damaged: bytes) -> tuple[bytes, RepairedObject] | str:
        if self._other is None:
            return "no other store was given"
        data, whole = read_whole(self._other, key)
        if not whole:
            return "it is damaged in the other store, too" if data else "the other store does not have it"
        return data, RepairedObject(key, "copy", 0)


def _drop(backend: Backend, steps: Sequence[VisibleStep]) -> tuple[str, ...]:
    """Remove all generations of steps, the lowest first: what an overwrite replaced must not show again."""
    for step in steps:
        for found in list(backend.list(step_prefix(step.key.branch, step.key.step))):
            backend.delete(found.key)
    return tuple(_name(step.key) for step in steps)


def _name(key: StepKey) -> str:
    return f"{key.branch}:{key.step}"
