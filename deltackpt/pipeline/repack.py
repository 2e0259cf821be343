"""Write a history anew: as a tree in which steps are predicted from both sides, with a bound on its depth.

Each step becomes a new generation of itself that is complete on its own, after the steps that it is predicted from. So
a kill at any moment leaves every step whole, some at their old generation and some at the new one. The old generations
go when all is done; their bytes are then garbage, for gc.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltackpt.errors import InvalidArgumentError, StepNotFoundError
from deltackpt.format.manifest import Entry, Manifest, ManifestHeader
from deltackpt.pipeline.bases import Start
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.load import load_wanted
from deltackpt.pipeline.plan_load import Wanted
from deltackpt.pipeline.repack_measure import measure_history
from deltackpt.pipeline.rewrite import claim_source, rewrite_step
from deltackpt.pipeline.save import SaveSettings
from deltackpt.pipeline.shelf import Shelf
from deltackpt.pipeline.slots import element_view
from deltackpt.pipeline.walk import walk_steps
from deltackpt.store.base import BaseView
from deltackpt.store.base_cache import BaseCache
from deltackpt.store.chain import Chain
from deltackpt.store.chain_choice import ChainChoice
from deltackpt.store.opened import OpenStore
from deltackpt.store.pending import Announcement
from deltackpt.store.remove import remove_manifests
from deltackpt.store.tree import Node, Shape, best_shape, plan_tree, tree_cost
from deltackpt.store.usage import pinned_bytes
from deltackpt.store.visible import VisibleStep, find_place, visible_steps
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_code

__all__ = ["TARGETS", "History", "RepackReport", "repack_branch"]

Bytes = NDArray[np.uint8]
Progress = Callable[[int, int], None]

# The depth that a target allows where none is given.
TARGETS = {"smallest": 8, "fastest": 2, "key-every": 8}


@dataclass(frozen=True, slots=True)
class History:
    """The steps of a branch in numbers.

    Attributes:
        stored_bytes: of all of them, with what they need of steps that are gone; an estimate where it is said to be
            one.
        depth: the most records that are decoded, one after another, for any of them.
        keys: how many of them need no other.
        restore_bytes: what the dearest of them reads; 0 in an estimate.
    """

    stored_bytes: int
    depth: int
    keys: int
    restore_bytes: int


@dataclass(frozen=True, slots=True)
class RepackReport:
    """What a repack did, or would do.

    Attributes:
        branch: of which line.
        steps: how many steps it has.
        shape: how the history is cut: a key step every ``segment`` steps, ``run`` steps in a row predicted from the one
            before.
        before, after: the history as it was and as it is; after a dry run an estimate from samples.
        spared: generations that stay for the sake of a save in progress, as ``"BRANCH:STEP"``.
        dry_run: whether nothing was done.
    """

    branch: str
    steps: int
    shape: Shape
    before: History
    after: History
    spared: tuple[str, ...]
    dry_run: bool


def repack_branch(
    store: OpenStore,
    branch: str,
    *,
    target: str,
    max_depth: int | None,
    key_every: int | None,
    settings: SaveSettings,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> RepackReport:
    """Write the steps of a branch anew.

    One state is held in memory, and blocks of others within ``settings.base_memory``.

    Args:
        target: ``"smallest"``, ``"fastest"`` or ``"key-every"``; says how deep records get if ``max_depth`` does not.
        max_depth: the most records that are decoded, one after another, to get a block.
        key_every: a key step every so many steps; with the target ``"key-every"``.
        dry_run: only measure samples.
        progress: called with the steps done and the steps in all.

    Raises:
        StepNotFoundError: the branch has no steps.
        InvalidArgumentError: an unknown target, or numbers that make no sense.
        CorruptObjectError, MissingObjectError: a step cannot be read; those that were written anew before stay so.
        CommitConflictError: somebody else wrote one of the steps meanwhile.
    """
    depth = _check(target, max_depth, key_every)
    steps = visible_steps(store, branch)
    if not steps:
        raise StepNotFoundError(f"branch {branch} has no steps", where=store.url)
    headers = [store.header(step.key, step.manifest_bytes) for step in steps]
    before = _history(store, steps, headers)
    costs = measure_history(store, steps)
    shape = best_shape(len(steps), costs, depth, key_every)
    nodes = plan_tree(len(steps), shape)
    if dry_run:
        # Where pruning left no key step to go by, the samples have to do.
        keys = [h.stored_bytes for h in headers if h.is_key]
        scale = 1.0 if costs is None else float(np.mean(keys)) / costs.alone if keys else 1.0
        after = History(
            int(before.stored_bytes if costs is None else tree_cost(nodes, costs) * scale),
            shape.depth,
            sum(node.is_key for node in nodes),
            0,
        )
        return RepackReport(branch, len(steps), shape, before, after, (), True)
    _rewrite(store, steps, nodes, depth, settings, progress)
    spared = remove_manifests(store, [step.key for step in steps]).spared
    now = visible_steps(store, branch)
    after = _history(store, now, [store.header(step.key, step.manifest_bytes) for step in now])
    return RepackReport(
        branch, len(steps), shape, before, after, tuple(f"{key.branch}:{key.step}" for key in spared), False
    )


def _check(target: str, max_depth: int | None, key_every: int | None) -> int:
    if target not in TARGETS:
        raise InvalidArgumentError(f"unknown target {target!r}", hint=f"one of: {', '.join(TARGETS)}")
    if (target == "key-every") != (key_every is not None):
        raise InvalidArgumentError("key_every belongs to the target 'key-every'", hint="give both or neither")
    depth = TARGETS[target] if max_depth is None else max_depth
    for name, value in (("max_depth", depth), ("key_every", 1 if key_every is None else key_every)):
        if value < 1:
            raise InvalidArgumentError(f"{name} must be at least 1, not {value}")
    return depth


def _history(store: OpenStore, steps: Sequence[VisibleStep], headers: Sequence[ManifestHeader]) -> History:
    own = sum(h.stored_bytes + s.manifest_bytes for h, s in zip(headers, steps, strict=True))
    return History(
        own + pinned_bytes(store, steps),
        max(h.depth for h in headers),
        sum(h.is_key for h in headers),
        max(h.restore_bytes for h in headers),
    )


def _rewrite(
    store: OpenStore,
    steps: Sequence[VisibleStep],
    nodes: Sequence[Node],
    max_depth: int,
    settings: SaveSettings,
    progress: Progress | None,
) -> None:
    # Half for blocks of old records that other old ones need, half for those of new ones.
    half = SaveSettings(settings.threads, settings.base_memory // 2)
    cache = BaseCache(half.base_memory)
    walk = walk_steps(store, [steps[node.position].key for node in nodes], "", memory=half.base_memory)
    key: Node | None = None
    for done, (node, (manifest, shelf)) in enumerate(zip(nodes, walk, strict=True)):
        before = key
        key = node if node.is_key else key
        items = _load(store, manifest, shelf, settings.threads)

        def choose(
            announcement: Announcement,
            node: Node = node,
            manifest: Manifest = manifest,
            before: Node | None = before,
        ) -> Start:
            claim_source(announcement, manifest)
            if node.is_key:
                older = _claim(store, announcement, steps, None if before is None else before.position)
                chain = Chain(None, False, None, 0, keep=True, last=False)
                return Start(older, chain, ChainChoice("tree"), None, max_depth)
            older, newer = (_claim(store, announcement, steps, position) for position in (node.older, node.newer))
            chain = Chain(None, True, None, 1, keep=True, last=False)
            return Start(older, chain, ChainChoice("tree"), newer, max_depth)

        rewrite_step(store, manifest, settings=half, choose=choose, cache=cache, items=items)
        if progress is not None:
            progress(done + 1, len(nodes))


def _claim(
    store: OpenStore, announcement: Announcement, steps: Sequence[VisibleStep], position: int | None
) -> BaseView | None:
    """The step at a position as it is now; None where there is none, or it is about to be deleted."""
    if position is None:
        return None
    key = steps[position].key
    found = find_place(store, key.branch, key.step)
    usable = [] if found is None else announcement.claim([store.manifest(found.key)])
    return BaseView(store, usable[0]) if usable else None


def _load(store: OpenStore, manifest: Manifest, shelf: Shelf, threads: int) -> list[SaveItem]:
    """Everything in a step, in memory."""
    items: list[SaveItem] = []
    wanted: list[Wanted] = []
    for number, entry in enumerate(manifest.entries):
        for box in manifest.shard_boxes(number):
            dtype = by_code(entry.dtype, where=entry.fqn)
            data = np.empty(box.numel * dtype.itemsize, np.uint8)
            elements = element_view(data, dtype, box.sizes)
            wanted.append(Wanted(entry.fqn, box, _writer(elements, box)))
            items.append(_item(entry, box, elements))
    load_wanted(store, manifest, wanted, threads=threads, shelf=shelf)
    return items


def _writer(target: NDArray[np.generic], box: Box) -> Callable[[Box, NDArray[np.generic]], None]:
    def write(place: Box, elements: NDArray[np.generic]) -> None:
        target[place.relative_to(box).slices()] = elements

    return write


def _item(entry: Entry, box: Box, elements: NDArray[np.generic]) -> SaveItem:
    def read(part: Box) -> Bytes:
        return np.array(elements[part.relative_to(box).slices()], order="C").reshape(-1).view(np.uint8)

    return SaveItem(
        fqn=entry.fqn,
        kind=entry.kind,
        dtype=by_code(entry.dtype, where=entry.fqn),
        box=box,
        artifact=entry.artifact,
        role=entry.role,
        place=(entry.fqn,) if entry.path is None else entry.path,
        read=read,
        block_elements=entry.block_elements,
    )
