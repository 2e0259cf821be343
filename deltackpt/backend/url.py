"""From URLs and paths to backends."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

from deltackpt.backend.base import Backend
from deltackpt.backend.local import LocalBackend
from deltackpt.backend.memory import PROCESS_MEMORY, MemoryRegistry
from deltackpt.errors import InvalidArgumentError

__all__ = ["open_backend"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_KNOWN = "a path, file:///PATH or memory://NAME"


def open_backend(
    url: str | os.PathLike[str], create: bool = False, *, memory: MemoryRegistry = PROCESS_MEMORY
) -> Backend:
    """The backend at ``url``.

    Args:
        url: a path (``~`` is the home folder), ``file:///PATH`` with percent-encoding, or ``memory://NAME``.
        create: whether to make an empty place for objects where there is none. No object is written.
        memory: where names of ``memory://`` URLs are looked up: by default one registry per process.

    Raises:
        InvalidArgumentError: the URL is malformed or of a scheme that is not known.
        StoreNotFoundError: there is nothing, and not ``create``.
        NotAStoreError: there is something that cannot hold objects, such as a file.
        BackendError: it cannot be looked at or made.
    """
    text = os.fspath(url)
    if not text:
        raise InvalidArgumentError("the URL of a store is empty", hint=f"give {_KNOWN}")
    match = _SCHEME.match(text) if isinstance(url, str) else None
    if match is None:
        return LocalBackend(os.path.expanduser(text), create=create)
    scheme, rest = match[1].lower(), text[match.end() :]
    if scheme == "file":
        return LocalBackend(_path_of(text), create=create)
    if scheme == "memory":
        return memory.open(rest, create=create)
    raise InvalidArgumentError(f"the scheme {scheme!r} of this URL is not known", where=text, hint=f"give {_KNOWN}")


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not parts.path.startswith("/"):
        raise InvalidArgumentError(
            "not a URL of a folder of this machine",
            where=url,
            hint="write file:///PATH, with '%', '?' and '#' in it percent-encoded, or the plain path",
        )
    return unquote(parts.path)
