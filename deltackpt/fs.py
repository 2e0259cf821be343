"""``deltackpt://``: the files of every step of a store, read-only, for all that speaks fsspec (pandas, datasets, HF).

A URL is ``deltackpt://STORE!/BRANCH/STEP/PATH``: STORE is what :meth:`deltackpt.Store.open` takes, STEP a number or
``latest``. A file system that was made for a store takes paths without it: ``BRANCH/STEP/PATH``.

Example:
    >>> import fsspec
    >>> import deltackpt
    >>> store = deltackpt.Store.create("memory://docs-fs")
    >>> fsspec.filesystem("deltackpt", store="memory://docs-fs").ls("", detail=False)
    []
"""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, ClassVar, NoReturn

from fsspec.spec import AbstractFileSystem

from deltackpt.api import Step, Store
from deltackpt.errors import InvalidArgumentError, StepNotFoundError, TensorNotFoundError

__all__ = ["DeltackptFileSystem"]

_SEPARATOR = "!/"


def _read_only(what: str, path: object) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"a store is read only as a file system: nothing is {what}",
        where=str(path),
        hint="read with mode 'rb'; `deltackpt import` adds steps, `deltackpt prune` and `deltackpt gc` remove them",
    )


def _refusing(what: str) -> Callable[..., NoReturn]:
    """A method of fsspec that would change something."""

    def refuse(_self: AbstractFileSystem, path: object = "", *_: object, **__: object) -> NoReturn:
        raise _read_only(what, path)

    return refuse


class DeltackptFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store as folders: branches, in them steps, in them files.

    Args:
        store: a path or URL.
        trust_objects: whether parts that hold pickles are shown; reading them does not run them, loading them does.

    Raises:
        StoreNotFoundError, NotAStoreError: there is no store there.
    """

    protocol: ClassVar[str] = "deltackpt"
    root_marker = ""

    # What these do in fsspec is to raise an error without a word, or nothing at all.
    mkdir = makedirs = _refusing("made in it")
    put_file = pipe_file = touch = _refusing("written")
    cp_file = mv = _refusing("copied or moved")
    rm = rm_file = rmdir = _refusing("removed")

    def __init__(self, store: str, trust_objects: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._store = Store.open(store)
        self._trust_objects = trust_objects
        self._steps: dict[object, Step] = {}

    @classmethod
    def _strip_protocol(cls, path: str | list[str]) -> str | list[str]:
        if isinstance(path, list):
            return [str(cls._strip_protocol(one)) for one in path]
        if path.startswith(f"{cls.protocol}://"):
            path = _split(path)[1]
        return path.strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        return {"store": _split(path)[0]} if path.startswith("deltackpt://") else {}

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path."""
        return f"{self.protocol}://{self._store.url}{_SEPARATOR}{self._strip_protocol(name)}"

    @property
    def fsid(self) -> str:
        """What tells this store from others."""
        return f"deltackpt_{self._store.id}"

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """What is in a folder, or the one file that the path is.

        Raises:
            FileNotFoundError: there is nothing.
        """
        found = self._list(str(self._strip_protocol(path)))
        return found if detail else [entry["name"] for entry in found]

    def _list(self, path: str) -> list[dict[str, Any]]:
        parts = path.split("/") if path else []
        if not parts:
            return [_folder(branch) for branch in self._store.branches()]
        if len(parts) == 1:
            steps = self._store.steps(parts[0]) if parts[0] in self._store.branches() else []
            if not steps:
                raise FileNotFoundError(path)
            return [_folder(f"{parts[0]}/{info.step}") | {"created": info.created} for info in steps]
        step, inner = self._step(parts), "/".join(parts[2:])
        prefix = f"{parts[0]}/{parts[1]}"
        found: dict[str, dict[str, Any]] = {}
        for file in step.files():
            described = _file(f"{prefix}/{file.path}", file.size, file.sha256, file.mtime_ns)
            if file.path == inner:
                return [described]
            if not inner or file.path.startswith(f"{inner}/"):
                rest = file.path[len(inner) + 1 if inner else 0 :]
                name = f"{prefix}/{inner}/{rest.split('/')[0]}" if inner else f"{prefix}/{rest.split('/')[0]}"
                found[name] = described if "/" not in rest else _folder(name)
        if inner and not found:
            raise FileNotFoundError(path)
        return list(found.values())

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """What is known of a file or folder.

        Raises:
            FileNotFoundError: there is nothing.
        """
        text = str(self._strip_protocol(path))
        found = self._list(text)
        if len(found) == 1 and found[0]["name"] == text:
            return found[0]
        return _folder(text)

    def created(self, path: str) -> datetime:
        """When the step of a path was committed."""
        return self._step(str(self._strip_protocol(path)).split("/")).info.created

    def modified(self, path: str) -> datetime:
        """When a file was last changed before it was imported; else when its step was committed."""
        changed = self.info(path).get("mtime_ns")
        if changed is None:
            return self.created(path)
        return datetime.fromtimestamp(changed / 1e9, tz=timezone.utc)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> io.BufferedReader:
        if mode != "rb":
            raise _read_only(f"opened with mode {mode!r}", path)
        parts = str(self._strip_protocol(path)).split("/")
        try:
            return self._step(parts).open("/".join(parts[2:]), trust_objects=self._trust_objects)
        except TensorNotFoundError as error:
            raise FileNotFoundError(str(error)) from error

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """The bytes of a file, or of a range of it; negative positions count from its end."""
        with self._open(path) as file:
            size = file.seek(0, io.SEEK_END)
            first, last, _ = slice(start, end).indices(size)
            file.seek(first)
            return file.read(max(0, last - first))

    def _step(self, parts: list[str]) -> Step:
        """The step of a path; kept while it is the newest generation."""
        if len(parts) < 2:
            raise FileNotFoundError("/".join(parts))
        try:
            found = self._store.step(parts[1], parts[0])
        except (StepNotFoundError, InvalidArgumentError) as error:
            raise FileNotFoundError(str(error)) from error
        return self._steps.setdefault(found.key, found)


def _split(url: str) -> tuple[str, str]:
    """The store and the path of a URL."""
    rest = url.removeprefix("deltackpt://")
    store, separator, path = rest.partition(_SEPARATOR)
    if not separator:
        store, separator, path = rest.removesuffix("!"), "!", ""
        if not rest.endswith("!"):
            raise InvalidArgumentError(
                "the URL does not say where its store ends", where=url, hint="write deltackpt://STORE!/BRANCH/STEP/FILE"
            )
    return store, path


def _folder(name: str) -> dict[str, Any]:
    return {"name": name, "size": 0, "type": "directory"}


def _file(name: str, size: int, sha256: str | None, mtime_ns: int | None) -> dict[str, Any]:
    return {"name": name, "size": size, "type": "file", "sha256": sha256, "mtime_ns": mtime_ns}
