"""What statistics of a store say."""

from __future__ import annotations

from dataclasses import dataclass

from deltackpt.store.listing import DamagedStep

__all__ = ["DeadBytes", "ObjectLoss", "Share", "StepStats", "StoreStats", "saved_share"]


@dataclass(frozen=True, slots=True)
class Share:
    """What records of one kind take.

    Attributes:
        name: the role, coder or predictor.
        records: how many there are.
        raw_bytes: for a role, of all its tensors in all steps; for a coder or predictor, decoded.
        stored_bytes: of the records.
        delta_saved: the share by which what delta steps added is smaller than if it took what the same tensors took in
            the key step before; negative where it is larger, None where there is nothing to compare.
    """

    name: str
    records: int
    raw_bytes: int
    stored_bytes: int
    delta_saved: float | None = None


@dataclass(frozen=True, slots=True)
class StepStats:
    """One step.

    Attributes:
        step, branch: its place.
        is_key: whether it needs no other step.
        raw_bytes: of its tensors and objects.
        stored_bytes: what this save added, with index and manifest.
        new_records: records that it wrote.
        duplicate_blocks, duplicate_bytes: blocks that were stored before, by an earlier step or in this one, and their
            decoded bytes.
        delta_saved: as for :class:`Share`.
        bases_cached, bases_decoded: base blocks that its save found in memory, and those decoded from the store.
    """

    step: int
    branch: str
    is_key: bool
    raw_bytes: int
    stored_bytes: int
    new_records: int
    duplicate_blocks: int
    duplicate_bytes: int
    delta_saved: float | None
    bases_cached: int
    bases_decoded: int

    @property
    def name(self) -> str:
        """The step as users write it."""
        return f"{self.branch}:{self.step}"


@dataclass(frozen=True, slots=True)
class ObjectLoss:
    """A pack, and what would go with it.

    Attributes:
        key: of the object.
        artifact: whose records it holds.
        bytes: its size.
        steps: how many steps need it.
    """

    key: str
    artifact: str
    bytes: int
    steps: int


@dataclass(frozen=True, slots=True)
class DeadBytes:
    """What no step needs.

    Attributes:
        objects, object_bytes: packs and indexes that no manifest names: left by deleted steps and by saves that failed
            or still run.
        records, record_bytes: records in packs that are named for others.
    """

    objects: int
    object_bytes: int
    records: int
    record_bytes: int


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Where the bytes of a store are.

    Attributes:
        steps: in order of branch and number.
        damaged: steps that cannot be counted, with the reason.
        raw_bytes: of all tensors and objects of all steps.
        pack_bytes, index_bytes, manifest_bytes: of what the steps name, each object once, and of the manifests.
        roles, coders, predictors: the same records by three measures; those that only others need have the role
            ``(bases)``.
        duplicate_blocks, duplicate_bytes: blocks that were not stored again, and their decoded bytes.
        dead: what no step needs.
        losses: the packs that most steps need, the worst first.
        packs: how many packs the steps name.
        advice: what could be done, in words.
    """

    steps: tuple[StepStats, ...]
    damaged: tuple[DamagedStep, ...]
    raw_bytes: int
    pack_bytes: int
    index_bytes: int
    manifest_bytes: int
    roles: tuple[Share, ...]
    coders: tuple[Share, ...]
    predictors: tuple[Share, ...]
    duplicate_blocks: int
    duplicate_bytes: int
    dead: DeadBytes
    losses: tuple[ObjectLoss, ...]
    packs: int
    advice: tuple[str, ...]

    @property
    def stored_bytes(self) -> int:
        """All that the steps need."""
        return self.pack_bytes + self.index_bytes + self.manifest_bytes

    @property
    def bases_cached(self) -> int:
        """Base blocks found in memory, in all saves."""
        return sum(step.bases_cached for step in self.steps)

    @property
    def bases_decoded(self) -> int:
        """Base blocks decoded from the store, in all saves."""
        return sum(step.bases_decoded for step in self.steps)


def saved_share(expected: float, stored: float) -> float | None:
    """The share by which something is smaller than expected; None where nothing was."""
    return 1 - stored / expected if expected > 0 else None
