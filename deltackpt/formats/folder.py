"""A folder that appears whole or not at all: written beside its place as ``NAME.partial``, then renamed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from deltackpt.backend.durable import sync_folder
from deltackpt.backend.oserrors import os_errors
from deltackpt.errors import BackendError, InvalidArgumentError, ObjectExistsError

__all__ = ["PARTIAL", "new_folder", "refuse_existing"]

PARTIAL: Final = ".partial"

_NO_LOCKS: Final = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL})


@contextmanager
def new_folder(out: Path, *, force: bool) -> Iterator[Path]:
    """A new folder ``OUT.partial`` that becomes ``out`` at the end; after an error it is removed.

    What a process that was killed left of an earlier ``OUT.partial`` is removed first. A folder that is replaced goes
    away only after the new one has its place.

    Args:
        out: the folder; there may be an empty one.
        force: whether one that holds something is replaced, with all that is in it.

    Raises:
        ObjectExistsError: something is at ``out``, and not ``force``; or another process writes there just now.
        InvalidArgumentError: ``out`` is a folder that must not be replaced.
        BackendError: the disk is full, or the like.
    """
    refuse_existing(out, force=force)
    target = _real(out)
    partial = target.with_name(target.name + PARTIAL)
    with os_errors("make the folder", str(partial)):
        partial.mkdir(parents=True, exist_ok=True)
    lock = _lock(partial)
    try:
        with os_errors("empty the folder", str(partial)):
            _clear(partial)
        try:
            yield partial
            _publish(partial, target, force=force)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def refuse_existing(out: Path, *, force: bool) -> None:
    """Make sure that ``out`` can be made or, with ``force``, replaced.

    Raises:
        ObjectExistsError: something is there, and not ``force``.
        InvalidArgumentError: it is a folder that must not be replaced.
    """
    where, real = str(out), _real(out)
    with os_errors("look at the folder", where):
        if os.path.ismount(real):
            raise InvalidArgumentError(
                "it is the root of a file system, which cannot be replaced", where=where, hint="choose a folder in it"
            )
        if not os.path.lexists(real) or (real.is_dir() and not any(real.iterdir())):
            return
    if not force:
        raise ObjectExistsError("it is there already", where=where, hint="choose another folder, or pass force=True")
    if not real.is_dir():
        raise InvalidArgumentError("it is a file, not a folder", where=where, hint="choose another name")
    for kept in (Path.cwd(), Path.home()):
        if real == kept or real in kept.parents:
            raise InvalidArgumentError(f"to replace it would remove {kept}", where=where, hint="choose another folder")
    if (real / "store.json").exists():
        raise InvalidArgumentError("it is a store, which is never replaced", where=where, hint="choose another folder")


def _real(out: Path) -> Path:
    """The folder that is meant: without links, so that these stay what they are."""
    return Path(os.path.realpath(out))


def _lock(partial: Path) -> int:
    """Keep other processes out; where the file system has no locks, trust that there are none."""
    with os_errors("open the folder", str(partial)):
        descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return descriptor
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise ObjectExistsError(
                "another process writes this folder just now", where=str(partial), hint="wait for it, or end it"
            ) from error
        raise BackendError(f"cannot lock the folder: {error.strerror}", where=str(partial)) from error
    return descriptor


def _clear(folder: Path) -> None:
    for member in list(folder.iterdir()):
        if member.is_dir() and not member.is_symlink():
            shutil.rmtree(member)
        else:
            member.unlink()


def _publish(partial: Path, target: Path, *, force: bool) -> None:
    with os_errors("publish the folder", str(target)):
        for folder, _, _ in os.walk(partial):
            _sync(Path(folder))
        old: Path | None = None
        if force and target.is_dir() and any(target.iterdir()):
            old = target.with_name(f"{target.name}.old-{uuid.uuid4().hex}")
            target.rename(old)
        try:
            partial.rename(target)
        except OSError as error:
            if old is not None:
                with suppress(OSError):
                    old.rename(target)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise ObjectExistsError(
                    "the folder appeared meanwhile", where=str(target), hint="choose another folder"
                ) from error
            raise
        try:
            _sync(target.parent)
        finally:
            if old is not None:
                shutil.rmtree(old)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_folder(descriptor)
    finally:
        os.close(descriptor)
