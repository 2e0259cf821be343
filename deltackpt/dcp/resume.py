"""Which step a run goes on from: the newest one that has all that the state asks for and can be read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.stateful import Stateful
from torch.optim import Optimizer

from deltackpt.api import Store
from deltackpt.dcp.background import DCP_ERRORS, cause_of, failure_of
from deltackpt.dcp.peers import Peers
from deltackpt.dcp.reader import DeltaStorageReader
from deltackpt.errors import DeltackptError, IncompleteStepError, InvalidArgumentError
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import Manifest, Metric
from deltackpt.store.base import UNUSABLE
from deltackpt.store.opened import OpenStore

__all__ = ["Resumed", "SkippedStep", "Target", "find_complete", "load_newest", "make_optimizer_state"]

_LOG = logging.getLogger("deltackpt")


@dataclass(frozen=True, slots=True)
class SkippedStep:
    """A step newer than the one that was resumed from, and why it was passed over.

    Attributes:
        by_design: whether it was saved without some parts of the state and has all of the others, as ``contents`` has
            it.
    """

    branch: str
    step: int
    reason: str
    by_design: bool = False


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a run goes on from.

    Attributes:
        step, branch, generation: the step whose state was loaded.
        metrics: what was recorded with it.
        skipped: newer steps, newest first, that lack a part of the state or are damaged.
        writer: what wrote it.
    """

    step: int
    branch: str
    generation: int
    metrics: Mapping[str, Metric]
    skipped: tuple[SkippedStep, ...]
    writer: Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class _Asked:
    """One value that a state asks for: the top-level key it is under, and the shape, if it is a tensor.

    Attributes:
        is_part: whether that key stands for a part of the state, not for this value alone.
    """

    root: str
    shape: tuple[int, ...] | None
    is_part: bool


@dataclass(frozen=True, slots=True)
class _Lack:
    """What a step does not have, in words; ``by_design`` as in :class:`SkippedStep`."""

    reason: str
    by_design: bool = False


class Target:
    """A state to be loaded into.

    Args:
        state: top-level keys to state dicts, or to objects that have ``state_dict`` and ``load_state_dict``.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._state = state
        self._asked = _asked_by(state)

    def lacks(self, manifest: Manifest) -> _Lack | None:
        """What a step does not have of all that is asked for; None where it has everything.

        An optimizer that has not made a step gets a state to load into, where the step has one for it.

        Raises:
            InvalidArgumentError: the state dict of such an optimizer stands in its place: the moments would be lost.
        """
        lacks = _missing(manifest, self._asked)
        if lacks is not None:
            return lacks
        for root in _without_moments(manifest, self._asked):
            optimizer = self._state[root]
            if not isinstance(optimizer, Optimizer):
                raise InvalidArgumentError(
                    f"the state under {root!r} has no tensors to load the optimizer's into",
                    hint=f"pass the optimizer itself: {{{root!r}: optimizer}}",
                )
            make_optimizer_state(optimizer)
        self._asked = _asked_by(self._state)
        return _missing(manifest, self._asked)


def make_optimizer_state(optimizer: Optimizer) -> None:
    """Let an optimizer without a state make one to load into, as torch does: a step with zero gradients and rate.

    Parameters may change by it where an optimizer applies weight decay without the rate: load them afterwards.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    kept = [(p, p.grad) for p in parameters]
    rates = [(group, group["lr"]) for group in optimizer.param_groups if "lr" in group]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for group, rate in rates:
        group["lr"] = torch.zeros_like(rate) if isinstance(rate, torch.Tensor) else 0.0
    optimizer.step()
    for group, rate in rates:
        group["lr"] = rate
    for parameter, gradient in kept:
        parameter.grad = gradient


def load_newest(
    store: Store, candidates: Sequence[StepKey], state: dict[str, Any], peers: Peers, *, trust_objects: bool
) -> Resumed:
    """Load the newest of some steps that has everything and is not damaged, in place. A collective.

    Args:
        candidates: steps of one line, newest first, at least one; the same on all ranks.
        state: as for :class:`Target`; values that are no objects are replaced.

    Raises:
        IncompleteStepError: none of them will do; if damage is all there is to it, its own error.
        InvalidArgumentError: as :meth:`Target.lacks`.
    """
    target = Target(state)
    passed: list[SkippedStep] = []
    left = list(candidates)
    while True:
        key, lacking = find_complete(store.opened, left, target, peers)
        passed += lacking
        if key is None:
            raise _nothing_complete(candidates[0].branch, passed, store.url)
        reader = DeltaStorageReader(store, key.step, branch=key.branch, trust_objects=trust_objects)
        try:
            load(state, storage_reader=reader, process_group=peers.group)
        except DCP_ERRORS as error:
            left = left[left.index(key) + 1 :]
            if not left or not isinstance(cause_of(error), UNUSABLE):
                raise failure_of(f"step {key.branch}:{key.step} cannot be loaded", error) from error
            passed.append(SkippedStep(key.branch, key.step, f"it is damaged: {cause_of(error)}"))
        else:
            _log_passed(passed)
            header = store.opened.manifest(key).header
            return Resumed(key.step, key.branch, key.generation, header.metrics, tuple(passed), header.writer)


def _log_passed(passed: Sequence[SkippedStep]) -> None:
    """Steps that lack what they were not to have are told in one line; the others are warned of."""
    for skipped in passed:
        if not skipped.by_design:
            _LOG.warning("step %s:%d is passed over: %s", skipped.branch, skipped.step, skipped.reason)
    thin = [skipped for skipped in passed if skipped.by_design]
    if thin:
        steps = f"step {thin[0].step}" if len(thin) == 1 else f"{len(thin)} steps, {thin[-1].step} to {thin[0].step},"
        _LOG.info("passed over %s of branch %s: %s", steps, thin[0].branch, thin[0].reason)


def _nothing_complete(branch: str, skipped: Sequence[SkippedStep], where: str) -> IncompleteStepError:
    newest = skipped[0]
    return IncompleteStepError(
        f"no step of branch {branch} has all of the state; of the newest, {newest.step}: {newest.reason}",
        where=where,
        hint="is it the state that was saved? Step.load() reads parts of one; a new run belongs in a new branch",
    )


def find_complete(
    store: OpenStore, candidates: Sequence[StepKey], target: Target, peers: Peers
) -> tuple[StepKey | None, list[SkippedStep]]:
    """The newest candidate that has everything on every rank, and those passed over before it. A collective.

    Args:
        candidates: steps, newest first; the same on all ranks.

    Raises:
        InvalidArgumentError: as :meth:`Target.lacks`.
        IncompleteStepError: another rank raised.
    """
    none, failed = len(candidates), len(candidates) + 1
    reasons: dict[StepKey, _Lack] = {}
    other = _Lack("another rank passes it over")
    start = 0
    while True:
        error = None
        try:
            found = _next_complete(store, candidates, start, target, reasons)
        except DeltackptError as raised:
            error, found = raised, failed
        start, newest = peers.agree([found, -found])
        if error is not None:
            raise error
        if start == failed:
            raise IncompleteStepError("another rank cannot load its part of the state", where=store.url)
        if start in (-newest, none):
            why = [(key, reasons.get(key, other)) for key in candidates[:start]]
            skipped = [SkippedStep(key.branch, key.step, lack.reason, lack.by_design) for key, lack in why]
            return (None if start == none else candidates[start]), skipped


def _next_complete(
    store: OpenStore, candidates: Sequence[StepKey], start: int, target: Target, reasons: dict[StepKey, _Lack]
) -> int:
    """The place of the first candidate from ``start`` on that has everything; their number where none has."""
    for place in range(start, len(candidates)):
        key = candidates[place]
        try:
            lacks = target.lacks(store.manifest(key))
        except UNUSABLE as error:
            lacks = _Lack(f"its manifest cannot be read: {error}")
        if lacks is None:
            return place
        reasons[key] = lacks
    return len(candidates)


def _asked_by(state: Mapping[str, Any]) -> dict[str, _Asked]:
    """What DCP would load into a state, by FQN."""
    planner = DefaultLoadPlanner()
    plain = {key: value.state_dict() if isinstance(value, Stateful) else value for key, value in state.items()}
    planner.set_up_planner(plain, Metadata({}), False)
    return {
        fqn: _Asked(
            root=str(planner.mappings[fqn][0]),
            shape=tuple(value.size()) if _is_tensor(value) else None,
            is_part=len(planner.mappings[fqn]) > 1,
        )
        for fqn, value in planner.state_dict.items()
    }


def _is_tensor(value: object) -> bool:
    # Sharded tensors of the older kind are no torch.Tensor.
    return isinstance(value, torch.Tensor) or hasattr(value, "local_shards")


def _missing(manifest: Manifest, asked: Mapping[str, _Asked]) -> _Lack | None:
    shapes = {entry.fqn: entry.shape if entry.kind == "tensor" else None for entry in manifest.entries}
    lacks = []
    for fqn, wanted in asked.items():
        if fqn not in shapes:
            lacks.append(fqn)
        elif wanted.shape is not None and shapes[fqn] != wanted.shape:
            lacks.append(f"{fqn} of shape {list(wanted.shape)}")
    if not lacks:
        return None
    held = {str((entry.path or (entry.fqn,))[0]) for entry in manifest.entries}
    absent = [asked[fqn] for fqn in asked if fqn not in shapes]
    if len(absent) == len(lacks) and all(wanted.is_part and wanted.root not in held for wanted in absent):
        parts = sorted({wanted.root for wanted in absent})
        return _Lack(f"it was saved without {' and '.join(parts)}", by_design=True)
    return _Lack(f"it has no {lacks[0]}" + (f" and lacks {len(lacks) - 1:,} more" if len(lacks) > 1 else ""))


def _without_moments(manifest: Manifest, asked: Mapping[str, _Asked]) -> list[str]:
    """The keys under which the step has tensors of an optimizer and the state, where it has the key, none."""
    stored = {
        str((entry.path or (entry.fqn,))[0])
        for entry in manifest.entries
        if entry.kind == "tensor" and entry.artifact == "optim"
    }
    named = {wanted.root for wanted in asked.values()}
    return sorted((stored & named) - {wanted.root for wanted in asked.values() if wanted.shape is not None})
