"""Writing one file so that it appears whole or not at all, and survives a power failure once it did.

Temporary file, write, fsync, then link (new) or rename (replace), then fsync of the folder. The temporary lies in the
folder of its target: hard links and renames between folders fail on some file systems (quota projects, AFS), and a
folder with a temporary in it cannot be removed under a writer. Its name starts with a dot, so it is no key. A process
that is killed may leave one behind; it can be removed at any time after that.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import uuid
from contextlib import suppress

from deltackpt.errors import BackendError, InvalidNameError, ObjectExistsError

__all__ = ["TEMPORARY_PREFIX", "publish", "sync_folder"]

TEMPORARY_PREFIX = ".tmp-"

# Linux writes at most 2 GiB - 4 KiB a call, macOS refuses more than 2 GiB - 1.
_WRITE_MAX = 1 << 30

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_NO_SUCH_RENAME = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})

_RENAME_NOREPLACE = 1


def publish(folder: int, name: str, data: memoryview, *, replace: bool, path: str) -> None:
    """Write ``data`` durably as the file ``name`` in the folder with descriptor ``folder``.

    Args:
        folder: an open descriptor of the folder.
        name: name of the file in it.
        data: its bytes.
        replace: whether a file of that name is replaced, atomically.
        path: the file's full path, for messages.

    Raises:
        ObjectExistsError: not ``replace``, and there is such a file.
        InvalidNameError: there is a folder of that name.
        BackendError: not ``replace``, and the file system has no operation that this can be built on.
        OSError: anything else. ``FileNotFoundError`` says that the folder, or the temporary, was removed meanwhile.
    """
    temporary = TEMPORARY_PREFIX + uuid.uuid4().hex
    try:
        identity = _write(folder, temporary, data)
        try:
            if replace:
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            else:
                _publish_new(folder, temporary, name, path)
        except (FileExistsError, IsADirectoryError) as error:
            _explain_taken(folder, name, identity, path, error)
        sync_folder(folder)
    finally:
        # After a rename it is gone. One that cannot be removed does no harm: it is invisible, and the file is what
        # counts.
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)


def sync_folder(folder: int) -> None:
    """Make the entries of a folder durable, as far as its file system can: some have no fsync of folders and say so."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _write(folder: int, name: str, data: memoryview) -> os.stat_result:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
    try:
        done = 0
        while done < len(data):
            count = os.write(descriptor, data[done : done + _WRITE_MAX])
            if count == 0:
                raise OSError(errno.EIO, "a write of 0 bytes")
            done += count
        # After a failed fsync the kernel may have dropped the dirty pages: a second one would succeed and mean nothing.
        os.fsync(descriptor)
        identity = os.fstat(descriptor)
    except BaseException:
        with suppress(OSError):
            os.close(descriptor)
        raise
    # A network file system may report a failed write only here.
    os.close(descriptor)
    return identity


def _publish_new(folder: int, temporary: str, name: str, path: str) -> None:
    """Give the temporary its name if that is free, in one atomic step.

    A hard link does this everywhere it exists. Without (exFAT, many FUSE and SMB mounts) a rename that refuses to
    replace is as good. There is no third way: a file created under its final name is visible before it is whole.
    """
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    try:
        _rename_noreplace(folder, temporary, name)
    except OSError as error:
        if error.errno not in _NO_SUCH_RENAME:
            raise
        unsupported = BackendError(
            "this file system has neither hard links nor a rename that does not replace: writers cannot be kept apart",
            where=path,
            hint="keep the store on another file system",
        )
        unsupported.errno = errno.ENOTSUP
        raise unsupported from error


def _rename_noreplace(folder: int, source: str, target: str) -> None:
    """``renameat2(RENAME_NOREPLACE)``: Linux with glibc 2.28 or newer. ``ENOSYS`` elsewhere."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError) as error:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
    renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    renameat2.restype = ctypes.c_int
    if renameat2(folder, os.fsencode(source), folder, os.fsencode(target), _RENAME_NOREPLACE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _explain_taken(folder: int, name: str, identity: os.stat_result, path: str, error: OSError) -> None:
    """Say what is at ``name``. Returns if it is our own file: NFS may repeat a request whose answer was lost."""
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISDIR(found.st_mode):
        raise InvalidNameError(
            "a folder of other objects has this name", where=path, hint="a key must not be the folder of another key"
        ) from error
    if os.path.samestat(found, identity):
        return
    taken = ObjectExistsError("the object exists already", where=path, hint="it was left as it is")
    taken.errno = errno.EEXIST
    raise taken from error
