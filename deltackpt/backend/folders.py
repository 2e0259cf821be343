"""The folders below the root of a local store: entered without following symbolic links, made durably."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from deltackpt.backend.durable import sync_folder
from deltackpt.backend.oserrors import describe_os_error
from deltackpt.errors import NotAStoreError, StoreNotFoundError

__all__ = ["Folders", "make_root"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

# Entries of the set of folders known to be durable; one is about 200 bytes. Past it the set starts anew, which costs an
# fsync each.
_REMEMBERED_MAX = 4096


class Folders:
    """Opens folders below one root.

    A symbolic link below the root is refused, wherever it leads: a store that came from elsewhere could otherwise have
    its writer, or worse its garbage collector, work on files outside of it.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._durable: set[tuple[tuple[str, ...], int]] = set()

    def path(self, parts: tuple[str, ...]) -> str:
        """Full path of a file or folder."""
        return os.path.join(self._root, *parts)

    @contextmanager
    def open(self, parts: tuple[str, ...], *, create: bool = False) -> Iterator[int]:
        """A descriptor of the folder ``parts``, closed at the end.

        With ``create`` missing folders are made, and every folder on the way is made durable in the one above it if
        this object has not seen to that before: another process may have made it a moment ago and not have come to its
        fsync.

        Raises:
            StoreNotFoundError: the root is gone.
            BackendError: a part is a symbolic link.
            FileNotFoundError, NotADirectoryError: there is no such folder; or it was removed again while being made.
            OSError: anything else.
        """
        try:
            folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreNotFoundError(
                "the folder of the store is gone", where=self._root, hint="was it moved or unmounted?"
            ) from error
        try:
            for depth in range(1, len(parts) + 1):
                inner = self._enter(folder, parts[:depth], create)
                outer, folder = folder, inner
                os.close(outer)
            yield folder
        finally:
            os.close(folder)

    def remove_empty(self, parts: tuple[str, ...]) -> None:
        """Remove the folder ``parts`` and those above it, below the root, as far as they are empty.

        ``rmdir`` never removes a folder with anything in it, and a writer that loses its new folder to it makes it
        again.
        """
        for depth in range(len(parts), 0, -1):
            try:
                os.rmdir(self.path(parts[:depth]))
            except OSError:
                # Not empty, gone already, or not ours to remove: an empty folder is no harm.
                return

    def _enter(self, outer: int, parts: tuple[str, ...], create: bool) -> int:
        name, made = parts[-1], False
        try:
            inner = self._open_inner(outer, parts)
        except FileNotFoundError:
            if not create:
                raise
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=outer)
            made = True
            inner = self._open_inner(outer, parts)
        if create:
            try:
                self._make_durable(outer, inner, parts, made)
            except BaseException:
                os.close(inner)
                raise
        return inner

    def _open_inner(self, outer: int, parts: tuple[str, ...]) -> int:
        try:
            return os.open(parts[-1], _FOLDER, dir_fd=outer)
        except NotADirectoryError as error:
            if stat.S_ISLNK(os.stat(parts[-1], dir_fd=outer, follow_symlinks=False).st_mode):
                link = OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                raise describe_os_error(link, "enter the folder", self.path(parts)) from error
            raise

    def _make_durable(self, outer: int, inner: int, parts: tuple[str, ...], made: bool) -> None:
        # The inode number tells most folders that another process removed and made anew since. One that got the same
        # number again is synced by who made it, before that one's own put returns.
        identity = (parts, os.fstat(inner).st_ino)
        if made or identity not in self._durable:
            sync_folder(outer)
            if len(self._durable) >= _REMEMBERED_MAX:
                self._durable.clear()
            self._durable.add(identity)


def make_root(root: str, *, create: bool) -> None:
    """See to it that the folder ``root`` is there; with ``create`` it is made, durably, with the folders above it.

    Raises:
        StoreNotFoundError: it is not there, and not ``create``.
        NotAStoreError: it is no folder.
        OSError: anything else.
    """
    try:
        found = os.stat(root)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not create:
            raise StoreNotFoundError(
                "there is no such folder", where=root, hint="check the path, or create a store there first"
            ) from error
        _make_durable_folder(root)
        return
    if not stat.S_ISDIR(found.st_mode):
        raise NotAStoreError("this is not a folder", where=root, hint="a store is a folder; give its path")


def _make_durable_folder(path: str) -> None:
    outer = os.path.dirname(path)
    if not os.path.lexists(outer):
        _make_durable_folder(outer)
    with suppress(FileExistsError):
        os.mkdir(path)
    descriptor = os.open(outer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_folder(descriptor)
    finally:
        os.close(descriptor)
