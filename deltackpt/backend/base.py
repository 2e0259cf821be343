"""What a store needs from the place where its bytes live.

The docstrings of :class:`Backend` are the contract for implementors, the short form is section 2 of ``docs/format.md``,
and ``deltackpt.testing.backend_conformance`` checks every clause of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from deltackpt.errors import InvalidArgumentError, InvalidNameError, TruncatedObjectError

__all__ = [
    "Backend",
    "Buffer",
    "ObjectInfo",
    "ReadsInto",
    "byte_view",
    "check_key",
    "check_prefix",
    "is_key_part",
    "resolve_range",
]

Buffer: TypeAlias = bytes | bytearray | memoryview

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_RULE = "parts are letters, digits, '_', '-' and '.', start with a letter, digit or '_', and are joined by single '/'"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object in a listing: its key and its size in bytes."""

    key: str
    size: int


@runtime_checkable
class Backend(Protocol):
    """A flat set of named objects, each of them whole at any time.

    All methods may be called from many threads at once. Nothing else is assumed: no append, rename, lock or time of
    change. A key is never the folder of another one (``a`` and ``a/b``): a backend may refuse the second with
    ``InvalidNameError``.

    Errors, which every method may raise:

    * ``InvalidNameError``: the key or prefix is not allowed (:func:`check_key`, :func:`check_prefix`). Checked when the
      method is called, before anything else is done.
    * ``InvalidArgumentError``: a negative range, or data that is not contiguous bytes.
    * ``TransientBackendError``: the operation failed for a cause that passes by itself: throttling, a timeout, a lost
      connection, a server's 5xx. Repeating the same call is worth it, and
      :class:`~deltackpt.backend.retry.RetryingBackend` does so. Implementors mark such errors and do not repeat calls
      themselves.
    * ``StoreNotFoundError``: the place where all objects live is gone.
    * ``BackendError``: any other failure: disk full, permission denied, I/O error. Repeating the call does not help.
      ``errno`` is set where the operating system gave one. Other exceptions must not come out of a backend.

    After a ``BackendError`` (transient or not, except ``ObjectExistsError``) from a writing method, the caller does not
    know whether the write took place: the answer may have been lost. What is there is whole in any case.
    """

    @property
    def url(self) -> str:
        """A URL or absolute path that ``open_backend`` takes to the same objects. Free of secrets: messages show it."""
        ...

    def put(self, key: str, data: Buffer) -> None:
        """Store ``data`` as the object ``key``, replacing one of that name.

        When this returns, the object survives a power failure and every later call, of any process, sees it. At every
        moment before, readers see the old object or the new one, each whole, or that there is none; the same holds when
        this fails or the process is killed. ``data`` is not kept after the call.
        """
        ...

    def put_if_absent(self, key: str, data: Buffer) -> None:
        """Like :meth:`put`, but leaves an object of that name as it is. Of any number of concurrent calls one succeeds.

        Raises:
            ObjectExistsError: the key is taken. Nothing was changed.
        """
        ...

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The bytes ``[start, start + length)`` of an object, to its end without a length; all from one version of it.

        Raises:
            MissingObjectError: there is no such object. Never raised for a failure to find out.
            TruncatedObjectError: the range reaches past the end of the object; ``offset`` is where the object ends.
        """
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """The objects whose keys start with ``prefix`` (any start of a key, not only whole parts), in the order of
        their keys.

        The order is that of the keys as ASCII strings. Strongly consistent: what was put before the call and not
        deleted meanwhile is listed, what was deleted before the call and not put meanwhile is not. Objects that come or
        go meanwhile may be listed or not; they are no error. Unfinished puts are never listed.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object, durably. It is no error if there is none."""
        ...


def is_key_part(name: str) -> bool:
    """Whether ``name`` may stand between the slashes of a key."""
    return _PART.fullmatch(name) is not None


def check_key(key: str) -> tuple[str, ...]:
    """The parts of a key.

    Raises:
        InvalidNameError: the key is empty, absolute, ends in a slash, or has a part that is not allowed, such as
            ``..``.
    """
    parts = tuple(key.split("/"))
    for part in parts:
        if not is_key_part(part):
            raise InvalidNameError(f"{part!r} is not allowed in the key of an object", where=repr(key), hint=_RULE)
    return parts


def check_prefix(prefix: str) -> tuple[tuple[str, ...], str]:
    """The whole parts of a prefix of keys, and what its last, unfinished part starts with (``""``: anything).

    Raises:
        InvalidNameError: no key can start like this.
    """
    *folders, partial = prefix.split("/")
    for part in [*folders, partial] if partial else folders:
        if not is_key_part(part):
            raise InvalidNameError(f"{part!r} is not allowed in the prefix of keys", where=repr(prefix), hint=_RULE)
    return tuple(folders), partial


@runtime_checkable
class ReadsInto(Protocol):
    """What a backend may have besides: reads into memory of the caller's, which need not be fresh."""

    def get_into(self, key: str, start: int, out: memoryview) -> bool:
        """Fill ``out`` with the bytes of an object from ``start`` on, as :meth:`Backend.get` would give them.

        Returns:
            False if this backend, as it is set up, cannot do that; then nothing was done.

        Raises:
            MissingObjectError, TruncatedObjectError: as :meth:`Backend.get`.
        """
        ...


def byte_view(data: Buffer) -> memoryview:
    """``data`` as a one-dimensional view of its bytes, without a copy.

    Raises:
        InvalidArgumentError: it is not contiguous, or of an item type that cannot be seen as bytes.
    """
    view = memoryview(data)
    if view.nbytes == 0:
        return memoryview(b"")
    try:
        return view.cast("B")
    except TypeError as error:
        raise InvalidArgumentError(f"data for an object must be contiguous bytes: {error}") from error


def resolve_range(where: str, size: int, start: int, length: int | None) -> tuple[int, int]:
    """First and end byte of a ranged get of an object of ``size`` bytes.

    Raises:
        InvalidArgumentError: ``start`` or ``length`` is negative.
        TruncatedObjectError: the range reaches past the end.
    """
    if start < 0 or (length is not None and length < 0):
        raise InvalidArgumentError(
            f"a range needs start and length of at least 0, not {start} and {length}", where=where
        )
    end = max(start, size) if length is None else start + length
    if end > size:
        raise TruncatedObjectError(
            f"the object ends here, but bytes {start} to {end} were asked for",
            where=where,
            offset=size,
            hint="it was cut off after it was written, or what points into it is damaged",
        )
    return start, end
