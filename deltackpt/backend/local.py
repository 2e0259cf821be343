"""A store in a folder of a POSIX file system."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

from deltackpt.backend.base import (
    Buffer,
    ObjectInfo,
    byte_view,
    check_key,
    check_prefix,
    is_key_part,
    resolve_range,
)
from deltackpt.backend.durable import TEMPORARY_PREFIX, publish, sync_folder
from deltackpt.backend.folders import Folders, make_root
from deltackpt.backend.oserrors import describe_os_error, os_errors
from deltackpt.errors import (
    BackendError,
    DeltackptError,
    InvalidArgumentError,
    InvalidNameError,
    MissingObjectError,
    TruncatedObjectError,
)

__all__ = ["LocalBackend"]

# Linux reads at most 2 GiB - 4 KiB a call, macOS refuses more than 2 GiB - 1.
_READ_MAX = 1 << 30

# O_NONBLOCK: opening a named pipe must not wait for a writer. It means nothing for plain files.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK

# How often a put makes its folder anew because deletes of the last object in it removed it meanwhile.
_LOST_FOLDER_MAX = 100


class LocalBackend:
    """Objects are files below ``root``, with the key as relative path.

    Puts are durable (see ``durable.py``; on macOS as far as its fsync goes, which does not empty the drive's own
    cache). Consistency between machines is that of the file system: on NFS, attribute caching may delay what other
    machines list. Keys that differ only in case are one object where file names ignore case. Files whose names can be
    no part of a key, such as temporaries of killed writers, are not seen. Symbolic links below the root are refused.
    Can be pickled.

    Args:
        root: the folder; resolved once, so that later changes of the working directory or of links above it do not
            matter.
        create: whether to make it where it is missing.

    Raises:
        StoreNotFoundError: it is missing, and not ``create``.
        NotAStoreError: it is not a folder.
        BackendError: it cannot be looked at or made.
    """

    def __init__(self, root: str | os.PathLike[str], *, create: bool = False) -> None:
        try:
            self._root = os.path.realpath(root)
        except ValueError as error:
            raise InvalidArgumentError(f"not a path: {error}", where=repr(root)) from error
        with os_errors("create the store's folder" if create else "open the store's folder", self._root):
            make_root(self._root, create=create)
        self._folders = Folders(self._root)

    def __repr__(self) -> str:
        return f"LocalBackend({self._root!r})"

    @property
    def url(self) -> str:
        """The absolute path of the root."""
        return self._root

    def put(self, key: str, data: Buffer) -> None:
        self._publish(key, data, replace=True)

    def put_if_absent(self, key: str, data: Buffer) -> None:
        """As in the protocol.

        Raises:
            BackendError: also where the file system has neither hard links nor a rename that refuses to replace.
        """
        self._publish(key, data, replace=False)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with self._opened(key) as (descriptor, size, path):
            start, end = resolve_range(path, size, start, length)
            return _read(descriptor, start, end, path)

    def get_into(self, key: str, start: int, out: memoryview) -> bool:
        """As in :class:`~deltackpt.backend.base.ReadsInto`: one copy, and no pages that the kernel has to clear."""
        with self._opened(key) as (descriptor, size, path):
            start, end = resolve_range(path, size, start, len(out))
            at = start
            while at < end:
                count = os.preadv(descriptor, [out[at - start : at - start + _READ_MAX]], at)
                if count == 0:
                    raise _cut_off(path, start, end, at)
                at += count
        return True

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, int, str]]:
        """The descriptor, size and path of an object."""
        parts = check_key(key)
        path = self._folders.path(parts)
        with os_errors("read the object", path):
            try:
                with self._folders.open(parts[:-1]) as folder:
                    descriptor = os.open(parts[-1], _READ, dir_fd=folder)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise _missing(path) from error
            try:
                status = os.fstat(descriptor)
                if stat.S_ISDIR(status.st_mode):
                    raise _missing(path)
                if not stat.S_ISREG(status.st_mode):
                    raise _foreign(path)
                yield descriptor, status.st_size, path
            finally:
                os.close(descriptor)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """As in the protocol. Holds the names of one folder of each level at a time.

        Raises:
            BackendError: also where a name that could be a key is a symbolic link or a special file: to leave it out
                could make what it leads to look like garbage.
        """
        folders, partial = check_prefix(prefix)
        return self._list(folders, partial)

    def delete(self, key: str) -> None:
        """As in the protocol. Folders that get empty are removed."""
        parts = check_key(key)
        path = self._folders.path(parts)
        with os_errors("delete the object", path):
            try:
                with self._folders.open(parts[:-1]) as folder:
                    if stat.S_ISDIR(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False).st_mode):
                        return
                    os.unlink(parts[-1], dir_fd=folder)
                    sync_folder(folder)
            except (FileNotFoundError, NotADirectoryError):
                return
        self._folders.remove_empty(parts[:-1])

    def remove_temporaries(self, min_age: float) -> int:
        """Remove files that killed writers left behind, and return how many.

        Args:
            min_age: seconds since the last write to such a file. Must be longer than any pause of a living writer, and
                than the clocks of the machines that share the store are apart; a day (86400) is.
        """
        oldest, count = time.time() - min_age, 0
        with os_errors("remove temporary files", self._root):
            for folder, _, names in os.walk(self._root, onerror=_raise):
                for name in names:
                    path = os.path.join(folder, name)
                    try:
                        if name.startswith(TEMPORARY_PREFIX) and os.lstat(path).st_mtime <= oldest:
                            os.unlink(path)
                            count += 1
                    except FileNotFoundError:
                        continue
        return count

    def _publish(self, key: str, data: Buffer, *, replace: bool) -> None:
        parts, view = check_key(key), byte_view(data)
        path = self._folders.path(parts)
        with os_errors("write the object", path):
            for attempt in range(_LOST_FOLDER_MAX + 1):
                try:
                    with self._folders.open(parts[:-1], create=True) as folder:
                        publish(folder, parts[-1], view, replace=replace, path=path)
                    return
                except FileNotFoundError:
                    if attempt == _LOST_FOLDER_MAX:
                        raise
                except NotADirectoryError as error:
                    raise InvalidNameError(
                        "a part of this key is an object itself",
                        where=path,
                        hint="a key must not be the folder of another key",
                    ) from error

    def _list(self, folders: tuple[str, ...], partial: str) -> Iterator[ObjectInfo]:
        with os_errors("list the folder", self._folders.path(folders)):
            try:
                with self._folders.open(folders):
                    pass
            except (FileNotFoundError, NotADirectoryError):
                return
        yield from self._walk(folders, partial)

    def _walk(self, folders: tuple[str, ...], partial: str) -> Iterator[ObjectInfo]:
        path = self._folders.path(folders)
        with os_errors("list the folder", path):
            entries = _entries(path, partial)
        for entry in entries:
            with os_errors("list the object", entry.path):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
            parts = (*folders, entry.name)
            if stat.S_ISREG(status.st_mode):
                yield ObjectInfo("/".join(parts), status.st_size)
            elif stat.S_ISDIR(status.st_mode):
                yield from self._walk(parts, "")
            else:
                raise _foreign(entry.path)


def _entries(path: str, partial: str) -> list[os.DirEntry[str]]:
    """What may be objects or their folders in ``path``, in the order of the keys: a folder sorts with its slash."""
    try:
        with os.scandir(path) as found:
            entries = [entry for entry in found if entry.name.startswith(partial) and is_key_part(entry.name)]
    except FileNotFoundError:
        return []
    return sorted(entries, key=lambda entry: entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name)


def _read(descriptor: int, start: int, end: int, path: str) -> bytes:
    first = os.pread(descriptor, min(end - start, _READ_MAX), start)
    if len(first) == end - start:
        return first
    chunks, at = [first], start + len(first)
    while at < end:
        # Nothing changes a file in place: an empty answer means that somebody else cut it off.
        if not chunks[-1]:
            raise _cut_off(path, start, end, at)
        chunks.append(os.pread(descriptor, min(end - at, _READ_MAX), at))
        at += len(chunks[-1])
    return b"".join(chunks)


def _cut_off(path: str, start: int, end: int, at: int) -> TruncatedObjectError:
    return TruncatedObjectError(
        f"the object ends here, but bytes {start} to {end} were asked for",
        where=path,
        offset=at,
        hint="another program changed the file while it was read",
    )


def _missing(path: str) -> MissingObjectError:
    return MissingObjectError("there is no such object", where=path, hint="it was never written, or was deleted")


def _foreign(path: str) -> DeltackptError:
    if os.path.islink(path):
        return describe_os_error(OSError(errno.ELOOP, os.strerror(errno.ELOOP)), "use a symbolic link", path)
    return BackendError("this is neither a file nor a folder", where=path, hint="remove it: it is not part of a store")


def _raise(error: OSError) -> None:
    # Folders that vanish meanwhile are fine.
    if not isinstance(error, FileNotFoundError):
        raise error
