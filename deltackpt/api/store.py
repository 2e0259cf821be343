"""One repository of checkpoints: ``Store``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from deltackpt.api.info import BranchInfo, StepInfo
from deltackpt.api.step import Step
from deltackpt.backend.url import open_backend
from deltackpt.errors import InvalidArgumentError
from deltackpt.format.keys import check_branch
from deltackpt.format.manifest import Manifest, Metric
from deltackpt.pipeline.compact import compact_store
from deltackpt.pipeline.copy import CopyReport, copy_steps
from deltackpt.pipeline.diff import StepDiff, diff_steps
from deltackpt.pipeline.protect import ProtectReport, protect_store
from deltackpt.pipeline.prune import PruneReport, prune_store
from deltackpt.pipeline.repack import RepackReport, repack_branch
from deltackpt.pipeline.repair import RepairReport, repair_store
from deltackpt.pipeline.save import SaveSettings, default_threads
from deltackpt.pipeline.verify import VerifyReport, verify_store
from deltackpt.pipeline.walk import walk_steps
from deltackpt.store.base_cache import parse_base_memory
from deltackpt.store.branches import delete_branch, make_branch
from deltackpt.store.catalog import DEFAULT_BRANCH, find_step, parse_step, visible_steps
from deltackpt.store.collect import GRACE, GcReport, collect
from deltackpt.store.listing import list_steps, log_damaged
from deltackpt.store.names import add_note, put_tag, read_branch_starts, remove_tag
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.store.ranges import find_steps
from deltackpt.store.remove import Removed
from deltackpt.store.retention import Retention
from deltackpt.store.select import record_of_listed, select, sort_by
from deltackpt.store.signing import sign_steps
from deltackpt.store.signing_keys import SigningKey, TrustedKey
from deltackpt.store.stats import StoreStats, collect_stats
from deltackpt.store.where import parse_where

if TYPE_CHECKING:
    from deltackpt.formats.eject import EjectedStep, EjectReport
    from deltackpt.formats.importing.report import ImportReport, Meter
    from deltackpt.formats.watch import Watch, WatchEvent

__all__ = ["Store"]

_DEFAULTS = StoreOptions()


class Store:
    """One repository of checkpoints. Make one with :meth:`create` or :meth:`open`.

    Example:
        >>> import deltackpt
        >>> store = deltackpt.Store.create("memory://docs-store", key_every=16)
        >>> store.steps()
        []
    """

    def __init__(self, opened: OpenStore) -> None:
        self._opened = opened

    @classmethod
    def create(
        cls,
        url: str | os.PathLike[str],
        *,
        chain: str = _DEFAULTS.chain,
        key_every: int = _DEFAULTS.key_every,
        max_depth: int = _DEFAULTS.max_depth,
        block_elements: int = _DEFAULTS.block_elements,
        pack_bytes: int = _DEFAULTS.pack_bytes,
        level: int = _DEFAULTS.level,
        read_factor: float = _DEFAULTS.read_factor,
    ) -> Store:
        """Make a new store in an empty or new folder.

        Args:
            url: a path, ``file://`` URL, or ``memory://NAME``.
            chain: what deltas are taken against: ``"previous"`` (the step before), ``"anchor"`` (the last key step),
                ``"skip"`` (such that few deltas lead to any step), or ``"auto"``, what measurements favour.
            key_every: a key step at least every this many steps.
            max_depth: the most records that one block may take to decode.
            block_elements: the most elements of a block.
            pack_bytes: the size at which a pack is closed.
            level: the zstd level.
            read_factor: how many times the bytes of weights alone reading these may take, where they are predicted
                from their moments.

        Raises:
            StoreExistsError: there is a store already.
            NotAStoreError: the folder holds something else.
            InvalidArgumentError: an option makes no sense.
        """
        options = StoreOptions(chain, key_every, max_depth, block_elements, pack_bytes, level, read_factor)
        return cls(create_store(open_backend(url, create=True), options))

    @classmethod
    def open(cls, url: str | os.PathLike[str]) -> Store:
        """Open an existing store.

        Raises:
            StoreNotFoundError: nothing is there.
            NotAStoreError: what is there is not a store.
            UnknownVersionError: a newer version wrote it.
        """
        return cls(open_store(open_backend(url)))

    @property
    def url(self) -> str:
        return self._opened.url

    @property
    def id(self) -> str:
        """32 hex digits that no other store has."""
        return self._opened.config.id

    @property
    def options(self) -> StoreOptions:
        return self._opened.options

    @property
    def opened(self) -> OpenStore:
        """The layer below, for code that extends the package."""
        return self._opened

    def branches(self) -> list[str]:
        """The branches that have steps or were made with :meth:`branch`, in alphabetical order."""
        return [info.name for info in self.branch_infos()]

    def branch_infos(self) -> list[BranchInfo]:
        """All branches in alphabetical order, and where they start."""
        steps: dict[str, list[int]] = {}
        for step in visible_steps(self._opened):
            steps.setdefault(step.key.branch, []).append(step.key.step)
        starts = {n: f"{s.start.branch}:{s.start.step}" for n, s in read_branch_starts(self._opened).items()}
        return [
            BranchInfo(name, starts.get(name), len(steps.get(name, ())), max(steps.get(name, ()), default=None))
            for name in sorted({*steps, *starts})
        ]

    def branch(self, name: str, *, at: int | str) -> BranchInfo:
        """Make a branch that starts at a step: the first step saved into it may build on that one.

        Nothing is copied, and the branch stays whole when its parent is deleted. Making it again is no error.

        Args:
            at: a step as :meth:`step` takes it.

        Raises:
            StepNotFoundError: there is no such step.
            InvalidArgumentError: the branch has steps or starts elsewhere, or the name is reserved.
        """
        make_branch(self._opened, name, find_step(self._opened, parse_step(at)).key)
        return next(info for info in self.branch_infos() if info.name == name)

    def delete_branch(self, name: str) -> Removed:
        """Delete a branch with all its steps. Branches that start in it stay whole.

        Raises:
            StepNotFoundError: there is no such branch.
        """
        return delete_branch(self._opened, name)

    def steps(
        self, branch: str | None = DEFAULT_BRANCH, *, where: str | None = None, sort: str | None = None
    ) -> list[StepInfo]:
        """The steps of a branch (None: of all) in order; one short read each.

        A step whose manifest is damaged is left out, and logged; :meth:`verify` says more.

        Args:
            where: only steps for which this holds, such as ``"val_loss < 2.1 and step > 1000"`` (``docs/history.md``).
            sort: in rising order of this value; falling with ``-`` before it.

        Raises:
            InvalidArgumentError: that is no condition, or no step has a value of a name.
        """
        listing = list_steps(self._opened, branch)
        log_damaged(listing.damaged)
        if where is None and sort is None:
            return [StepInfo.from_listed(step) for step in listing.steps]
        found = [(step, record_of_listed(step)) for step in listing.steps]
        if where is not None:
            found = select(found, [parse_where(where)])
        if sort is not None:
            found = sort_by(found, sort)
        return [StepInfo.from_listed(step) for step, _ in found]

    def step(self, step: int | str, branch: str = DEFAULT_BRANCH) -> Step:
        """One step, as it is now: a later overwrite does not change it.

        Args:
            step: ``1000``, ``"latest"``, ``"BRANCH:1000"``, ``"tag:NAME"``, ``"best:METRIC"``, ``"best:METRIC:min"``,
                or ``"@2026-06-07"``: the newest one saved until then.

        Raises:
            StepNotFoundError: there is none.
            InvalidArgumentError: that is not how a step is written.
        """
        found = find_step(self._opened, parse_step(step, branch))
        return Step(self._opened, found.key, found.manifest_bytes)

    def iter_steps(
        self,
        steps: Iterable[int | str] | None = None,
        prefix: str = "",
        *,
        branch: str = DEFAULT_BRANCH,
        memory: int | str = "auto",
        trust_objects: bool = False,
    ) -> Iterator[tuple[Step, dict[str, object]]]:
        """Load many steps one after another; what several of them are decoded from is decoded once.

        Args:
            steps: as :meth:`step` takes them, best in rising order; by default all of the branch.
            prefix: of the FQNs to load; a step where nothing starts with it gives an empty dict.
            branch: of steps that do not name one.
            memory: bytes in which decoded blocks are kept from step to step, or ``"auto"``, a quarter of the free
                memory. For every record to be decoded once, ``previous`` chains take one state, ``skip`` chains a few.
            trust_objects: whether objects that are pickles may be loaded, which lets them run any code.

        Yields:
            The step, and FQN to tensor (or value, for objects).

        Raises:
            StepNotFoundError: one of the steps is not there.
            InvalidArgumentError: that is not how a step is written, or an amount of memory.
            UntrustedObjectError: an object is a pickle and was not trusted.

        Example:
            >>> import torch
            >>> from torch.distributed.checkpoint import save
            >>> from deltackpt.dcp import DeltaStorageWriter
            >>> store = Store.create("memory://docs-walk")
            >>> for step in (1, 2):
            ...     writer = DeltaStorageWriter(store, step=step)
            ...     _ = save({"w": torch.full((2,), float(step))}, storage_writer=writer, no_dist=True)
            >>> [(step.key.step, state["w"].tolist()) for step, state in store.iter_steps()]
            [(1, [1.0, 1.0]), (2, [2.0, 2.0])]
        """
        from deltackpt.formats.state import load_entries

        opened = self._opened
        if steps is None:
            found = visible_steps(opened, branch)
        else:
            found = [find_step(opened, parse_step(step, branch)) for step in steps]
        walk = walk_steps(opened, [step.key for step in found], prefix, memory=parse_base_memory(memory))
        for place, (manifest, shelf) in zip(found, walk, strict=True):
            step = Step(opened, place.key, place.manifest_bytes)
            entries = [entry for entry in manifest.entries if entry.fqn.startswith(prefix)]
            yield (
                step,
                load_entries(
                    opened,
                    manifest,
                    entries,
                    trust_objects=trust_objects,
                    threads=default_threads(),
                    shelf=shelf,
                ),
            )

    def tag(self, step: int | str, name: str, *, move: bool = False) -> None:
        """Name a step.

        Args:
            step: as :meth:`step` takes it.
            move: whether the tag may be taken from another step.

        Raises:
            StepNotFoundError: there is no such step.
            InvalidArgumentError: another step has the tag, and not ``move``.
        """
        put_tag(self._opened, name, find_step(self._opened, parse_step(step)).key, move=move)

    def untag(self, name: str) -> None:
        """Take a tag away.

        Raises:
            StepNotFoundError: there is no such tag.
        """
        remove_tag(self._opened, name)

    def annotate(self, step: int | str, metrics: Mapping[str, Metric]) -> None:
        """Add metrics that came after a step was saved, such as evaluations. Of the same name, the latest counts.

        Args:
            step: as :meth:`step` takes it.

        Raises:
            StepNotFoundError: there is no such step.
            InvalidArgumentError: a value that cannot be recorded.
        """
        found = find_step(self._opened, parse_step(step))
        header = self._opened.header(found.key, found.manifest_bytes)
        add_note(self._opened, found.key, header.created, metrics)

    def prune(
        self,
        retention: Retention,
        *,
        branch: str | None = DEFAULT_BRANCH,
        only: str | Collection[str] = (),
        rebase: bool = False,
        force: bool = False,
        dry_run: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> PruneReport:
        """Delete the steps of a branch that no rule keeps. The bytes come free with the next :meth:`gc`.

        Args:
            branch: None for all branches, each by itself.
            only: an artifact, or several, such as ``"optim"``: of steps that no rule keeps, only these go.
            rebase: write steps that stay anew, so that they need nothing of those that go.
            force: whether the newest step may go, too.
            dry_run: only say what would go, why others stay, and how many bytes come free.
            progress: called with the manifests read and the manifests in all.

        Raises:
            StepNotFoundError: there is no such branch.
        """
        return prune_store(
            self._opened,
            retention,
            branches=None if branch is None else [branch],
            settings=SaveSettings(default_threads(), 0),
            only=(only,) if isinstance(only, str) else tuple(only),
            rebase=rebase,
            force=force,
            dry_run=dry_run,
            progress=progress,
        )

    def repack(
        self,
        target: str = "smallest",
        *,
        branch: str = DEFAULT_BRANCH,
        max_depth: int | None = None,
        key_every: int | None = None,
        memory: int | str = "auto",
        dry_run: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> RepackReport:
        """Write the steps of a branch anew, each predicted from steps on both sides of it, in a tree of bounded depth.

        Every step becomes a new generation, and stays as it is until that is complete: at any moment, all steps can be
        loaded, and a repack that was killed can be started again. The bytes come free with the next gc.

        Args:
            target: ``"smallest"`` (of all trees as deep as allowed), ``"fastest"`` (to restore: ``max_depth`` 2), or
                ``"key-every"``.
            max_depth: the most records that are decoded, one after another, to get a block; 8 if not given.
            key_every: with ``"key-every"``: a key step every so many steps.
            memory: bytes in which decoded blocks are kept, or ``"auto"``. One state is held beside them.
            dry_run: change nothing, and estimate from samples what would come of it.
            progress: called with the steps done and the steps in all.

        Raises:
            StepNotFoundError: the branch has no steps.
            InvalidArgumentError: an unknown target, or numbers that make no sense.
            CommitConflictError: somebody else wrote one of the steps meanwhile.
            CorruptObjectError, MissingObjectError: a step cannot be read.
        """
        return repack_branch(
            self._opened,
            branch,
            target=target,
            max_depth=max_depth,
            key_every=key_every,
            settings=SaveSettings(default_threads(), parse_base_memory(memory)),
            dry_run=dry_run,
            progress=progress,
        )

    def import_checkpoints(
        self,
        sources: Sequence[str | os.PathLike[str]],
        *,
        branch: str = DEFAULT_BRANCH,
        pattern: str | None = None,
        step: int | None = None,
        strict: bool = False,
        overwrite: bool = False,
        remove_source: bool = False,
        as_bytes: Sequence[str] = (),
        dry_run: bool = False,
        threads: int | None = None,
        base_memory: int | str = 384 << 20,
        progress: Callable[[Meter], None] | None = None,
    ) -> ImportReport:
        """Take in checkpoints that lie on disk as files, byte for byte, in order of their steps.

        What each is and which step it is, its files and names tell (``docs/import.md``). A step that is there with the
        same files is left as it is; one that cannot be imported is in the report, and the others are imported.

        Args:
            sources: files and folders, each a checkpoint or a folder of many.
            pattern: which paths in the sources are checkpoints, with ``{step}`` for the number: ``"ckpt_{step}.pt"``.
            step: the number of the only checkpoint there is, where its name does not say it.
            strict: whether a checkpoint that lacks files is refused.
            overwrite: whether a step that holds other files is replaced.
            remove_source: whether each source is removed once its step was read back and compared with it.
            as_bytes: which files are not to be understood but kept as bytes, whatever they are: their paths in the
                checkpoint, with ``*`` and ``?`` as in a shell.
            dry_run: whether only to say what would be imported.
            threads: by default one a core.
            base_memory: bytes of memory for blocks that the next step is predicted from, or ``"auto"``.
            progress: called, from any thread, whenever there is progress.

        Raises:
            InvalidArgumentError: a source is not there or holds no checkpoint, or an argument makes no sense.
            BackendError: the store cannot be written.
        """
        from deltackpt.formats.importing.report import ImportReport
        from deltackpt.formats.importing.run import ImportSettings, plan_of, run_import
        from deltackpt.formats.layouts.discover import discover

        workers = default_threads() if threads is None else threads
        save = SaveSettings(workers, parse_base_memory(base_memory))
        settings = ImportSettings(check_branch(branch), strict, overwrite, remove_source, save, as_bytes)
        found = discover([Path(source) for source in sources], pattern=pattern, step=step)
        skipped = [(skip.path, skip.reason) for skip in found.skipped]
        if not found.checkpoints:
            reasons = "; ".join(f"{path.name}: {reason}" for path, reason in skipped[:3])
            raise InvalidArgumentError(
                f"there is no checkpoint in it{f' ({reasons})' if reasons else ''}",
                where=", ".join(map(str, sources)),
                hint="name the folder that holds the checkpoints, or say which paths are some with a pattern",
            )
        if dry_run:
            return ImportReport([plan_of(one) for one in found.checkpoints], skipped)
        return run_import(self._opened, found.checkpoints, settings, skipped=skipped, changed=progress)

    def gc(
        self,
        *,
        grace: float = GRACE.total_seconds(),
        wait: bool = True,
        compact: bool = True,
        dry_run: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> GcReport:
        """Delete what no step lists any more: packs and index objects of steps that are gone, replaced generations.

        Safe while others save and read. What a save in progress may need stays until a later run.

        Args:
            grace: seconds for which objects stay after they were marked, for readers that began before.
            wait: wait for that. Without, this run deletes what earlier ones marked, as suits a training loop.
            compact: first copy what is needed out of packs of which less than 70% is. This looks at every record that a
                step needs: leave it to a run now and then.
            dry_run: only say how much could go, without ``compact``.
            progress: called with the manifests read and the manifests in all.

        Raises:
            CorruptObjectError: a manifest cannot be read, so that nobody knows what it needs; nothing was deleted.
        """
        compacted = compact_store(self._opened) if compact and not dry_run else ()
        span = timedelta(seconds=grace)
        report = collect(self._opened, grace=span, wait=wait, dry_run=dry_run, progress=progress)
        return replace(report, compacted=compacted)

    def verify(
        self,
        *,
        deep: bool = False,
        signed_by: str | os.PathLike[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> VerifyReport:
        """Check that every step has all it needs; ``deep`` also decodes every record.

        Reports what is wrong and which steps and tensors it concerns; raises only where the store cannot be listed.

        Args:
            signed_by: the file of a public key that must have signed every step.
            progress: called with the steps done and the steps in all.
        """
        trusted = None if signed_by is None else TrustedKey.read(signed_by)
        return verify_store(self._opened, deep=deep, trusted=trusted, threads=default_threads(), progress=progress)

    def diff(
        self,
        a: int | str,
        b: int | str,
        *,
        prefix: str = "",
        whole: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> StepDiff:
        """What changed from step ``a`` to step ``b``, tensor by tensor and layer by layer.

        Blocks with the same bytes are not read, so that norms are those of the other blocks.

        Args:
            prefix: only tensors and objects whose FQN starts with it.
            whole: whether to read all blocks, for the norms of whole tensors.
            progress: called with the blocks done and the blocks in all.

        Raises:
            StepNotFoundError: there is no such step.
            TensorNotFoundError: nothing in either step starts with ``prefix``.
            CorruptObjectError, MissingObjectError: a record is damaged or gone.
        """
        return diff_steps(
            self._opened,
            self.step(a).manifest,
            self.step(b).manifest,
            prefix=prefix,
            whole=whole,
            threads=default_threads(),
            progress=progress,
        )

    def stats(self, *, progress: Callable[[int, int], None] | None = None) -> StoreStats:
        """Where the bytes are: by role, step, coder and predictor; what is dead; what a lost pack would take along.

        Reads manifests and indexes, no packs.

        Args:
            progress: called with the steps done and the steps in all.
        """
        return collect_stats(self._opened, progress=progress)

    def protect(self, share: float = 0.05, *, progress: Callable[[int, int], None] | None = None) -> ProtectReport:
        """Give every object that a step needs parity, from which damage to it can be repaired.

        Args:
            share: parity bytes for each byte of an object: up to about this share of it may be damaged.
            progress: called with the objects done and the objects in all.

        Raises:
            InvalidArgumentError: a share that is not above 0 and at most 1.
            MissingPackageError: ``zfec`` is not installed.
        """
        return protect_store(self._opened, share, threads=default_threads(), progress=progress)

    def repair(
        self,
        *,
        source: Store | None = None,
        drop: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> RepairReport:
        """Put damaged objects back as they were, from their parity or from another store.

        Args:
            source: a store that may have the same objects, such as a copy of this one.
            drop: whether steps that cannot be repaired are removed.
            progress: called with the steps done and the steps in all.
        """
        other = None if source is None else source.opened
        return repair_store(self._opened, other=other, drop=drop, threads=default_threads(), progress=progress)

    def sign(self, key: str | os.PathLike[str]) -> list[str]:
        """Sign every step that this key has not signed yet.

        Args:
            key: the file of a private key, as ``deltackpt keygen`` makes it.

        Returns:
            The steps signed now, as ``"BRANCH:STEP"``.

        Raises:
            InvalidArgumentError: the file is no key.
            MissingPackageError: ``cryptography`` is not installed.
        """
        return [f"{step.branch}:{step.step}" for step in sign_steps(self._opened, SigningKey.read(key))[0]]

    def copy_to(
        self,
        target: Store,
        steps: Iterable[int | str] | None = None,
        *,
        branch: str | None = None,
        only: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> CopyReport:
        """Copy steps to another store, with metrics, times, notes, tags and parity. Run again, it does what is missing.

        A step goes as the objects that it is where all that it builds on goes along, and is encoded anew otherwise.
        Either way the address of every block is compared.

        Args:
            steps: which, as :meth:`step` takes them; ``"1000..5000"`` for all of these. None for all.
            branch: the branch of steps that name none; without ``steps``, None means all branches.
            only: one artifact of each, such as ``"model"``.
            progress: called with the steps done and the steps in all.

        Raises:
            StepNotFoundError: there is no such step.
            StepExistsError: the target has another step of that branch and number; nothing was copied.
            TensorNotFoundError: a step has no such artifact.
            CorruptObjectError, MissingObjectError: something of a step is damaged; the steps before it are copied.
        """
        threads = default_threads()

        def choose(manifest: Manifest) -> Collection[str] | None:
            if only is None:
                return None
            from deltackpt.formats.part import names_of_part

            return names_of_part(self._opened, manifest, only, threads=threads)

        return copy_steps(
            self._opened,
            target.opened,
            find_steps(self._opened, steps, branch),
            choose=choose,
            settings=SaveSettings(threads, 0),
            progress=progress,
        )

    def eject(
        self,
        out: str | os.PathLike[str],
        *,
        trust_objects: bool = False,
        progress: Callable[[int, EjectedStep], None] | None = None,
    ) -> EjectReport:
        """Write every step as files, to ``OUT/BRANCH/FOLDER``: imported files as they were, other steps as torch files.

        Every hash is checked. ``SHA256SUMS`` lists all files, ``steps.json`` has metrics and tags. Run again, it writes
        what is missing. A step that cannot be written is in the report, and the others are written.

        Args:
            trust_objects: whether objects that are pickles may be loaded, which lets them run any code.
            progress: called with how many steps are done, and the last of them.

        Raises:
            BackendError: the folder cannot be written.
        """
        from deltackpt.formats.eject import eject

        return eject(
            self._opened,
            list_steps(self._opened),
            Path(out),
            trust_objects=trust_objects,
            threads=default_threads(),
            finished=progress,
        )

    def watch(
        self,
        folder: str | os.PathLike[str],
        report: Callable[[WatchEvent], None],
        *,
        branch: str = DEFAULT_BRANCH,
        pattern: str | None = None,
        settle: float = 30.0,
        every: float = 5.0,
        strict: bool = False,
        remove_source: bool = False,
        keep_source: int = 1,
        threads: int | None = None,
        base_memory: int | str = 384 << 20,
    ) -> Watch:
        """What takes in checkpoints that a trainer writes into a folder, each as it is complete.

        Args:
            folder: it may not be there yet.
            report: called with everything that happens.
            pattern: which paths are checkpoints; see :meth:`import_checkpoints`.
            settle: seconds for which no file of a checkpoint must have changed.
            every: seconds between two looks.
            strict: whether a checkpoint that lacks files is never taken in.
            remove_source: whether a source is removed once its step was read back and compared with it.
            keep_source: how many of the newest sources stay all the same.

        Returns:
            The watch: its ``run`` goes on until its ``stop`` is set, its ``look`` takes in what is ready now.

        Raises:
            InvalidArgumentError: an argument makes no sense.
        """
        from deltackpt.formats.importing.run import ImportSettings
        from deltackpt.formats.watch import Watch, WatchSettings

        if settle < 0 or every <= 0 or keep_source < 0:
            raise InvalidArgumentError(
                f"settle={settle}, every={every} and keep_source={keep_source}",
                hint="settle and keep_source are at least 0, every is above 0",
            )
        save = SaveSettings(default_threads() if threads is None else threads, parse_base_memory(base_memory))
        imports = ImportSettings(check_branch(branch), strict, False, remove_source, save)
        settings = WatchSettings(settle, every, pattern, keep_source, imports)
        return Watch(self._opened, Path(folder), settings, report, time.monotonic)

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return (Store.open, (self.url,))
