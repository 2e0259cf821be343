"""A path that a user names -> the checkpoints in it, in order of steps, and what was left out and why."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from deltackpt.backend.oserrors import os_errors
from deltackpt.errors import InvalidArgumentError, UnsafeFileError
from deltackpt.formats.importing.source import CheckpointFile, CheckpointSource, Lack
from deltackpt.formats.layouts.base import Contents, Layout, by_name
from deltackpt.formats.layouts.dcp_folder import DCP, OLMO_CORE, TORCHTITAN
from deltackpt.formats.layouts.deepspeed import DEEPSPEED
from deltackpt.formats.layouts.fsdp_folder import ACCELERATE, LIGHTNING_SHARDED
from deltackpt.formats.layouts.huggingface import HF_MODEL, HF_TRAINER
from deltackpt.formats.layouts.olmo import OLMO_SHARDED, OLMO_UNSHARDED
from deltackpt.formats.layouts.single import named_file, single_file

__all__ = ["LAYOUTS", "Found", "Skipped", "discover"]

# The first that fits is taken.
LAYOUTS: Final[tuple[Layout, ...]] = (
    *(OLMO_UNSHARDED, OLMO_CORE, OLMO_SHARDED, HF_TRAINER, DEEPSPEED, TORCHTITAN, ACCELERATE, LIGHTNING_SHARDED),
    *(HF_MODEL, DCP),
)

_UNFINISHED: Final = re.compile(r".*-tmp|tmp-.*|.*\.tmp|.*\.partial|\.tmp.*")


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that is not imported, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """What is in a path.

    Attributes:
        checkpoints: in order of steps.
        skipped: in order of paths.
    """

    checkpoints: Sequence[CheckpointSource] = ()
    skipped: Sequence[Skipped] = field(default_factory=tuple)


def discover(sources: Sequence[Path], *, pattern: str | None = None, step: int | None = None) -> Found:
    """The checkpoints in some paths: each may be one, or a folder of many.

    Args:
        pattern: which files or folders in the sources are checkpoints: a path with ``{step}`` for the number, ``*``
            and ``?`` as in a shell.
        step: the number of the only checkpoint that there is, where its name does not say it.

    Raises:
        InvalidArgumentError: a source is not there, a pattern has no ``{step}``, or a step is given for several
            checkpoints.
    """
    found: list[CheckpointSource] = []
    skipped: list[Skipped] = []
    for source in sources:
        if not source.exists():
            raise InvalidArgumentError("there is no such file or folder", where=str(source))
        one = _by_pattern(source, pattern) if pattern is not None else _by_layout(source, step)
        found += one.checkpoints
        skipped += one.skipped
    if step is not None:
        if len(found) != 1:
            raise InvalidArgumentError(
                f"a step was given, but there are {len(found)} checkpoints",
                hint="leave out --step, or name one of them",
            )
        found = [replace(found[0], step=step)]
    kept, twice = _without_repeats(found)
    return Found(kept, sorted([*skipped, *twice], key=lambda s: s.path))


def _without_repeats(found: Sequence[CheckpointSource]) -> tuple[list[CheckpointSource], list[Skipped]]:
    """One checkpoint for each step: the one whose layout stands first."""
    names = [layout.name for layout in LAYOUTS]
    ranked = sorted(found, key=lambda c: (c.step, names.index(c.layout) if c.layout in names else len(names), c.folder))
    kept: dict[int, CheckpointSource] = {}
    twice = []
    for one in ranked:
        first = kept.setdefault(one.step, one)
        if first is not one:
            reason = f"step {one.step} is taken from {first.folder.name}; import this one into another branch"
            twice.append(Skipped(one.folder, reason))
    return list(kept.values()), twice


def _by_layout(source: Path, step: int | None) -> Found:
    if source.is_file():
        one = single_file(source, step)
        return Found((one,)) if one is not None else Found((), (Skipped(source, "its name says no step; give --step"),))
    checkpoint = _checkpoint(source, step)
    if checkpoint is not None:
        return Found((checkpoint,))
    nameless = _checkpoint(source, 0)
    if nameless is not None:
        raise InvalidArgumentError(
            f"the folder is a checkpoint ({nameless.layout}), but its name says no step",
            where=str(source),
            hint="give the number with --step",
        )
    found: list[CheckpointSource] = []
    skipped: list[Skipped] = []
    for path in _children(source):
        reason = _why_not(path)
        if reason is not None:
            skipped.append(Skipped(path, reason))
            continue
        one = named_file(path) if path.is_file() else _checkpoint(path, None)
        if one is not None:
            found.append(one)
        else:
            skipped.append(Skipped(path, "no checkpoint, or one without a step in its name"))
    return Found(found, skipped)


def _children(folder: Path) -> list[Path]:
    with os_errors("list the folder", str(folder)):
        return sorted(folder.iterdir())


def _why_not(path: Path) -> str | None:
    """Why something in a folder of checkpoints is none; None where it may be one."""
    if path.is_symlink():
        return f"a link to {os.readlink(path)}" if path.exists() else "a link to nothing"
    if _UNFINISHED.fullmatch(path.name):
        return "unfinished: a save that did not end, or still runs"
    return None


def _checkpoint(folder: Path, step: int | None) -> CheckpointSource | None:
    """The checkpoint that a folder is, if it is one and its step is known."""
    # A link such as `latest` that the user names is what it points to.
    name = folder.resolve().name if folder.is_symlink() or not folder.name else folder.name
    paths = dict(_files(folder))
    contents = Contents(folder, frozenset(paths))
    for layout in LAYOUTS:
        match = layout.folder.fullmatch(name)
        if (match is None and step is None) or not layout.recognises(contents):
            continue
        number = step if step is not None or match is None else int(match[1])
        if number is None or number >= 10**12:
            continue
        files = tuple(CheckpointFile(path, paths[path], layout.naming(path)) for path in sorted(paths))
        one = CheckpointSource(number, folder, layout.name, files, (), layout.metrics(contents))
        try:
            return replace(one, lacks=layout.lacks(contents))
        except UnsafeFileError as error:
            # It must not keep the other checkpoints from being found.
            return replace(one, problem=error)
    return None


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """All regular files below a folder, by their path in it. Links to files are followed, links to folders are not."""

    def fail(error: OSError) -> None:
        raise error

    with os_errors("list the folder", str(folder)):
        for at, folders, names in os.walk(folder, onerror=fail):
            folders.sort()
            for name in sorted(names):
                path = Path(at, name)
                if path.is_file():
                    yield path.relative_to(folder).as_posix(), path


def _by_pattern(source: Path, pattern: str) -> Found:
    """The files and folders below ``source`` whose path matches."""
    expression = _compile(pattern)
    depth = pattern.count("/")
    found = []
    skipped = []
    for path in sorted(source.glob("/".join("*" * (depth + 1)))):
        match = expression.fullmatch(path.relative_to(source).as_posix())
        if match is None:
            continue
        reason = _why_not(path)
        if reason is not None:
            skipped.append(Skipped(path, reason))
        elif path.is_file():
            one = single_file(path, int(match["step"]))
            found += [] if one is None else [one]
        else:
            found.append(_checkpoint(path, int(match["step"])) or _plain_folder(path, int(match["step"])))
    return Found(found, skipped)


def _plain_folder(folder: Path, step: int) -> CheckpointSource:
    """A folder of no known layout: all of its files."""
    files = tuple(CheckpointFile(path, at, by_name(path)) for path, at in _files(folder))
    lacks = () if files else (Lack("*", "the folder is empty"),)
    return CheckpointSource(step, folder, "folder", files, lacks)


def _compile(pattern: str) -> re.Pattern[str]:
    if pattern.count("{step}") != 1 or pattern.startswith("/"):
        raise InvalidArgumentError(
            f"{pattern!r} is no pattern of steps",
            hint="write a path in SOURCE with {step} once in it, such as 'ckpt_{step}.pt' or 'run/iter_{step}'",
        )
    parts = re.split(r"(\{step\}|\*|\?)", pattern)
    known = {"{step}": r"(?P<step>\d{1,12})", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(known.get(part, re.escape(part)) for part in parts))
