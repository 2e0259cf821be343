"""Errors of the operating system in words."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from deltackpt.errors import BackendError, DeltackptError, InvalidNameError, TransientBackendError

__all__ = ["describe_os_error", "os_errors"]

_HINTS = {
    errno.ENOSPC: "the disk is full: free space or move the store to a larger disk; steps saved before are unharmed",
    errno.EDQUOT: "the disk quota is used up: free some space or ask for more; steps saved before are unharmed",
    errno.EFBIG: "the file system or a process limit (ulimit -f) does not allow files of this size",
    errno.EACCES: "permission denied: check the owner and mode of the store's folders, and as which user this runs",
    errno.EPERM: "the operating system does not permit this: check owner, mode and attributes of the store's folders",
    errno.EROFS: "the file system is mounted read-only: remount it, or copy the store to a place that can be written",
    errno.EIO: "the disk or network reported an I/O error: look at the system's log and copy the store away",
    errno.EMFILE: "this process has too many open files: raise its limit (ulimit -n)",
    errno.ENFILE: "the machine has too many open files",
    errno.ELOOP: "a store's own files and folders must not be symbolic links: move the real ones there",
    errno.ESTALE: "the network file system lost track of this file",
}

# Causes that pass without anybody's doing: load on this machine, or a network file system that recovers.
_TRANSIENT = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EMFILE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ESHUTDOWN,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)


def describe_os_error(error: OSError, action: str, path: str) -> DeltackptError:
    """The error to raise for ``error``, which came of an attempt to ``action`` at ``path``."""
    code = error.errno
    if code == errno.ENAMETOOLONG:
        return InvalidNameError(
            f"cannot {action}: the name is too long for this file system", where=path, hint="choose a shorter name"
        )
    reason = os.strerror(code) if code is not None else str(error)
    kind = TransientBackendError if code in _TRANSIENT else BackendError
    hint = _HINTS.get(code) if code is not None else None
    described = kind(f"cannot {action}: {reason}", where=path, hint=hint)
    described.errno = code
    return described


@contextmanager
def os_errors(action: str, path: str) -> Iterator[None]:
    """Turn every ``OSError`` of the body that is not ours into one of ours about ``path``."""
    try:
        yield
    except DeltackptError:
        raise
    except OSError as error:
        raise describe_os_error(error, action, path) from error
